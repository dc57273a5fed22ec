"""How far the provider scales: measured figures, and docs/scale.md computed from them."""

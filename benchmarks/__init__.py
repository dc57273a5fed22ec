"""Measurements that docs/benchmarks.md reports; each is its own program."""

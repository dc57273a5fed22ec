"""What a DAG author writes: an operator for each stage of a project's life."""

from __future__ import annotations

__all__: list[str] = []

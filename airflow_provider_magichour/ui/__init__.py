"""The view in Airflow: pictures and players. It is off until ``[magichour] view_roots`` is set."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_magichour.ui.plugin import MagicHourViewPlugin
    from airflow_provider_magichour.ui.review import review_body

__all__ = ["MagicHourViewPlugin", "review_body"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "plugin" if name == "MagicHourViewPlugin" else "review"
    return getattr(import_module(f"{__name__}.{module}"), name)

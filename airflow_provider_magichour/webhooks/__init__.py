"""
Magic Hour's webhooks become Airflow asset events, which start DAGs.

The receiver (``python -m airflow_provider_magichour.webhooks``) runs without Airflow, so this module does not
import it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_magichour.webhooks.plugin import MagicHourWebhooksPlugin
    from airflow_provider_magichour.webhooks.projects import (
        TriggeringProject,
        magichour_asset,
        queued_projects,
        triggering_projects,
    )

__all__ = [
    "MagicHourWebhooksPlugin",
    "TriggeringProject",
    "magichour_asset",
    "queued_projects",
    "triggering_projects",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "plugin" if name == "MagicHourWebhooksPlugin" else "projects"
    return getattr(import_module(f"{__name__}.{module}"), name)

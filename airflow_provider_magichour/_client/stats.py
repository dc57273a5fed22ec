"""Metrics, through Airflow's own ``Stats``: StatsD or OpenTelemetry. ``docs/metrics.md`` lists them."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from airflow_provider_magichour.exceptions import (
    MagicHourProjectCanceledError,
    MagicHourProjectFailedError,
    MagicHourRenderError,
    MagicHourTimeoutError,
)

log = logging.getLogger(__name__)

_OUTCOMES = {"error": "failed", "canceled": "canceled", "complete": "complete"}


def count(name: str, value: float = 1, **tags: str | None) -> None:
    """Add to a counter."""
    _emit("incr", name, value, tags)


def gauge(name: str, value: float, **tags: str | None) -> None:
    """Set a gauge."""
    _emit("gauge", name, value, tags)


def timing(name: str, seconds: float, **tags: str | None) -> None:
    """Record a duration; Airflow sends it in milliseconds."""
    _emit("timing", name, timedelta(seconds=seconds), tags)


def count_projects(kind: str | None, ends: Iterable[object], tool: str | None = None) -> None:
    """
    Count projects by how they ended.

    :param ends: a status, a project or an error for each. Errors that do not say how it ended do not count.
    """
    for end in ends:
        status = end.get("status") if isinstance(end, Mapping) else end
        outcome = _OUTCOMES.get(status) if isinstance(status, str) else None
        if isinstance(end, MagicHourProjectCanceledError):
            outcome = "canceled"
        elif isinstance(end, MagicHourProjectFailedError | MagicHourRenderError):
            outcome = "failed"
        elif isinstance(end, MagicHourTimeoutError):
            outcome = "timed_out"
        if outcome:
            count("projects", kind=kind, tool=tool, outcome=outcome)


def running_task() -> dict[str, str | None]:
    """Return the tags of the task that this process runs; empty in a triggerer or an API server."""
    from airflow.providers.common.compat.sdk import get_current_context

    try:
        context: Any = get_current_context()
        ti = context["ti"]
    except Exception:  # noqa: BLE001 - each Airflow raises an error of its own
        return {}
    return {"dag_id": ti.dag_id, "task_id": ti.task_id}


def _emit(method: str, name: str, value: object, tags: Mapping[str, str | None]) -> None:
    """Send a metric. If Airflow does not accept it, the task continues."""
    try:
        task = running_task()
        present = {tag: text for tag, text in {**tags, **task}.items() if text}
        getattr(_stats(bool(task)), method)(f"magichour.{name}", value, tags=present)
    except Exception as error:  # noqa: BLE001 - whatever its backend raises
        log.debug("The metric %s was not sent: %r", name, error)


def _stats(in_task: bool) -> Any:
    """Return the ``Stats`` that this process has set up: since Airflow 3.2 tasks have one of their own."""
    if in_task:
        from airflow.providers.common.compat.sdk import Stats

        return Stats
    try:
        return importlib.import_module("airflow.observability.stats").Stats
    except ImportError:
        return importlib.import_module("airflow.stats").Stats

"""When a task's wait ends: absolute, so that it survives restarts of whatever waits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

#: How long operators wait where no timeout is given, in seconds.
DEFAULT_TIMEOUT = 2 * 3600.0
#: How much later than the trigger's own deadline Airflow ends a deferral: its own end skips the resumed task.
DEFERRAL_MARGIN = 300.0


def started_at(context: Mapping[str, Any]) -> float:
    """
    Return when this try of the task started first, in unix seconds.

    Airflow keeps that time when the task resumes from a deferral; a retry starts anew.
    """
    start = getattr(context.get("ti"), "start_date", None)
    now = time.time()
    return min(start.timestamp(), now) if isinstance(start, datetime) else now


def deadline(started: float, timeout: float | None, execution_timeout: timedelta | None = None) -> float:
    """
    Return when to stop waiting, in unix seconds: after the shorter of both, counted from the start.

    Airflow does not watch ``execution_timeout`` while a task is deferred, so the wait does.

    :param started: when the task started, in unix seconds.
    :param timeout: seconds; :data:`DEFAULT_TIMEOUT` if None.
    :param execution_timeout: the task's own, if any.
    """
    limit = DEFAULT_TIMEOUT if timeout is None else timeout
    if isinstance(execution_timeout, timedelta):
        limit = min(limit, execution_timeout.total_seconds())
    return started + limit


def deferral_timeout(until: float) -> timedelta:
    """Return what to pass to ``defer(timeout=)`` for a trigger with this deadline."""
    return timedelta(seconds=max(until - time.time(), 0.0) + DEFERRAL_MARGIN)

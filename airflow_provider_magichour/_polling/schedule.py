"""The times of status checks and of deadlines, the same in every mode."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

#: Seconds between status checks if only the kind is known. Magic Hour recommends 2-3 (image, audio) and 5-10
#: (video).
FIRST_INTERVAL: Mapping[str, float] = {
    "image": 2.0,
    "audio": 2.0,
    "video": 6.0,
    "face detection": 2.0,
}
#: The interval as a share of the age, or of the typical duration if that is longer.
SHARE = 0.08
#: The longest interval, in seconds. It limits how late a task notices that a project is finished.
CAP = 9.5
#: The interval of very old projects as a share of their age, and the longest one in seconds.
OLD_SHARE, OLD_CAP = 0.01, 60.0
#: If the typical duration is known, there is no check before this share of it, because few projects finish
#: earlier...
EARLY_SHARE = 0.35
#: ...except one check in this many seconds, because Magic Hour may have become faster.
EARLY_CAP = 120.0
#: The share by which the interval varies at random.
JITTER = 0.05
#: The shortest interval in seconds, adaptive or fixed, unless less time is left.
FLOOR = MIN_POLL_INTERVAL = 1.0
#: The last check is this many seconds before the deadline, so that its response can still arrive.
LAST_CHECK = 1.0
#: The longest pause after failed checks, in seconds.
BACKOFF_CAP = 60.0
#: A project that seems older than this, in seconds, has a wrong ``created_at`` and counts as new.
OLDEST = 7 * 24 * 3600.0


def next_delay(
    kind: str,
    typical_seconds: float | None,
    age: float,
    time_left: float,
    draw: float,
    *,
    poll_interval: float | None = None,
) -> float:
    """
    Return the seconds until the next status check of a project that is not finished.

    The interval grows with the age. If the typical duration is known, the first check is at the time when the
    project is likely to finish. The last check is shortly before the deadline.

    :param kind: ``image``, ``video``, ``audio`` or ``face detection``.
    :param typical_seconds: the median duration of such projects, None if it is not known.
    :param age: seconds since the project was made.
    :param time_left: seconds until the deadline.
    :param draw: a random number from 0 to 1.
    :param poll_interval: a fixed interval instead.
    """
    age = min(max(age, 0.0), OLDEST)
    if poll_interval is None:
        jitter = 1 - JITTER + 2 * JITTER * draw
        delay = max(FLOOR, _interval(kind, typical_seconds, age) * jitter)
    else:
        delay = max(MIN_POLL_INTERVAL, poll_interval)
    return before_deadline(delay, time_left)


def _interval(kind: str, typical_seconds: float | None, age: float) -> float:
    if typical_seconds is None:
        interval = max(FIRST_INTERVAL.get(kind, FIRST_INTERVAL["video"]), SHARE * age)
    else:
        until_likely = EARLY_SHARE * typical_seconds - age
        if until_likely > FIRST_INTERVAL["image"]:
            return min(until_likely, EARLY_CAP)
        interval = max(FIRST_INTERVAL["image"], SHARE * max(typical_seconds, age))
    return max(min(interval, CAP), min(OLD_SHARE * age, OLD_CAP))


def before_deadline(delay: float, time_left: float) -> float:
    """Return the delay, shortened so that the last check comes just before the deadline, not after it."""
    if delay < time_left - LAST_CHECK:
        return delay
    if time_left > 2 * LAST_CHECK:
        return time_left - LAST_CHECK
    return max(min(delay, time_left), 0.0)


def backoff(delay: float, failures: int, retry_after: float | None = None) -> float:
    """
    Return the pause after failed checks. It doubles with each failure, up to a limit.

    :param delay: the delay after a successful check, with jitter.
    :param failures: how many checks in a row failed, 1 at least.
    :param retry_after: the seconds that the response requested, which are the minimum.
    """
    grown = max(delay, min(delay * 2.0 ** min(failures - 1, 30), BACKOFF_CAP))
    return max(grown, retry_after or 0.0)


def created_at(project: Mapping[str, object]) -> float | None:
    """Return when a project was created, in unix seconds, or None if it cannot be read."""
    value = project.get("created_at")
    if not isinstance(value, str):
        return None
    try:
        when = datetime.fromisoformat(value)
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    return seconds if math.isfinite(seconds) else None


#: The default timeout of operators, in seconds.
DEFAULT_TIMEOUT = 2 * 3600.0

#: How much later than the trigger's own deadline Airflow ends a deferral. The trigger should end first.
DEFERRAL_MARGIN = 300.0
#: How much earlier than ``execution_timeout`` a wait on a worker ends: this share of it, up to so many
#: seconds.
MARGIN_SHARE, MAX_MARGIN = 0.1, timedelta(seconds=15)


def started_at(context: Mapping[str, Any]) -> float:
    """
    Return when this try of the task started, in unix seconds.

    Airflow keeps this time when the task resumes after a deferral. A retry has a new one.
    """
    start = getattr(context.get("ti"), "start_date", None)
    now = time.time()
    return min(start.timestamp(), now) if isinstance(start, datetime) else now


def deadline(started: float, timeout: float | None, execution_timeout: timedelta | None = None) -> float:
    """
    Return when to stop waiting, in unix seconds: after the shorter of both times, from the start.

    Airflow does not enforce ``execution_timeout`` while a task is deferred, so the wait does.

    :param started: when the task started, in unix seconds.
    :param timeout: seconds; :data:`DEFAULT_TIMEOUT` if None.
    """
    limit = DEFAULT_TIMEOUT if timeout is None else timeout
    if isinstance(execution_timeout, timedelta):
        limit = min(limit, execution_timeout.total_seconds())
    return started + limit


def worker_deadline(started: float, timeout: float | None, execution_timeout: timedelta | None) -> float:
    """
    Return when to stop waiting on a worker: shortly before Airflow ends the task (``execution_timeout``).

    The last check and the error are then the same as in a trigger.

    :param started: when the task started, in unix seconds.
    :param timeout: seconds; :data:`DEFAULT_TIMEOUT` if None.
    """
    if isinstance(execution_timeout, timedelta):
        execution_timeout -= min(MAX_MARGIN, execution_timeout * MARGIN_SHARE)
    return deadline(started, timeout, execution_timeout)


def deferral_timeout(until: float) -> timedelta:
    """Return what to pass to ``defer(timeout=)`` for a trigger with this deadline."""
    return timedelta(seconds=max(until - time.time(), 0.0) + DEFERRAL_MARGIN)

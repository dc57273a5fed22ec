"""When the status of a project is checked next, and when a task stops waiting; the same in every mode."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

#: Seconds between status checks where only the kind is known; Magic Hour advises 2-3 (image, audio) and 5-10
#: (video).
FIRST_INTERVAL: Mapping[str, float] = {
    "image": 2.0,
    "audio": 2.0,
    "video": 6.0,
    "face detection": 2.0,
}
#: The interval as a share of the age, or of the typical duration where that is more.
SHARE = 0.08
#: The upper end of the interval, in seconds: what bounds how late a finish is noticed.
CAP = 9.5
#: The interval of very old projects as a share of their age, and its upper end in seconds.
OLD_SHARE, OLD_CAP = 0.01, 60.0
#: Where the typical duration is known: no check before this share of it, because few projects finish
#: earlier...
EARLY_SHARE = 0.35
#: ...but one at least this often, in seconds, because Magic Hour may have become faster.
EARLY_CAP = 120.0
#: How far a draw of randomness moves the interval, up or down.
JITTER = 0.05
#: No adaptive interval is shorter, in seconds, and no fixed one either, unless less time is left.
FLOOR = MIN_POLL_INTERVAL = 1.0
#: The last check comes this long before the deadline, in seconds, so that its response can still arrive.
LAST_CHECK = 1.0
#: The longest pause after failed checks, in seconds.
BACKOFF_CAP = 60.0
#: A project that seems older than this, in seconds, more likely has a wrong ``created_at``: it counts as new.
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

    The interval grows with age; where the typical duration is known, the first check waits for the time when
    a finish becomes likely. The last check comes shortly before the deadline.

    :param kind: ``image``, ``video``, ``audio`` or ``face detection``.
    :param typical_seconds: the median duration of such projects, None where it is not known.
    :param age: seconds since the project was made.
    :param time_left: seconds until the deadline.
    :param draw: a random number from 0 to 1.
    :param poll_interval: a fixed interval, instead of all this.
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
    Return the pause after failed checks: twice as long after each, with an upper end.

    :param delay: the delay after a check that did not fail, jittered.
    :param failures: how many checks in a row failed, 1 at least.
    :param retry_after: what the response asked for, waited for at least.
    """
    grown = max(delay, min(delay * 2.0 ** min(failures - 1, 30), BACKOFF_CAP))
    return max(grown, retry_after or 0.0)


def created_at(project: Mapping[str, object]) -> float | None:
    """Return when a project was made, in unix seconds, None where it does not say so readably."""
    value = project.get("created_at")
    if not isinstance(value, str):
        return None
    try:
        when = datetime.fromisoformat(value)
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    return seconds if math.isfinite(seconds) else None


#: How long operators wait where no timeout is given, in seconds.
DEFAULT_TIMEOUT = 2 * 3600.0

#: How much later than the trigger's own deadline Airflow ends a deferral: its own end skips the resumed task.
DEFERRAL_MARGIN = 300.0
#: How much sooner than ``execution_timeout`` a wait on a worker ends: this share of it, and at most so long.
MARGIN_SHARE, MAX_MARGIN = 0.1, timedelta(seconds=15)


def started_at(context: Mapping[str, Any]) -> float:
    """
    Return when this try of the task started first, in unix seconds.

    Airflow keeps that time when the task resumes from a deferral; a retry starts again.
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


def worker_deadline(started: float, timeout: float | None, execution_timeout: timedelta | None) -> float:
    """
    Return when to stop waiting on a worker: a little before Airflow's own end of ``execution_timeout``.

    So the last check and the error are the wait's own, the same as in a trigger.

    :param started: when the task started, in unix seconds.
    :param timeout: seconds; :data:`DEFAULT_TIMEOUT` if None.
    :param execution_timeout: the task's own, if any.
    """
    if isinstance(execution_timeout, timedelta):
        execution_timeout -= min(MAX_MARGIN, execution_timeout * MARGIN_SHARE)
    return deadline(started, timeout, execution_timeout)


def deferral_timeout(until: float) -> timedelta:
    """Return what to pass to ``defer(timeout=)`` for a trigger with this deadline."""
    return timedelta(seconds=max(until - time.time(), 0.0) + DEFERRAL_MARGIN)

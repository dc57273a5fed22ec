"""When to look at a project next: one pure function, the same for every way of waiting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

#: Seconds between looks where only the kind is known; Magic Hour advises 2-3 (image, audio) and 5-10 (video).
FIRST_INTERVAL: Mapping[str, float] = {"image": 2.5, "audio": 2.5, "video": 8.0}
#: The interval as a share of the age, or of the usual duration where that is more.
SHARE = 0.08
#: The usual upper end of the interval, in seconds: what bounds how late a finish is seen.
CAP = 9.5
#: The interval of very old projects as a share of their age, and its upper end in seconds.
OLD_SHARE, OLD_CAP = 0.01, 60.0
#: Where the usual duration is known: no look before this share of it, because few projects finish earlier...
EARLY_SHARE = 0.35
#: ...but one at least this often, in seconds, because Magic Hour may have become faster.
EARLY_CAP = 120.0
#: How far a draw of randomness moves the interval, up or down.
JITTER = 0.05
#: No interval is shorter, in seconds, unless ``poll_interval`` is, or less time is left.
FLOOR = 1.0
#: The last look comes this long before the deadline, in seconds, so that its answer can still arrive.
LAST_LOOK = 1.0
#: The longest pause after failed looks, in seconds.
BACKOFF_CAP = 60.0
#: A project that seems older than this, in seconds, more likely has a wrong ``created_at``: it counts as new.
OLDEST = 7 * 24 * 3600.0


def next_delay(
    kind: str,
    usual_seconds: float | None,
    age: float,
    time_left: float,
    draw: float,
    *,
    poll_interval: float | None = None,
) -> float:
    """
    Return the seconds until the next look at a project that is not finished.

    The interval grows with age; where the usual duration is known, the first look waits for the time when
    a finish becomes likely. The last look comes shortly before the deadline, none after it.

    :param kind: ``image``, ``video`` or ``audio``.
    :param usual_seconds: the median duration of such projects, None where it is not known.
    :param age: seconds since the project was made.
    :param time_left: seconds until the deadline.
    :param draw: a random number from 0 to 1.
    :param poll_interval: a fixed interval, instead of all this.
    """
    age = min(max(age, 0.0), OLDEST)
    if poll_interval is None:
        jitter = 1 - JITTER + 2 * JITTER * draw
        delay = max(FLOOR, _interval(kind, usual_seconds, age) * jitter)
    else:
        delay = poll_interval
    return before_deadline(delay, time_left)


def _interval(kind: str, usual_seconds: float | None, age: float) -> float:
    if usual_seconds is None:
        interval = max(FIRST_INTERVAL.get(kind, FIRST_INTERVAL["video"]), SHARE * age)
    else:
        until_likely = EARLY_SHARE * usual_seconds - age
        if until_likely > FIRST_INTERVAL["image"]:
            return min(until_likely, EARLY_CAP)
        interval = max(FIRST_INTERVAL["image"], SHARE * max(usual_seconds, age))
    return max(min(interval, CAP), min(OLD_SHARE * age, OLD_CAP))


def before_deadline(delay: float, time_left: float) -> float:
    """Return the delay, shortened so that the last look comes just before the deadline, and none after it."""
    if delay < time_left - LAST_LOOK:
        return delay
    if time_left > 2 * LAST_LOOK:
        return time_left - LAST_LOOK
    return max(min(delay, time_left), 0.0)


def backoff(delay: float, failures: int, retry_after: float | None = None) -> float:
    """
    Return the pause after failed looks: twice as long after each, with an upper end.

    :param delay: the delay after a look that did not fail, jittered.
    :param failures: how many looks in a row failed, 1 at least.
    :param retry_after: what the answer asked for, waited for at least.
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

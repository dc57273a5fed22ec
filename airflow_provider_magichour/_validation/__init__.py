"""Checks of arguments before anything is sent. Each error names the argument and what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from airflow_provider_magichour.exceptions import MagicHourArgumentError

T = TypeVar("T")

#: What ``str(timedelta)`` gives.
_TIMEDELTA = r"\s*(?:([0-9]{1,6}) days?)?(?:(?:^|, )([0-9]{1,2}):([0-9]{2}):([0-9]{2}(?:\.[0-9]{1,6})?))?\s*"
#: What to do if a template turned a list or an object into text.
NATIVE_HINT = (
    "Where it is a template, set render_template_as_native_obj=True in the DAG, or pass the task's output"
)


def argument_error(message: str) -> MagicHourArgumentError:
    """Return the error of a wrong argument. The class is imported only now, for fast parsing of DAG files."""
    from airflow_provider_magichour.exceptions import MagicHourArgumentError

    return MagicHourArgumentError(message)


def is_many(value: object) -> bool:
    """Return whether an argument that accepts a single value or a list is a list."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def is_settled(value: Any) -> bool:
    """Return whether an argument contains no template, so that it can be checked before the task runs."""
    if isinstance(value, str):
        return "{{" not in value and "{%" not in value
    if isinstance(value, Mapping):
        return all(is_settled(each) for each in value.values())
    if isinstance(value, list | tuple):
        return all(is_settled(each) for each in value)
    # Airflow may resolve anything but JSON at run time
    return value is None or isinstance(value, bool | int | float | timedelta)


def optional(check: Callable[[object, str], T], value: object, name: str) -> T | None:
    """Return the result of a check; None for None, and for its text from a template."""
    if value is None or (isinstance(value, str) and value.strip() in {"", "None"}):
        return None
    return check(value, name)


def check_seconds(value: object, name: str) -> float:
    """
    Return a time span in seconds from a number or a ``timedelta``, or from their text.

    :raises MagicHourArgumentError: if it is not a finite time above zero.
    """
    span = _timedelta_of_text(value) if isinstance(value, str) else value
    seconds = span.total_seconds() if isinstance(span, timedelta) else _number(value)
    if not 0 < seconds < math.inf:
        raise argument_error(
            f"{name} must be a number of seconds above 0 or a timedelta, not {_short(value)}"
        )
    return seconds


def check_delay(value: object, name: str) -> float:
    """
    Return a time span in seconds as :func:`check_seconds` does, but allow zero.

    :raises MagicHourArgumentError: if it is not a finite time of zero or more.
    """
    is_zero = not isinstance(value, bool) and str(value).strip() in {"0", "0.0", "0:00:00"}
    return 0.0 if is_zero else check_seconds(value, name)


def check_number(value: object, name: str) -> float:
    """
    Return a finite number above zero, also from its text.

    :raises MagicHourArgumentError: if it is not one.
    """
    number = _number(value)
    if not 0 < number < math.inf:
        raise argument_error(f"{name} must be a number above 0, not {_short(value)}")
    return number


def check_count(value: object, name: str) -> int:
    """
    Return a whole number above zero, also from its text.

    :raises MagicHourArgumentError: if it is not one.
    """
    number = _number(value)
    if not (0 < number < math.inf and number == int(number)):
        raise argument_error(f"{name} must be a whole number above 0, not {_short(value)}")
    return int(number)


def check_bool(value: object, name: str) -> bool:
    """
    Return a truth value, also from its text.

    :raises MagicHourArgumentError: if it is none: then it is not clear what was meant.
    """
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise argument_error(f"{name} must be True or False, not {_short(value)}")
    return value


def check_age(value: object) -> timedelta:
    """
    Return a time span, also from its text.

    :raises MagicHourArgumentError: if it is not a timedelta of zero or more.
    """
    age = _timedelta_of_text(value) if isinstance(value, str) else value
    if not isinstance(age, timedelta) or age < timedelta(0):
        raise argument_error(
            f"older_than must be a timedelta of zero or more, such as timedelta(days=30), not {_short(value)}"
        )
    if age > timedelta(days=365 * 1000):
        raise argument_error(f"older_than must be less than 1,000 years, not {_short(value)}")
    return age


def _timedelta_of_text(text: str) -> timedelta | None:
    match = re.fullmatch(_TIMEDELTA, text)
    if not match or not text.strip():
        return None
    days, hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def _number(value: object) -> float:
    """Return a number, also from its text; NaN if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _short(value: object) -> str:
    return repr(value)[:100]

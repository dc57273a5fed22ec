"""Checks of what a user passes in: each names the argument and the cure, before anything is sent."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_magichour.exceptions import (
    MagicHourArgumentError,
)

if TYPE_CHECKING:
    pass

#: What a project id may look like: one path segment that no server, proxy or file system reads as another.
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}", re.ASCII)


def check_id(value: object, name: str = "project_id") -> str:
    """
    Return the id, if it is one.

    :raises MagicHourArgumentError: for anything but 1 to 128 letters, digits, ``-``, ``_`` and ``.``,
        so that no id can reach another route or folder.
    """
    if not isinstance(value, str) or not value.strip():
        raise MagicHourArgumentError(
            f"{name} must be a Magic Hour id such as 'cm9x1y2z30001', not {value!r}; "
            "where it comes from XCom, check that the task before it returned one"
        )
    if not _ID.fullmatch(value):
        raise MagicHourArgumentError(
            f"{name} {value[:200]!r} is not a Magic Hour id: "
            "it may hold letters, digits, '-', '_' and '.', 128 at most, and not start with '.'"
        )
    return value


def check_ids(value: object, name: str = "project_id") -> list[str]:
    """
    Return one id or a list of ids as a list.

    :raises MagicHourArgumentError: if one of them is not an id.
    """
    if isinstance(value, str) or not isinstance(value, Iterable) or isinstance(value, Mapping | bytes):
        return [check_id(value, name)]
    return [check_id(item, f"{name}[{position}]") for position, item in enumerate(value)]


def check_some_ids(value: object, name: str = "project_id") -> list[str]:
    """
    Return one id or a list of ids as a list, as :func:`check_ids` does.

    :raises MagicHourArgumentError: if one of them is not an id, or there is none.
    """
    ids = check_ids(value, name)
    if not ids:
        raise MagicHourArgumentError(
            f"{name} is an empty list: there is nothing to wait for; "
            "where it comes from XCom, check that the task before it returned projects"
        )
    return ids


def is_many(value: object) -> bool:
    """Tell whether an argument that takes one thing or a list of them was given a list."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def check_body(value: object, name: str = "body") -> dict[str, Any]:
    """
    Return a create call's body, if it is a JSON object.

    :raises MagicHourArgumentError: if it is not a dict, or cannot be sent as JSON.
    """
    if not isinstance(value, dict):
        raise MagicHourArgumentError(
            f"{name} must be a dict, the JSON object of the create call, not {type(value).__name__}"
        )
    check_json(value, name)
    return cast("dict[str, Any]", value)


def check_json(value: object, name: str = "json") -> None:
    """
    Check that something can be sent as JSON.

    :raises MagicHourArgumentError: if it cannot.
    """
    try:
        json.dumps(value, allow_nan=False, sort_keys=True)  # sorted, as durable.fingerprint does it
    except (TypeError, ValueError, RecursionError) as error:
        raise MagicHourArgumentError(f"{name} cannot be sent as JSON: {error}") from error


def check_seconds(value: object, name: str) -> float:
    """
    Return a number of seconds above zero.

    :raises MagicHourArgumentError: if it is not a finite number above zero.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value <= 0
    ):
        raise MagicHourArgumentError(f"{name} must be a number of seconds above 0, not {value!r}")
    return float(value)


def check_count(value: object, name: str) -> int:
    """
    Return a whole number above zero.

    :raises MagicHourArgumentError: if it is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise MagicHourArgumentError(f"{name} must be a whole number above 0, not {value!r}")
    return value


def check_age(value: object) -> timedelta:
    """
    Return a time span, also from what a template made of one.

    :raises MagicHourArgumentError: if it is not a timedelta of zero or more.
    """
    age = _age_of_text(value) if isinstance(value, str) else value
    if not isinstance(age, timedelta) or age < timedelta(0):
        raise MagicHourArgumentError(
            f"older_than must be a timedelta of zero or more, such as timedelta(days=30), not {value!r}"
        )
    if age > timedelta(days=365 * 1000):
        raise MagicHourArgumentError(f"older_than must be less than 1,000 years, not {value!r}")
    return age


def _age_of_text(text: str) -> timedelta | None:
    match = re.fullmatch(
        r"\s*(?:(\d{1,6}) days?)?(?:(?:^|, )(\d{1,2}):(\d{2}):(\d{2})(?:\.\d+)?)?\s*", text, re.ASCII
    )
    if not match or not text.strip():
        return None
    days, hours, minutes, seconds = (int(group or 0) for group in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def check_dry_run(value: object) -> bool:
    """
    Return a truth value, also from what a template made of one.

    :raises MagicHourArgumentError: if it is none: nobody can tell then whether to delete.
    """
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise MagicHourArgumentError(f"dry_run must be True or False, not {value!r}")
    return value


def check_limit(value: object) -> int | None:
    """
    Return a limit, also from what a template made of one.

    :raises MagicHourArgumentError: if it is neither None nor a whole number above zero.
    """
    if value is None or (isinstance(value, str) and value.strip() in {"", "None"}):
        return None
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value, re.ASCII):
        value = int(value)
    return check_count(value, "limit")


def check_bodies(body: object) -> list[dict[str, Any]]:
    """
    Return one body or a list of bodies as a list.

    :raises MagicHourArgumentError: if one is no JSON object, or there is none.
    """
    if isinstance(body, str):
        raise MagicHourArgumentError(
            "body must be a dict, the JSON object of the create call, or a list of them, not a str. Where it "
            "is a template, set render_template_as_native_obj=True in the DAG, or pass the task's output"
        )
    if not isinstance(body, str) and is_many(body):
        bodies = [check_body(one, f"body[{position}]") for position, one in enumerate(body)]  # type: ignore[var-annotated, arg-type]
        if not bodies:
            raise MagicHourArgumentError("body is an empty list, so there is nothing to submit")
        return bodies
    return [check_body(body)]

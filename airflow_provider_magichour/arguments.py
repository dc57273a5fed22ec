"""Checks of what a user passes in: each names the argument and the cure, before anything is sent."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from airflow_provider_magichour.exceptions import MagicHourArgumentError

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

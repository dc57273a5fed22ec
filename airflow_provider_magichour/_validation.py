"""Checks of what a user passes in: each names the argument and the cure, before anything is sent."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeVar, cast

from airflow_provider_magichour.exceptions import MagicHourArgumentError
from airflow_provider_magichour.tools import Kind, check_kind

T = TypeVar("T")

#: What a project id may look like: one path segment that no server, proxy or file system reads as another.
_ID = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}"
#: What ``str(timedelta)`` gives.
_TIMEDELTA = r"\s*(?:([0-9]{1,6}) days?)?(?:(?:^|, )([0-9]{1,2}):([0-9]{2}):([0-9]{2}(?:\.[0-9]{1,6})?))?\s*"
#: The cure for a list or an object that a template made into text.
NATIVE_HINT = (
    "Where it is a template, set render_template_as_native_obj=True in the DAG, or pass the task's output"
)
MISSING_XCOM_HINT = (
    "where it comes from XCom, check that the task before it returned one, and its task id: "
    "inside a TaskGroup it has the group's prefix, as in 'group.task'"
)


def is_many(value: object) -> bool:
    """Return whether an argument that takes one thing or a list of them was given a list."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def is_settled(value: Any) -> bool:
    """Return whether an argument holds no template, so that it can be checked before the task runs."""
    if isinstance(value, str):
        return "{{" not in value and "{%" not in value
    if isinstance(value, Mapping):
        return all(is_settled(each) for each in value.values())
    if isinstance(value, list | tuple):
        return all(is_settled(each) for each in value)
    # anything but JSON may be what Airflow resolves at run time
    return value is None or isinstance(value, bool | int | float | timedelta)


# ------------------------------------------------------------------------------------------ ids and kinds


def check_id(value: object, name: str = "project_id") -> str:
    """
    Return the id, if it is one.

    :raises MagicHourArgumentError: for anything but 1 to 128 letters, digits, ``-``, ``_`` and ``.``,
        so that no id can reach another route or folder; and for the texts ``None`` and ``null``, which a
        template makes of a missing XCom. The message never holds more of the value than an id has.
    """
    if isinstance(value, str) and re.fullmatch(_ID, value) and value.lower() not in {"none", "null"}:
        return value
    if value is None or (isinstance(value, str) and value.strip().lower() in {"", "none", "null"}):
        raise MagicHourArgumentError(
            f"{name} must be a Magic Hour id such as 'cm9x1y2z30001', not {value!r}: its XCom is missing; "
            f"{MISSING_XCOM_HINT}"
        )
    if isinstance(value, str) and re.match(r"\s*[\[{(]", value):
        raise MagicHourArgumentError(
            f"{name} must be a Magic Hour id such as 'cm9x1y2z30001', not the text of a list or an object. "
            f"{NATIVE_HINT}"
        )
    if isinstance(value, str):
        shown = repr(re.split(r"[?&=\s]", value.strip())[0][:128])
        raise MagicHourArgumentError(
            f"{name} {shown} is not a Magic Hour id: "
            "it may hold letters, digits, '-', '_' and '.', 128 at most, and not start with '.'"
        )
    raise MagicHourArgumentError(
        f"{name} must be a Magic Hour id such as 'cm9x1y2z30001', not a value of type {type(value).__name__}"
    )


def check_ids(value: object, name: str = "project_id") -> list[str]:
    """
    Return one id or a list of ids as a list.

    :raises MagicHourArgumentError: if one of them is not an id.
    """
    if not is_many(value):
        return [check_id(value, name)]
    return [
        check_id(item, f"{name}[{position}]") for position, item in enumerate(cast("Iterable[object]", value))
    ]


class ProjectIds:
    """
    The projects that an argument names.

    :param ids: their ids, in order.
    :param kind: the kind of all of them; empty only for an empty list without a kind.
    :param is_list: whether the argument was a list, so that the result is one, too.
    """

    def __init__(self, ids: list[str], kind: Kind, is_list: bool) -> None:
        self.ids = ids
        self.kind: Kind = kind
        self.is_list = is_list


def read_projects(value: object, kind: object = None, name: str = "project_id") -> ProjectIds:
    """
    Return the ids, and the kind, of the projects that an argument names.

    :param value: an id; a mapping that names a project, such as what the operators, the sensor and
        ``triggering_projects`` return; or a list of them, mapped XComs included.
    :param kind: the kind that the user gave, None where the value names it.
    :param name: the argument's name, for messages.
    :raises MagicHourArgumentError: if there is something else than a project, if the value and ``kind``
        contradict each other, or if neither names the kind. The message names ids and types, no values.
    """
    is_list = is_many(value)
    items = list(cast("Iterable[object]", value)) if is_list else [value]
    known = None if kind is None else check_kind(kind)
    ids: list[str] = []
    for position, item in enumerate(items):
        item_name = f"{name}[{position}]" if is_list else name
        project_id, own_kind = _id_and_kind(item, item_name)
        ids.append(project_id)
        if own_kind and known and own_kind != known:
            other = (
                f"kind={kind!r}"
                if kind is not None
                else f"{known} projects before it: pass one kind at a time"
            )
            raise MagicHourArgumentError(
                f"{item_name} is the {own_kind} project {project_id}, against {other}"
            )
        known = known or own_kind
    if ids and known is None:
        raise MagicHourArgumentError(
            f"kind must be given ('image', 'video' or 'audio'), because it does not follow from {name}"
        )
    return ProjectIds(ids, known or cast("Kind", ""), is_list)


def _id_and_kind(value: object, name: str) -> tuple[str, Kind | None]:
    """Return what a value says of a project: its id, and its kind where it names one."""
    if not isinstance(value, Mapping):
        return check_id(value, name), None
    project = value if "id" in value else value.get("project")
    if not isinstance(project, Mapping) or "id" not in project:
        raise MagicHourArgumentError(f"{name} names no project: it is a mapping without an 'id'")
    kind = project.get("kind", value.get("kind"))
    return (
        check_id(project["id"], f"{name}['id']"),
        None if kind is None else check_kind(kind, f"{name}['kind']"),
    )


def check_projects_at_parse(value: object, kind: object, name: str = "project_id") -> None:
    """
    Check, when a DAG is parsed, what no template and no XCom can change.

    :raises MagicHourArgumentError: as :func:`read_projects` does.
    """
    if is_settled(value) and (kind is None or is_settled(kind)):
        read_projects(value, kind, name)
    elif kind is not None and is_settled(kind):
        check_kind(kind)


# ------------------------------------------------------------------------------------------------- bodies


def check_body(value: object, name: str = "body") -> dict[str, Any]:
    """
    Return a create call's body, if it is a dict; whether it can be sent shows when it is encoded.

    :raises MagicHourArgumentError: if it is not a dict.
    """
    if not isinstance(value, dict):
        hint = f". {NATIVE_HINT}" if isinstance(value, str) else ""
        raise MagicHourArgumentError(
            f"{name} must be a dict, the JSON object of the create call, not {type(value).__name__}{hint}"
        )
    return cast("dict[str, Any]", value)


def encode_json(value: object, name: str = "json") -> bytes:
    """
    Return a value as JSON, its keys sorted, so that equal values are equal bytes; a path becomes text.

    :raises MagicHourArgumentError: if it cannot be JSON.
    """
    try:
        return json.dumps(value, allow_nan=False, sort_keys=True, default=os.fspath).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise MagicHourArgumentError(f"{name} cannot be sent as JSON: {error}") from error


def check_bodies(body: object, *, encode: bool = True) -> list[dict[str, Any]]:
    """
    Return one body or a list of bodies as a list.

    :param encode: whether to find out now if they can be sent as JSON.
    :raises MagicHourArgumentError: if one is no JSON object.
    """
    named = (
        [(f"body[{position}]", one) for position, one in enumerate(cast("Iterable[object]", body))]
        if is_many(body)
        else [("body", body)]
    )
    bodies = [check_body(one, name) for name, one in named]
    for name, one in named if encode else ():
        encode_json(one, name)
    return bodies


# -------------------------------------------------------------------------------- numbers, times, truth


def optional(check: Callable[[object, str], T], value: object, name: str) -> T | None:
    """Return what a check returns; None for None, also where a template made it a text."""
    if value is None or (isinstance(value, str) and value.strip() in {"", "None"}):
        return None
    return check(value, name)


def check_seconds(value: object, name: str) -> float:
    """
    Return a time span in seconds: from a number or a ``timedelta``, also from what a template made of one.

    :raises MagicHourArgumentError: if it is not a finite time above zero.
    """
    span = _timedelta_of_text(value) if isinstance(value, str) else value
    seconds = span.total_seconds() if isinstance(span, timedelta) else _number(value)
    if not 0 < seconds < math.inf:
        raise MagicHourArgumentError(
            f"{name} must be a number of seconds above 0 or a timedelta, not {_short(value)}"
        )
    return seconds


def check_delay(value: object, name: str) -> float:
    """
    Return a time span in seconds as :func:`check_seconds` does; zero is one, too.

    :raises MagicHourArgumentError: if it is not a finite time of zero or more.
    """
    is_zero = not isinstance(value, bool) and str(value).strip() in {"0", "0.0", "0:00:00"}
    return 0.0 if is_zero else check_seconds(value, name)


def check_number(value: object, name: str) -> float:
    """
    Return a finite number above zero, also from what a template made of one.

    :raises MagicHourArgumentError: if it is not one.
    """
    number = _number(value)
    if not 0 < number < math.inf:
        raise MagicHourArgumentError(f"{name} must be a number above 0, not {_short(value)}")
    return number


def check_count(value: object, name: str) -> int:
    """
    Return a whole number above zero, also from what a template made of one.

    :raises MagicHourArgumentError: if it is not one.
    """
    number = _number(value)
    if not (0 < number < math.inf and number == int(number)):
        raise MagicHourArgumentError(f"{name} must be a whole number above 0, not {_short(value)}")
    return int(number)


def check_bool(value: object, name: str) -> bool:
    """
    Return a truth value, also from what a template made of one.

    :raises MagicHourArgumentError: if it is none: nobody can say then what was meant.
    """
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise MagicHourArgumentError(f"{name} must be True or False, not {_short(value)}")
    return value


def check_age(value: object) -> timedelta:
    """
    Return a time span, also from what a template made of one.

    :raises MagicHourArgumentError: if it is not a timedelta of zero or more.
    """
    age = _timedelta_of_text(value) if isinstance(value, str) else value
    if not isinstance(age, timedelta) or age < timedelta(0):
        raise MagicHourArgumentError(
            f"older_than must be a timedelta of zero or more, such as timedelta(days=30), not {_short(value)}"
        )
    if age > timedelta(days=365 * 1000):
        raise MagicHourArgumentError(f"older_than must be less than 1,000 years, not {_short(value)}")
    return age


def _timedelta_of_text(text: str) -> timedelta | None:
    match = re.fullmatch(_TIMEDELTA, text)
    if not match or not text.strip():
        return None
    days, hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def _number(value: object) -> float:
    """Return a number, also of a text; NaN for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _short(value: object) -> str:
    return repr(value)[:100]

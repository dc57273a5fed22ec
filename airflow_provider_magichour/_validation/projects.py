"""Checks of project ids and kinds in arguments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

from airflow_provider_magichour._validation import NATIVE_HINT, is_many
from airflow_provider_magichour.exceptions import MagicHourArgumentError
from airflow_provider_magichour.tools import Kind, check_kind

#: The form of a project id: one path segment that servers, proxies and file systems do not change.
_ID = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}"
MISSING_XCOM_HINT = (
    "where it comes from XCom, check that the task before it returned one, and its task id: "
    "inside a TaskGroup it has the group's prefix, as in 'group.task'"
)


def check_id(value: object, name: str = "project_id") -> str:
    """
    Check and return a project id.

    :raises MagicHourArgumentError: for anything but 1 to 128 letters, digits, ``-``, ``_`` and ``.``, so that
        an id cannot lead to another route or folder. Also for the texts ``None`` and ``null``, which a
        template makes from a missing XCom. The message never contains more of the value than the length of an
        id.
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
            "it may contain letters, digits, '-', '_' and '.', 128 at most, and not start with '.'"
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


class ProjectIds(NamedTuple):
    """
    The projects of an argument.

    :param ids: their ids, in order.
    :param kind: the kind of all of them; empty only for an empty list without a kind.
    :param is_list: whether the argument was a list, so that the result is one, too.
    """

    ids: list[str]
    kind: Kind
    is_list: bool


def read_projects(value: object, kind: object = None) -> ProjectIds:
    """
    Return the ids and the kind of the projects of an argument.

    :param value: an id; a mapping with an id, such as the result of an operator, of the sensor or of
        ``triggering_projects``; or a list of them, also mapped XComs.
    :param kind: the kind from the user, None if the value contains it.
    :raises MagicHourArgumentError: if a value is not a project, if the value and ``kind`` contradict each
        other, or if neither contains the kind. The message contains ids and types, but no other values.
    """
    is_list = is_many(value)
    items = list(cast("Iterable[object]", value)) if is_list else [value]
    known = None if kind is None else check_kind(kind)
    ids: list[str] = []
    for position, item in enumerate(items):
        name = f"project_id[{position}]" if is_list else "project_id"
        project_id, own_kind = _id_and_kind(item, name)
        ids.append(project_id)
        if own_kind and known and own_kind != known:
            other = (
                f"kind={kind!r}"
                if kind is not None
                else f"{known} projects before it: pass one kind at a time"
            )
            raise MagicHourArgumentError(f"{name} is the {own_kind} project {project_id}, against {other}")
        known = known or own_kind
    if ids and known is None:
        raise MagicHourArgumentError(
            "kind must be given ('image', 'video' or 'audio'), because it does not follow from project_id"
        )
    return ProjectIds(ids, known or cast("Kind", ""), is_list)


def _id_and_kind(value: object, name: str) -> tuple[str, Kind | None]:
    """Return the id of a project in a value, and its kind if the value contains it."""
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

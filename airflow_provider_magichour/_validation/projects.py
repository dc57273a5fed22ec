"""Checks of the projects that an argument names: their ids and kinds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import cast

from airflow_provider_magichour._validation import NATIVE_HINT, is_many
from airflow_provider_magichour.exceptions import MagicHourArgumentError
from airflow_provider_magichour.tools import Kind, check_kind

#: What a project id may look like: one path segment that no server, proxy or file system reads as another.
_ID = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}"
MISSING_XCOM_HINT = (
    "where it comes from XCom, check that the task before it returned one, and its task id: "
    "inside a TaskGroup it has the group's prefix, as in 'group.task'"
)


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

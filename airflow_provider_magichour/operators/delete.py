"""Deletes given projects at Magic Hour."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._validation import (
    check_bool,
    check_projects_at_parse,
    is_settled,
    read_projects,
)
from airflow_provider_magichour.operators.base import MagicHourOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour.types import KindName, ProjectRef, Templated

log = logging.getLogger(__name__)


#: How many projects a log line names.
MAX_NAMED = 20


class MagicHourDeleteProjectOperator(MagicHourOperator):
    """
    Delete projects and their files at Magic Hour, for good.

    Returns ``{"deleted": [ids], "missing": [ids]}``; missing are those that were gone already.

    :param project_id: the project: its id, or what a task returned about it; or a list of them. (templated)
    :param kind: ``image``, ``video`` or ``audio``; may be left out where ``project_id`` names it. (templated)
    :param missing_ok: whether a project that is gone already is no error. (templated)
    :param magichour_conn_id: the connection. (templated)
    :raises MagicHourError: naming each project that could not be deleted, when all were tried. A template
        cannot be deleted (422).
    :raises MagicHourWrongKindError: if a project is of another kind, also with ``missing_ok``.
    """

    template_fields: Sequence[str] = (
        "project_id",
        "kind",
        "missing_ok",
        *MagicHourOperator.template_fields,
    )

    def __init__(
        self,
        *,
        project_id: Templated[ProjectRef | Sequence[ProjectRef]],
        kind: Templated[KindName | None] = None,
        missing_ok: Templated[bool | str] = True,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(magichour_conn_id=magichour_conn_id, **kwargs)
        self.project_id: Any = project_id
        self.kind: Any = kind
        self.missing_ok: Any = missing_ok
        check_projects_at_parse(project_id, kind)
        if is_settled(missing_ok):
            check_bool(missing_ok, "missing_ok")

    def execute(self, context: Context) -> dict[str, list[str]]:
        """Delete the projects."""
        projects = read_projects(self.project_id, self.kind)
        ids = list(dict.fromkeys(projects.ids))
        if not ids:
            log.info("project_id is an empty list: there is nothing to delete.")
        was_there = self.hook.delete_project(projects.kind, ids, check_bool(self.missing_ok, "missing_ok"))
        outcome: dict[str, list[str]] = {"deleted": [], "missing": []}
        for project_id, deleted in zip(ids, was_there, strict=True):
            outcome["deleted" if deleted else "missing"].append(project_id)
        for what, which in (("Deleted", outcome["deleted"]), ("Gone already", outcome["missing"])):
            if which:
                more = f" and {len(which) - MAX_NAMED} more" if len(which) > MAX_NAMED else ""
                named = ", ".join(which[:MAX_NAMED])
                log.info("%s: %d %s project(s): %s%s", what, len(which), projects.kind, named, more)
        return outcome

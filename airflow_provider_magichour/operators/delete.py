"""Deletes given projects at Magic Hour."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._transfer.locations import check_location, index_root
from airflow_provider_magichour._validation import (
    ProjectIds,
    check_bool,
    check_projects_at_parse,
    is_settled,
    read_projects,
)
from airflow_provider_magichour.exceptions import MagicHourError, batch_error
from airflow_provider_magichour.operators.base import MagicHourOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour.operators._deletions import ReceiptsOfDeleted
    from airflow_provider_magichour.types import KindName, ProjectRef, Templated

log = logging.getLogger(__name__)


#: How many projects a log line names.
MAX_NAMED = 20


class MagicHourDeleteProjectOperator(MagicHourOperator):
    """
    Delete projects and their files at Magic Hour. This cannot be undone.

    Returns ``{"deleted": [ids], "missing": [ids]}``. Missing projects were already deleted.

    :param project_id: the project: its id, or what a task returned about it; or a list of them. (templated)
    :param kind: ``image``, ``video`` or ``audio``; may be None if ``project_id`` says it. (templated)
    :param missing_ok: whether a project that was already deleted is not an error. (templated)
    :param destination: the destination of the download. The deletion is recorded in the catalogue there, so
        that no clean-up tries to delete the project again. (templated)
    :param index: the folder of the catalogue, if the download has an ``index``. (templated)
    :param magichour_conn_id: the connection. (templated)
    :raises MagicHourError: if projects could not be deleted; all are tried first, and the message names each.
        A template cannot be deleted (422).
    :raises MagicHourWrongKindError: if a project is of another kind, even with ``missing_ok``.
    """

    template_fields: Sequence[str] = (
        "project_id",
        "kind",
        "missing_ok",
        "destination",
        "index",
        *MagicHourOperator.template_fields,
    )

    def __init__(
        self,
        *,
        project_id: Templated[ProjectRef | Sequence[ProjectRef]],
        kind: Templated[KindName | None] = None,
        missing_ok: Templated[bool | str] = True,
        destination: Templated[str | None] = None,
        index: Templated[str | None] = None,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(magichour_conn_id=magichour_conn_id, **kwargs)
        self.project_id: Any = project_id
        self.kind: Any = kind
        self.missing_ok: Any = missing_ok
        self.destination: Any = destination
        self._unrendered: Any = destination
        self.index: Any = index
        check_projects_at_parse(project_id, kind)
        if is_settled(missing_ok):
            check_bool(missing_ok, "missing_ok")
        if destination is not None and is_settled(destination):
            check_location(destination)

    def execute(self, context: Context) -> dict[str, list[str]]:
        """Delete the projects."""
        projects = read_projects(self.project_id, self.kind)
        projects = ProjectIds(list(dict.fromkeys(projects.ids)), projects.kind, is_list=True)
        if not projects.ids:
            log.info("project_id is an empty list: there is nothing to delete.")
        recorded = self._find_receipts(projects)
        results = self.hook.delete_all(projects, check_bool(self.missing_ok, "missing_ok"))
        outcome: dict[str, list[str]] = {"deleted": [], "missing": []}
        for project_id, result in zip(projects.ids, results, strict=True):
            if isinstance(result, bool):
                outcome["deleted" if result else "missing"].append(project_id)
        for what, which in (("Deleted", outcome["deleted"]), ("Gone already", outcome["missing"])):
            if which:
                more = f" and {len(which) - MAX_NAMED} more" if len(which) > MAX_NAMED else ""
                named = ", ".join(which[:MAX_NAMED])
                log.info("%s: %d %s project(s): %s%s", what, len(which), projects.kind, named, more)
        if recorded is not None:
            recorded.record(outcome)
        failed = {
            project_id: result
            for project_id, result in zip(projects.ids, results, strict=True)
            if isinstance(result, MagicHourError)
        }
        if failed:
            raise batch_error(failed, len(projects.ids))
        return outcome

    def _find_receipts(self, projects: ProjectIds) -> ReceiptsOfDeleted | None:
        """Find the receipts before the projects are gone, as they lie at the time of creation."""
        if self.destination is None:
            return None
        from airflow_provider_magichour._client import api
        from airflow_provider_magichour._transfer.catalogue import Catalogue
        from airflow_provider_magichour._transfer.storage import open_destination
        from airflow_provider_magichour.operators._deletions import ReceiptsOfDeleted

        root = index_root(self._unrendered, self.destination, self.index)
        catalogue = Catalogue(open_destination(root, "index"), open_destination(self.destination))
        found = self.hook.send_all([api.get_project(projects.kind, one) for one in projects.ids])
        by_id = dict(zip(projects.ids, found, strict=True))
        return ReceiptsOfDeleted(catalogue, by_id, self.hook.account_id)

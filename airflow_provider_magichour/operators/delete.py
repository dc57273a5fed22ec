"""The delete operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._validation import check_bool, is_settled
from airflow_provider_magichour._validation.at_parse import check_projects_at_parse
from airflow_provider_magichour.operators.base import MagicHourOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour.types import KindName, ProjectRef, Templated


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
        self.index: Any = index
        self.unrendered = {"destination": destination, "index": index}
        check_projects_at_parse(project_id, kind)
        if is_settled(missing_ok):
            check_bool(missing_ok, "missing_ok")
        if destination is not None and is_settled(destination):
            from airflow_provider_magichour._transfer.locations import check_location

            check_location(destination)

    def execute(self, context: Context) -> dict[str, list[str]]:
        """Delete the projects."""
        from airflow_provider_magichour.operators._deletions import delete_projects

        return delete_projects(self)

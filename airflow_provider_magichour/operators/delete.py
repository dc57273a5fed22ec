"""Deletes given projects at Magic Hour."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour._validation import check_ids
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators.base import MagicHourOperator, is_template
from airflow_provider_magichour.tools import check_kind

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour.types import KindName, Templated

log = logging.getLogger(__name__)


#: How many projects a log line names.
MAX_NAMED = 20


class MagicHourDeleteProjectOperator(MagicHourOperator):
    """
    Delete projects and their files at Magic Hour, for good.

    Returns ``{"deleted": [ids], "missing": [ids]}``; missing are those that were gone already.

    :param project_id: the project, or a list of them. (templated)
    :param kind: ``image``, ``video`` or ``audio``. (templated)
    :param missing_ok: whether a project that is gone already is no error.
    :param magichour_conn_id: the connection. (templated)
    :raises MagicHourError: naming each project that could not be deleted, when all were tried. A template
        cannot be deleted (422).
    """

    template_fields: Sequence[str] = ("project_id", "kind", *MagicHourOperator.template_fields)

    def __init__(
        self,
        *,
        project_id: Templated[str | list[str]],
        kind: Templated[KindName],
        missing_ok: bool = True,
        magichour_conn_id: str = MagicHourHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(magichour_conn_id=magichour_conn_id, **kwargs)
        self.project_id: Any = project_id
        self.kind: Any = kind
        self.missing_ok = missing_ok
        if not is_template(kind):
            check_kind(kind)

    def execute(self, context: Context) -> dict[str, list[str]]:
        """Delete the projects."""
        ids = list(dict.fromkeys(check_ids(self.project_id)))
        was_there = self.hook.delete_project(self.kind, ids, self.missing_ok)
        outcome: dict[str, list[str]] = {"deleted": [], "missing": []}
        for project_id, deleted in zip(ids, was_there, strict=True):
            outcome["deleted" if deleted else "missing"].append(project_id)
        for what, which in (("Deleted", outcome["deleted"]), ("Gone already", outcome["missing"])):
            if which:
                more = f" and {len(which) - MAX_NAMED} more" if len(which) > MAX_NAMED else ""
                named = ", ".join(which[:MAX_NAMED])
                log.info("%s: %d %s project(s): %s%s", what, len(which), self.kind, named, more)
        return outcome

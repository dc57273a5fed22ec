"""Deletes projects by their ids, and records that in the catalogue."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_magichour._client import api
from airflow_provider_magichour._transfer.catalogue import Catalogue
from airflow_provider_magichour._transfer.locations import index_root
from airflow_provider_magichour._transfer.receipts import Receipt, ReceiptError
from airflow_provider_magichour._transfer.storage import open_destination
from airflow_provider_magichour._validation import check_bool
from airflow_provider_magichour._validation.projects import ProjectIds, read_projects
from airflow_provider_magichour.exceptions import MagicHourError, batch_error

log = logging.getLogger(__name__)

#: How many projects a log line names.
MAX_NAMED = 20


def delete_projects(operator: Any) -> dict[str, list[str]]:
    """
    Delete an operator's projects.

    :return: the ids of those that were ``deleted``, and of those that were ``missing``.
    :raises MagicHourError: naming each project that could not be deleted, when all were tried.
    """
    projects = read_projects(operator.project_id, operator.kind)
    projects = ProjectIds(list(dict.fromkeys(projects.ids)), projects.kind, is_list=True)
    if not projects.ids:
        log.info("project_id is an empty list: there is nothing to delete.")
    receipts = _find_receipts(operator, projects)
    results = operator.hook.delete_all(projects, check_bool(operator.missing_ok, "missing_ok"))
    outcome: dict[str, list[str]] = {"deleted": [], "missing": []}
    failed: dict[str, MagicHourError] = {}
    for project_id, result in zip(projects.ids, results, strict=True):
        if isinstance(result, MagicHourError):
            failed[project_id] = result
        else:
            outcome["deleted" if result else "missing"].append(project_id)
    for what, which in (("Deleted", outcome["deleted"]), ("Gone already", outcome["missing"])):
        if which:
            more = f" and {len(which) - MAX_NAMED} more" if len(which) > MAX_NAMED else ""
            named = ", ".join(which[:MAX_NAMED])
            log.info("%s: %d %s project(s): %s%s", what, len(which), projects.kind, named, more)
    if receipts is not None:
        receipts.record(outcome)
    if failed:
        raise batch_error(failed, len(projects.ids))
    return outcome


def _find_receipts(operator: Any, projects: ProjectIds) -> ReceiptsOfDeleted | None:
    """Find the receipts before the projects are gone, as they lie at the time of creation."""
    if operator.destination is None:
        return None
    root = index_root(operator.unrendered_destination, operator.destination, operator.index)
    catalogue = Catalogue(open_destination(root, "index"), open_destination(operator.destination))
    found = operator.hook.send_all([api.get_project(projects.kind, one) for one in projects.ids])
    return ReceiptsOfDeleted(catalogue, dict(zip(projects.ids, found, strict=True)), operator.hook.account_id)


class ReceiptsOfDeleted:
    """
    The receipts of projects that are about to be deleted.

    :param projects: by id, what Magic Hour says of each, or the error.
    :param account_id: the account whose projects are deleted.
    """

    def __init__(self, catalogue: Catalogue, projects: Mapping[str, Any], account_id: str | None) -> None:
        self._catalogue, self._account_id = catalogue, account_id
        self._found: dict[str, Receipt | None] = {}
        for project_id, project in projects.items():
            try:
                self._found[project_id] = catalogue.find(project_id, project)
            except ReceiptError as error:
                log.warning("The receipt of project %s cannot be trusted: %s", project_id, error)

    def record(self, outcomes: Mapping[str, Sequence[str]]) -> None:
        """
        Record what was deleted.

        :param outcomes: the ids that were ``deleted``, and those that were ``missing``.
        """
        for outcome, project_ids in outcomes.items():
            for project_id in project_ids:
                receipt = self._found.get(project_id)
                if receipt is None:
                    where = self._catalogue.destination.shown("")
                    log.info("Project %s has no receipt in %s", project_id, where)
                elif outcome == "missing" and self._account_id is None:
                    log.warning(
                        "Project %s is not recorded as deleted: the key's account cannot be read, and what "
                        "another account's key does not find is not gone",
                        project_id,
                    )
                elif outcome == "missing" and receipt.account_id not in {None, self._account_id}:
                    log.warning(
                        "Project %s belongs to the account %s, so it is not gone because this key finds none",
                        project_id,
                        receipt.account_id,
                    )
                else:
                    self._catalogue.add_deletion(receipt, self._account_id, outcome)

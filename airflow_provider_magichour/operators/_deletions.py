"""Deletes projects by their ids, and records that in the catalogue."""

from __future__ import annotations

import logging
from typing import Any

from airflow_provider_magichour._client import api
from airflow_provider_magichour._transfer.catalogue import Catalogue
from airflow_provider_magichour._transfer.receipts import Receipt, ReceiptError
from airflow_provider_magichour._validation import check_bool
from airflow_provider_magichour._validation.projects import ProjectIds, read_projects
from airflow_provider_magichour.exceptions import MagicHourError, batch_error

log = logging.getLogger(__name__)

#: How many projects a log line contains.
MAX_NAMED = 20


def delete_projects(operator: Any) -> dict[str, list[str]]:
    """
    Delete an operator's projects.

    :return: the ids of those that were ``deleted``, and of those that were ``missing``.
    :raises MagicHourError: after all were tried. The message names each project that could not be deleted.
    """
    operator.check_places()
    projects = read_projects(operator.project_id, operator.kind)
    projects = ProjectIds(list(dict.fromkeys(projects.ids)), projects.kind, is_list=True)
    if not projects.ids:
        log.info("project_id is an empty list: there is nothing to delete.")
    catalogue = _open_catalogue(operator)
    receipts = _find_receipts(operator.hook, catalogue, projects) if catalogue else {}
    account_id = operator.hook.account_id if catalogue else None
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
    if catalogue is not None:
        for what, which in outcome.items():
            for one in which:
                _record(catalogue, one, receipts.get(one), account_id, what)
    if failed:
        raise batch_error(failed, len(projects.ids))
    return outcome


def _open_catalogue(operator: Any) -> Catalogue | None:
    if operator.destination is None:
        return None
    return Catalogue.open(operator.destination, operator.unrendered["destination"], operator.index)


def _find_receipts(hook: Any, catalogue: Catalogue, projects: ProjectIds) -> dict[str, Receipt | None]:
    """Find the receipts before the projects are deleted: their place depends on the time of creation."""
    responses = hook.send_all([api.get_project(projects.kind, one) for one in projects.ids])
    found: dict[str, Receipt | None] = {}
    for project_id, response in zip(projects.ids, responses, strict=True):
        try:
            found[project_id] = catalogue.find(project_id, response)
        except ReceiptError as error:
            log.warning("The receipt of project %s cannot be trusted: %s", project_id, error)
    return found


def _record(
    catalogue: Catalogue, project_id: str, receipt: Receipt | None, account_id: str | None, outcome: str
) -> None:
    """Record that a project was ``deleted`` or ``missing``. Only a key of its account proves the latter."""
    if receipt is None:
        log.info("Project %s has no receipt in %s", project_id, catalogue.destination.shown(""))
    elif outcome == "missing" and account_id is None:
        log.warning(
            "Project %s is not recorded as deleted: the key's account cannot be read, and a 404 "
            "with another account's key does not prove a deletion",
            project_id,
        )
    elif outcome == "missing" and receipt.account_id not in {None, account_id}:
        log.warning(
            "Project %s belongs to the account %s, so a 404 with this key does not prove a deletion",
            project_id,
            receipt.account_id,
        )
    else:
        catalogue.add_deletion(receipt, account_id, outcome)

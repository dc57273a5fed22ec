"""Records in the catalogue what was deleted by its id."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_magichour._transfer.catalogue import Catalogue
from airflow_provider_magichour._transfer.receipts import Receipt, ReceiptError

log = logging.getLogger(__name__)


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

"""Records that projects are deleted at Magic Hour: by a clean-up, or by their ids."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from airflow_provider_magichour._transfer import catalogue, old_receipts, receipts
from airflow_provider_magichour._transfer.catalogue import DELETED
from airflow_provider_magichour._transfer.receipts import Receipt, ReceiptError
from airflow_provider_magichour._transfer.storage import Storage

log = logging.getLogger(__name__)


def settle(root: Storage, path: str, receipt: Receipt, account_id: str | None, outcome: str) -> None:
    """
    Record that the project of an entry is deleted.

    :param path: the path of the entry.
    :param outcome: ``deleted``, or ``missing`` where it was gone already.
    """
    catalogue.record(root, path, replace(receipt, account_id=account_id), DELETED, outcome=outcome)


def settle_old(
    root: Storage, destination: Storage, receipt: Receipt, account_id: str | None, outcome: str
) -> None:
    """Record that the project of a receipt of 0.1.0 is deleted, and take it out of the old index."""
    entry = receipts.upgrade(receipt, account_id, root, destination)
    catalogue.write(root, entry)
    settle(root, catalogue.path_of(entry), entry, account_id, outcome)
    old_receipts.remove_hint(destination, old_receipts.hint_path(receipt))


@dataclass
class Settlement:
    """
    The receipts of projects that are about to be deleted by their ids.

    :param account_id: the account whose projects are deleted.
    """

    root: Storage
    destination: Storage
    account_id: str | None
    found: Mapping[str, Receipt]

    @classmethod
    def of(
        cls, root: Storage, destination: Storage, projects: Mapping[str, Any], account_id: str | None
    ) -> Settlement:
        """
        Find the receipts of projects, which are found by the time of their creation.

        :param projects: by id, what Magic Hour says of each, or the error.
        """
        found = {}
        for project_id, project in projects.items():
            try:
                if isinstance(project, Mapping):
                    receipt = catalogue.find(root, project, project_id, datetime.now(UTC))
                else:
                    receipt = catalogue.search(root, project_id)
                receipt = receipt or old_receipts.read(destination, project_id)
            except ReceiptError as error:
                log.warning("The receipt of project %s cannot be trusted: %s", project_id, error)
                continue
            if receipt is not None:
                found[project_id] = receipt
        return cls(root, destination, account_id, found)

    def record(self, outcomes: Mapping[str, Sequence[str]]) -> None:
        """
        Record what was deleted.

        :param outcomes: the ids that were ``deleted``, and those that were ``missing``.
        """
        for outcome, project_ids in outcomes.items():
            for project_id in project_ids:
                receipt = self.found.get(project_id)
                if receipt is None:
                    log.info("Project %s has no receipt in %s", project_id, self.destination.shown(""))
                elif outcome == "missing" and receipt.account_id not in {None, self.account_id}:
                    log.warning(
                        "Project %s belongs to the account %s, so it is not gone because this key finds none",
                        project_id,
                        receipt.account_id,
                    )
                elif receipt.data["version"] == 1:
                    settle_old(self.root, self.destination, receipt, self.account_id, outcome)
                else:
                    settle(self.root, catalogue.path_of(receipt), receipt, self.account_id, outcome)

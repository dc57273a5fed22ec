"""What a download reads and writes of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from airflow_provider_magichour._transfer import catalogue, old_receipts, receipts
from airflow_provider_magichour._transfer.receipts import Receipt
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour.tools import Kind


@dataclass(frozen=True)
class Records:
    """
    The records of the projects in one destination.

    :param root: where the catalogue lies.
    :param destination: where the files are.
    :param conn_id: the Airflow connection.
    :param read_account_id: returns the account that the key belongs to, None where it cannot be
        read: a clean-up then asks for the project first.
    :param downloaded_by: the Airflow task, None where there is none.
    :param facts: by project, what else is known of it: ``tool``, ``finished_at``, ``body_fingerprint``.
    """

    root: Storage
    destination: Storage
    conn_id: str
    read_account_id: Callable[[], str | None]
    downloaded_by: Mapping[str, Any] | None = None
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def _account_id(self) -> str | None:
        return self.read_account_id()

    def find(
        self, project_id: str, project: Mapping[str, Any] | None, sizes: Mapping[str, int]
    ) -> Receipt | None:
        """
        Return the receipt of a project in this destination, None where there is none.

        :param project: the project as the API gives it, None where it is gone there.
        :param sizes: what is in the project's folder.
        :raises ReceiptError: if there is one that cannot be trusted.
        """
        if project is None:
            receipt = catalogue.search(self.root, project_id)
        else:
            receipt = catalogue.find(self.root, project, project_id, datetime.now(UTC))
        if receipt and receipt.is_at(self.root, self.destination):
            return receipt
        has_old = old_receipts.FILE_NAME in sizes
        return old_receipts.read(self.destination, project_id) if has_old else None

    def write(
        self,
        project: Mapping[str, Any],
        project_id: str,
        kind: Kind,
        files: Sequence[Mapping[str, Any]],
        replaced: Receipt | None,
    ) -> None:
        """
        Write the entry of a project whose files are all in place.

        :param project: the project as the API gives it.
        :param replaced: the receipt that :meth:`find` gave.
        """
        receipt = receipts.make(
            project,
            project_id=project_id,
            kind=kind,
            conn_id=self.conn_id,
            account_id=self._account_id,
            root=self.root,
            destination=self.destination,
            files=files,
            downloaded_at=datetime.now(UTC),
            downloaded_by=self.downloaded_by,
            facts=self.facts.get(project_id),
        )
        catalogue.write(self.root, receipt)
        if replaced is None:
            return
        for event in (catalogue.DELETED, catalogue.MOVED):  # it was there to be downloaded, and is here now
            catalogue.forget(self.root, receipt, event)
        if replaced.data["version"] == 1:
            old_receipts.remove(self.destination, replaced)


def acknowledge_moved(
    root: Storage, destination: Storage, project_id: str, moved_to: Mapping[str, str]
) -> None:
    """
    Record that files of a project were moved away on purpose, so that a clean-up does not look for them.

    :param moved_to: where each file went, by its name.
    :raises ReceiptError: if there is no receipt, or it does not list one of the files.
    """
    receipt = catalogue.search(root, project_id)
    if receipt is not None:
        catalogue.acknowledge_moved(root, receipt, moved_to)
    elif (old := old_receipts.read(destination, project_id)) is not None:
        old_receipts.acknowledge_moved(destination, old, moved_to)
    else:
        raise receipts.ReceiptError(f"there is no receipt of it below {root.shown('')}")

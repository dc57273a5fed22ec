"""What a clean-up goes through: the entries of the catalogue, and the receipts of version 0.1.0."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from airflow_provider_magichour._transfer import catalogue, old_receipts
from airflow_provider_magichour._transfer.catalogue import DELETED, MOVED, Entry
from airflow_provider_magichour._transfer.old_receipts import Hint
from airflow_provider_magichour._transfer.receipts import Receipt, ReceiptError
from airflow_provider_magichour._transfer.settlement import settle, settle_old
from airflow_provider_magichour._transfer.storage import Storage


class Candidate(Protocol):
    """What may be due, by its name."""

    @property
    def project_id(self) -> str:
        """Return the project."""
        ...


class Source(Protocol):
    """Where receipts are found. ``unreadable`` holds the days that could not be listed, and why."""

    unreadable: list[str]

    def due(self, before: datetime) -> Iterator[Candidate]:
        """Give what may have been downloaded until a moment, the oldest first."""
        ...

    def read(self, candidate: Any) -> Receipt | None:
        """Return the receipt; None where there is nothing to be deleted."""

    def files_of(self, receipt: Receipt) -> Storage | None:
        """Return where a receipt's files are; None where that is out of bounds, and is not opened."""

    def moved_files(self, candidate: Any) -> Mapping[str, str]:
        """Return where files were moved on purpose."""
        ...

    def settle(self, candidate: Any, receipt: Receipt, account_id: str, outcome: str) -> None:
        """Record that a project is deleted at Magic Hour."""

    def forget(self, candidate: Any) -> None:
        """Take out of the index what there is nothing to be deleted of."""


@dataclass
class Catalogue:
    """
    The entries of the catalogue.

    :param root: where the catalogue lies.
    :param destination: where files may be that are not below the root.
    :param done: days of which nothing is left to be deleted; more are added.
    """

    root: Storage
    destination: Storage
    done: set[str] = field(default_factory=set)
    unreadable: list[str] = field(default_factory=list)

    def due(self, before: datetime) -> Iterator[Candidate]:
        """Give the entries of projects that were created until a moment, and are not deleted."""
        last = f"{before:%Y-%m-%d%H%M%S}"
        for day in _days(self, self.root.shown(catalogue.FOLDER), lambda: catalogue.days(self.root)):
            if day > last or day in self.done:
                continue
            is_done = day < last[:10]
            try:
                for entry in catalogue.entries(self.root, day):
                    if f"{day}{entry.time}" > last:
                        break
                    if DELETED not in entry.events:
                        is_done = False
                        yield entry
            except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
                where = self.root.shown(f"{catalogue.FOLDER}/dt={day}")
                self.unreadable.append(f"{where}: {type(error).__name__}: {error}")
            else:
                self.done |= {day} if is_done else set()

    def read(self, candidate: Entry) -> Receipt | None:
        """Return the receipt, None where it is not about stored files."""
        return catalogue.read(self.root, candidate.path, candidate.project_id)

    def files_of(self, receipt: Receipt) -> Storage | None:
        """Return where a receipt's files are; None where that is out of bounds, and is not opened."""
        if receipt.folder is not None:
            return self.root.below(receipt.folder)
        folder = self.destination.relative(receipt.destination or "")
        return None if folder is None else self.destination.below(folder)

    def moved_files(self, candidate: Entry) -> Mapping[str, str]:
        """Return where files were moved on purpose."""
        return catalogue.moved_files(self.root, candidate.path) if MOVED in candidate.events else {}

    def settle(self, candidate: Entry, receipt: Receipt, account_id: str, outcome: str) -> None:
        """Record that a project is deleted at Magic Hour."""
        settle(self.root, candidate.path, receipt, account_id, outcome)

    def forget(self, candidate: Entry) -> None:
        """Leave what is not about stored files: it is a record."""


@dataclass
class OldReceipts:
    """
    The receipts that version 0.1.0 wrote for one connection.

    :param storage: the destination.
    :param root: where the catalogue lies, in which what is deleted gets its entry.
    """

    storage: Storage
    root: Storage
    conn_id: str
    unreadable: list[str] = field(default_factory=list)

    def due(self, before: datetime) -> Iterator[Candidate]:
        """Give what the index says was downloaded until a moment, the oldest first."""
        folder = self.storage.shown(old_receipts.index_of(self.conn_id))
        for day in _days(self, folder, lambda: old_receipts.days(self.storage, self.conn_id)):
            if day > f"{before:%Y-%m-%d}":
                return
            try:
                for hint in old_receipts.hints(self.storage, self.conn_id, day):
                    if hint.downloaded_at <= before:
                        yield hint
            except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
                self.unreadable.append(f"{folder}/{day}: {type(error).__name__}: {error}")

    def read(self, candidate: Hint) -> Receipt | None:
        """
        Return the receipt; None where the project is deleted.

        :raises ReceiptError: if it cannot be trusted, or is not there.
        """
        receipt = old_receipts.read(self.storage, candidate.project_id)
        if receipt is None:
            where = self.storage.shown(old_receipts.path_of(candidate.project_id))
            raise ReceiptError(f"its receipt {where} is not there")
        return None if receipt.data.get("deleted_at") else receipt

    def files_of(self, receipt: Receipt) -> Storage:
        """Return where the files are."""
        return self.storage

    def moved_files(self, candidate: Hint) -> Mapping[str, str]:
        """Return nothing: it is said in the receipt itself."""
        return {}

    def settle(self, candidate: Hint, receipt: Receipt, account_id: str, outcome: str) -> None:
        """Record that a project is deleted at Magic Hour: in the catalogue, and no more in the old index."""
        settle_old(self.root, self.storage, receipt, account_id, outcome)
        old_receipts.remove_hint(self.storage, candidate.path)

    def forget(self, candidate: Hint) -> None:
        """Take a project that is deleted out of the index."""
        old_receipts.remove_hint(self.storage, candidate.path)


def _days(source: Source, folder: str, list_days: Callable[[], list[str]]) -> list[str]:
    """Return the days of a source; none, and a note, where they cannot be listed."""
    try:
        return list_days()
    except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
        source.unreadable.append(f"{folder}: {type(error).__name__}: {error}")
        return []

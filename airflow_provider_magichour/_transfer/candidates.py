"""What a clean-up goes through: the entries of the catalogue, and the receipts of version 0.1.0."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from airflow_provider_magichour._transfer import catalogue, receipts, receipts_0_1_0
from airflow_provider_magichour._transfer.catalogue import DELETED, MOVED, Catalogue, Entry
from airflow_provider_magichour._transfer.receipts import Receipt, ReceiptError
from airflow_provider_magichour._transfer.receipts_0_1_0 import Hint
from airflow_provider_magichour._transfer.storage import Storage

#: Entries that are counted, and of them, those that are read, at most.
MAX_COUNTED, MAX_READ = 100_000, 50
#: How long the days that are done are passed over; after that, all days are listed again, because a
#: project of a day long ago may have been downloaded since.
MAX_TRUST = timedelta(days=7)

_DONE_DAYS = ".magichour/cleanup/done-days.json"


@dataclass
class Candidates:
    """
    What may be due, by its names: the entries of the catalogue.

    :param known_done: days of which an earlier clean-up left nothing to be deleted.
    :param unreadable: the days that could not be listed, and why.
    """

    catalogue: Catalogue
    known_done: frozenset[str] = frozenset()
    unreadable: list[str] = field(default_factory=list)
    #: Of each day that was listed to its end, the entries that are not deleted.
    _left: dict[str, int] = field(default_factory=dict)
    #: The days of those that are not about stored files, one for each.
    _forgotten: list[str] = field(default_factory=list)

    @property
    def done(self) -> frozenset[str]:
        """Return the days of which nothing is left to be deleted."""
        forgotten = Counter(self._forgotten)
        return self.known_done | {day for day, left in self._left.items() if left == forgotten[day]}

    def due(self, before: datetime) -> Iterator[Any]:
        """Give the entries of projects that were created until a moment, and are not deleted, by time."""
        root, last = self.catalogue.root, f"{before:%Y-%m-%d%H%M%S}"
        for day in self._list(root.shown(catalogue.FOLDER), lambda: catalogue.days(root)):
            if day > last or day in self.known_done:
                continue
            left = 0
            try:
                for entry in catalogue.entries(root, day):
                    if f"{day}{entry.time}" > last:
                        break
                    if DELETED not in entry.events:
                        left += 1
                        yield entry
            except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
                self._note(root.shown(f"{catalogue.FOLDER}/dt={day}"), error)
            else:
                if day < last[:10]:
                    self._left[day] = left

    def read(self, candidate: Any) -> Receipt | None:
        """
        Return the receipt; None where there is nothing to be deleted.

        :raises ReceiptError: if it cannot be trusted.
        """
        return catalogue.read(self.catalogue.root, candidate.path, candidate.project_id)

    def files_of(self, receipt: Receipt) -> Storage | None:
        """Return where a receipt's files are; None where that is out of bounds, and is not opened."""
        if receipt.folder is not None:
            return self.catalogue.root.below(receipt.folder)
        folder = self.catalogue.destination.relative(receipt.destination or "")
        return None if folder is None else self.catalogue.destination.below(folder)

    def moved_files(self, candidate: Any) -> Mapping[str, str]:
        """Return where files were moved on purpose."""
        root = self.catalogue.root
        return catalogue.moved_files(root, candidate.path) if MOVED in candidate.events else {}

    def record(self, candidate: Any, receipt: Receipt, account_id: str, outcome: str) -> None:
        """Record that a project is deleted at Magic Hour."""
        self.catalogue.add_deletion(receipt, account_id, outcome, candidate.path)

    def forget(self, candidate: Any) -> None:
        """Leave an entry that is not about stored files, but keep no day open for it."""
        self._forgotten.append(candidate.day)

    def _list(self, folder: str, names: Callable[[], list[str]]) -> list[str]:
        try:
            return names()
        except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
            self._note(folder, error)
            return []

    def _note(self, where: str, error: Exception) -> None:
        self.unreadable.append(f"{where}: {type(error).__name__}: {error}")


@dataclass
class Candidates010(Candidates):
    """
    What may be due of what version 0.1.0 recorded for one connection.

    :param conn_id: the connection.
    """

    conn_id: str = ""

    def due(self, before: datetime) -> Iterator[Hint]:
        """Give what the index says was downloaded until a moment, the oldest first."""
        storage = self.catalogue.destination
        folder = storage.shown(receipts_0_1_0.index_of(self.conn_id))
        for day in self._list(folder, lambda: receipts_0_1_0.days(storage, self.conn_id)):
            if day > f"{before:%Y-%m-%d}":
                return
            try:
                for hint in receipts_0_1_0.hints(storage, self.conn_id, day):
                    if hint.downloaded_at <= before:
                        yield hint
            except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
                self._note(f"{folder}/{day}", error)

    def read(self, candidate: Hint) -> Receipt | None:
        """Return the receipt; None where the project is deleted. One that is not there is an error."""
        storage = self.catalogue.destination
        receipt = receipts_0_1_0.read(storage, candidate.project_id)
        if receipt is None:
            where = storage.shown(receipts_0_1_0.path_of(candidate.project_id))
            raise ReceiptError(f"its receipt {where} is not there")
        return None if receipt.data.get("deleted_at") else receipt

    def files_of(self, receipt: Receipt) -> Storage:
        """Return where the files are."""
        return self.catalogue.destination

    def moved_files(self, candidate: Hint) -> Mapping[str, str]:
        """Return nothing: it is said in the receipt itself."""
        return {}

    def record(self, candidate: Hint, receipt: Receipt, account_id: str, outcome: str) -> None:
        """Record that a project is deleted at Magic Hour: in the catalogue, and no more in the old index."""
        self.catalogue.add_deletion(receipt, account_id, outcome)
        self.forget(candidate)

    def forget(self, candidate: Hint) -> None:
        """Take a project that is deleted out of the index."""
        receipts_0_1_0.remove_hint(self.catalogue.destination, candidate.path)


# ------------------------------------------------------------------------------ where nothing was due


@dataclass
class Recorded:
    """
    What is recorded at one place, of which a clean-up says how much it is where nothing was due.

    :param projects: how many projects, and
    :param deleted: how many of them are deleted at Magic Hour.
    :param connections: of some of them, the connection.
    :param next_download: when the oldest that is not due yet was downloaded, None where there is none.
    """

    projects: int = 0
    deleted: int = 0
    connections: Counter[str] = field(default_factory=Counter)
    next_download: datetime | None = None

    def read(self, root: Storage, entry: Entry, ours: frozenset[str]) -> None:
        """Read an entry; one that cannot be trusted says nothing."""
        try:
            receipt = catalogue.read(root, entry.path, entry.project_id)
        except ReceiptError:
            return
        if receipt is not None:
            self.connections[receipt.conn_id] += 1
            if receipt.conn_id in ours:
                self.next_download = receipt.downloaded_at


def count_recorded(root: Storage, destination: Storage, ours: frozenset[str]) -> Recorded:
    """
    Count what is recorded, and read a few entries to know of which connections.

    :param ours: the connections whose next download is looked for.
    """
    found, reads, last = Recorded(), 0, list[Entry]()
    entries = (entry for day in catalogue.days(root) for entry in catalogue.entries(root, day))
    for entry in islice(entries, MAX_COUNTED):
        found.projects += 1
        if DELETED in entry.events:
            found.deleted += 1
            last = [*last[-9:], entry]
        elif found.next_download is None and reads < MAX_READ:
            reads += 1
            found.read(root, entry, ours)
    if not ours.intersection(found.connections):
        for entry in last:
            found.read(root, entry, frozenset())
    for conn_id in receipts_0_1_0.connections(destination):
        days = receipts_0_1_0.days(destination, conn_id)
        hints = (hint for day in days for hint in receipts_0_1_0.hints(destination, conn_id, day))
        count = sum(1 for _ in islice(hints, MAX_COUNTED))
        found.connections[conn_id] += count
        found.projects += count
    return found


# ------------------------------------------------------------------------------------------- done days


def read_done_days(root: Storage, now: datetime, older_than: timedelta) -> tuple[set[str], datetime]:
    """Return the days that an earlier clean-up found done, and when it listed all days; now if none did."""
    data = root.read(_DONE_DAYS, receipts.MAX_BYTES)
    try:
        content = json.loads(data or b"{}")
        listed_at = datetime.fromisoformat(content["listed_at"])
        days = {str(day) for day in content["days"]}
        if timedelta(0) <= now - listed_at < min(older_than, MAX_TRUST):
            return days, listed_at
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # it is a hint, without which all days are listed
    return set(), now


def write_done_days(root: Storage, days: Collection[str], listed_at: datetime) -> None:
    """Write which days are done."""
    content = {"listed_at": receipts.timestamp(listed_at), "days": sorted(days)}
    root.write(_DONE_DAYS, receipts.dump(content), sync=False)

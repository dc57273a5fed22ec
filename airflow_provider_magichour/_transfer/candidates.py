"""The candidates of a clean-up: entries of the catalogue, and receipts of version 0.1.0."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from airflow_provider_magichour._transfer import catalogue, receipts, receipts_0_1_0
from airflow_provider_magichour._transfer.catalogue import DELETED, MOVED, Catalogue, Entry
from airflow_provider_magichour._transfer.receipts import Receipt, ReceiptError
from airflow_provider_magichour._transfer.receipts_0_1_0 import Hint
from airflow_provider_magichour._transfer.storage import Storage

#: The most entries that are counted, and the most that are read one by one.
MAX_COUNTED, MAX_READ = 100_000, 50
#: The most entries that are read in parallel, to find one of a connection.
MAX_SEARCHED, PARALLEL = 2000, 16
#: How long finished days are skipped. After that, all days are listed again, because an old project may have
#: been downloaded in between.
MAX_TRUST = timedelta(days=7)

_DONE_DAYS = ".magichour/cleanup/done-days.json"


@dataclass
class Candidates:
    """
    The candidates in the catalogue, which are found by the names of the entries.

    :param known_done: days without anything to delete, according to an earlier clean-up.
    :param unreadable: the days that could not be listed, and why.
    """

    catalogue: Catalogue
    known_done: frozenset[str] = frozenset()
    unreadable: list[str] = field(default_factory=list)
    #: The entries of each completely listed day that are not deleted.
    _left: dict[str, int] = field(default_factory=dict)
    #: The day of each entry that is not about stored files.
    _forgotten: list[str] = field(default_factory=list)

    @property
    def done(self) -> frozenset[str]:
        """Return the days without anything left to delete."""
        forgotten = Counter(self._forgotten)
        return self.known_done | {day for day, left in self._left.items() if left == forgotten[day]}

    def due(self, before: datetime) -> Iterator[Any]:
        """
        Yield the entries of projects that were created before a time and are not deleted.

        The oldest day comes first, and within a day the newest project.
        """
        root, last = self.catalogue.root, f"{before:%Y-%m-%d}"
        for day in self._list(root.shown(catalogue.FOLDER), lambda: catalogue.days(root)):
            if day > last or day in self.known_done:
                continue
            left = 0
            try:
                latest = f"{before:%H%M%S}" if day == last else "235959"
                for entry in catalogue.entries(root, day, latest):
                    if DELETED not in entry.events:
                        left += 1
                        yield entry
            except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
                self._note(root.shown(f"{catalogue.FOLDER}/dt={day}"), error)
            else:
                if day < last:
                    self._left[day] = left

    def read(self, candidate: Any) -> Receipt | None:
        """
        Return the receipt, or None if there is nothing to delete.

        :raises ReceiptError: if it cannot be trusted.
        """
        return catalogue.read(self.catalogue.root, candidate.path, candidate.project_id)

    def files_of(self, receipt: Receipt) -> Storage | None:
        """Return where the files of a receipt are, or None if that is outside of the allowed places."""
        if receipt.folder is not None:
            return self.catalogue.root.below(receipt.folder)
        folder = self.catalogue.destination.relative(receipt.destination or "")
        return None if folder is None else self.catalogue.destination.below(folder)

    def moved_files(self, candidate: Any, receipt: Receipt) -> Mapping[str, str]:
        """Return the new places of moved files."""
        root = self.catalogue.root
        return catalogue.moved_files(root, candidate.path, receipt) if MOVED in candidate.events else {}

    def add_account(self, receipt: Receipt, account_id: str) -> None:
        """Do nothing, because a download may replace the entry at the same time."""

    def record(self, candidate: Any, receipt: Receipt, account_id: str, outcome: str) -> None:
        """Record that a project is deleted at Magic Hour."""
        self.catalogue.add_deletion(receipt, account_id, outcome, candidate.path)

    def forget(self, candidate: Any) -> None:
        """Skip an entry that is not about stored files. Its day can still be finished."""
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
    """The candidates of one connection that version 0.1.0 recorded."""

    conn_id: str = ""

    def due(self, before: datetime) -> Iterator[Hint]:
        """Yield the downloads before a time, according to the index, the oldest first."""
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
        """Return the receipt, or None if the project is deleted. A missing receipt is an error."""
        storage = self.catalogue.destination
        receipt = receipts_0_1_0.read(storage, candidate.project_id)
        if receipt is None:
            where = storage.shown(receipts_0_1_0.path_of(candidate.project_id))
            raise ReceiptError(f"its receipt {where} is not there")
        return None if receipt.data.get("deleted_at") else receipt

    def files_of(self, receipt: Receipt) -> Storage:
        """Return where the files are."""
        return self.catalogue.destination

    def moved_files(self, candidate: Hint, receipt: Receipt) -> Mapping[str, str]:
        """Return nothing, because the receipt itself contains this."""
        return {}

    def add_account(self, receipt: Receipt, account_id: str) -> None:
        """Write a project's account into its receipt, so that a 404 counts after an interruption."""
        receipts_0_1_0.add_account(self.catalogue.destination, receipt, account_id)

    def record(self, candidate: Hint, receipt: Receipt, account_id: str, outcome: str) -> None:
        """Record in the catalogue that a project is deleted, and remove it from the old index."""
        self.catalogue.add_deletion(receipt, account_id, outcome)
        self.forget(candidate)

    def forget(self, candidate: Hint) -> None:
        """Remove a deleted project from the index."""
        receipts_0_1_0.remove_hint(self.catalogue.destination, candidate.path)


# ------------------------------------------------------------------------------ where nothing was due


@dataclass
class Recorded:
    """
    A summary of the records at one place, for the log of a clean-up without due projects.

    :param projects: the number of projects.
    :param deleted: how many of them are deleted at Magic Hour.
    :param connections: the connections of some of them.
    :param next_download: the download time of the oldest project that is not due yet, None if there is none.
    :param is_complete: whether all entries whose projects are not deleted could be read.
    """

    projects: int = 0
    deleted: int = 0
    connections: set[str] = field(default_factory=set)
    next_download: datetime | None = None
    is_complete: bool = True

    def read(self, root: Storage, entry: Entry, ours: frozenset[str]) -> None:
        """Read an entry. An entry that cannot be trusted is ignored."""
        try:
            receipt = catalogue.read(root, entry.path, entry.project_id)
        except ReceiptError:
            return
        if receipt is not None:
            self.connections.add(receipt.conn_id)
            if receipt.conn_id in ours:
                self.next_download = min(self.next_download or receipt.downloaded_at, receipt.downloaded_at)


def count_recorded(root: Storage, destination: Storage, ours: frozenset[str]) -> Recorded:
    """
    Count the records, and read a few entries for their connections.

    :param ours: the connections whose next due download is searched.
    """
    found, reads = Recorded(), 0
    left, deleted = deque[Entry](maxlen=MAX_SEARCHED), deque[Entry](maxlen=10)
    for day in catalogue.days(root):
        newest, oldest = list[Entry](), deque[Entry](maxlen=MAX_READ)
        for entry in islice(catalogue.entries(root, day), MAX_COUNTED - found.projects):
            found.projects += 1
            if DELETED in entry.events:
                found.deleted += 1
                deleted.append(entry)
            else:
                oldest.append(entry)
                if len(newest) < MAX_SEARCHED:
                    newest.append(entry)
        left.extend(reversed(newest))
        while oldest and reads < MAX_READ and found.next_download is None:
            reads += 1
            found.read(root, oldest.pop(), ours)
    found.is_complete = found.projects - found.deleted <= len(left)
    while left and not ours.intersection(found.connections):  # the newest first
        some = [left.pop() for _ in range(min(len(left), 10 * PARALLEL))]
        with ThreadPoolExecutor(PARALLEL, "magichour-receipts") as pool:
            list(pool.map(lambda entry: found.read(root, entry, ours), some))
    if not ours.intersection(found.connections):
        for entry in deleted:
            found.read(root, entry, frozenset())
    for conn_id in receipts_0_1_0.connections(destination):
        days = receipts_0_1_0.days(destination, conn_id)
        hints = (hint for day in days for hint in receipts_0_1_0.hints(destination, conn_id, day))
        count = sum(1 for _ in islice(hints, MAX_COUNTED))
        found.connections.add(conn_id)
        found.projects += count
    return found


# ------------------------------------------------------------------------------------------- done days


def read_done_days(root: Storage, now: datetime, older_than: timedelta) -> tuple[set[str], datetime]:
    """Return the days that an earlier clean-up finished, and when it listed all days; now if never."""
    data = root.read(_DONE_DAYS, receipts.MAX_BYTES)
    try:
        content = json.loads(data or b"{}")
        listed_at = datetime.fromisoformat(content["listed_at"])
        days = {str(day) for day in content["days"]}
        if timedelta(0) <= now - listed_at < min(older_than, MAX_TRUST):
            return days, listed_at
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # it is only a hint: without it, all days are listed
    return set(), now


def write_done_days(root: Storage, days: Collection[str], listed_at: datetime) -> None:
    """Write which days are finished."""
    content = {"listed_at": receipts.timestamp(listed_at), "days": sorted(days)}
    root.write(_DONE_DAYS, receipts.dump(content), sync=False)

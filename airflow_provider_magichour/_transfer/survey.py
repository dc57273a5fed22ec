"""What a clean-up says where nothing was due: how much is recorded, for whom, and when the next is due."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from airflow_provider_magichour._transfer import catalogue, old_receipts, receipts
from airflow_provider_magichour._transfer.catalogue import DELETED, Entry
from airflow_provider_magichour._transfer.receipts import ReceiptError
from airflow_provider_magichour._transfer.storage import Storage

#: Entries that are counted, and of them, those that are read, at most.
MAX_COUNTED, MAX_READ = 100_000, 50
#: How long the days that are done are passed over; after that, all days are listed again, because a
#: project of a day long ago may have been downloaded since.
MAX_TRUST = timedelta(days=7)

_DONE_DAYS = ".magichour/cleanup/done-days.json"


@dataclass
class Survey:
    """
    What is recorded at one place.

    :param projects: how many projects, and
    :param deleted: how many of them are deleted at Magic Hour.
    :param connections: of some of them, the connection.
    :param next_download: when the oldest that is not due yet was downloaded, None where there is none.
    """

    projects: int = 0
    deleted: int = 0
    connections: Counter[str] = field(default_factory=Counter)
    next_download: datetime | None = None


def survey(root: Storage, destination: Storage, ours: frozenset[str]) -> Survey:
    """
    Count what is recorded, and read a few entries to know of which connections.

    :param ours: the connections whose next download is looked for.
    """
    found, last = Survey(), list[Entry]()
    reads = 0
    for entry in islice(_all_entries(root), MAX_COUNTED):
        found.projects += 1
        if DELETED in entry.events:
            found.deleted += 1
            last = [*last[-9:], entry]
        elif found.next_download is None and reads < MAX_READ:
            reads += 1
            _read(root, entry, ours, found)
    if not ours.intersection(found.connections):
        for entry in last:
            _read(root, entry, frozenset(), found)
    for conn_id in old_receipts.connections(destination):
        hints = sum(
            1
            for day in old_receipts.days(destination, conn_id)
            for _ in islice(old_receipts.hints(destination, conn_id, day), MAX_COUNTED)
        )
        found.connections[conn_id] += hints
        found.projects += hints
    return found


def _all_entries(root: Storage) -> Iterator[Entry]:
    for day in catalogue.days(root):
        yield from catalogue.entries(root, day)


def _read(root: Storage, entry: Entry, ours: frozenset[str], found: Survey) -> None:
    try:
        receipt = catalogue.read(root, entry.path, entry.project_id)
    except ReceiptError:
        return
    if receipt is not None:
        found.connections[receipt.conn_id] += 1
        if receipt.conn_id in ours:
            found.next_download = receipt.downloaded_at


# --------------------------------------------------------------------------------------------- done days


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


def write_done_days(root: Storage, days: set[str], listed_at: datetime) -> None:
    """Write which days are done."""
    content = {"listed_at": receipts.timestamp(listed_at), "days": sorted(days)}
    root.write(_DONE_DAYS, receipts.dump(content), sync=False)

"""
The catalogue: for each project one small JSON object, which is its receipt, its index and its record in one.

    {root}/magichour-catalog/dt=2026-11-21/102655-cm9x1y2z30001.json            the entry
    {root}/magichour-catalog/dt=2026-11-21/102655-cm9x1y2z30001-deleted.json    what happened later: an event

Day and time are those of the project's creation, in UTC, so that an entry is found without a search, and the
entries of a day are listed in order. An entry is written once, after all files are in place. What happens
later is an object of its own, so that nothing is ever changed; only a new download replaces an entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airflow_provider_magichour._transfer import receipts
from airflow_provider_magichour._transfer.receipts import MAX_BYTES, Receipt, ReceiptError
from airflow_provider_magichour._transfer.storage import Storage

FOLDER = "magichour-catalog"
#: Events that a name may tell; an object of an event that is not known here is read and passed over.
DELETED, MOVED = "deleted", "moved"

_DAY = re.compile(r"dt=(\d{4}-\d{2}-\d{2})", re.ASCII)
_NAME = re.compile(
    r"(\d{6})-([A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}?)(?:-(deleted|moved|timed_out|reused))?\.json", re.ASCII
)


def entry_path(created_at: datetime, project_id: str) -> str:
    """Return where the entry of a project is, relative to the root."""
    return f"{FOLDER}/dt={created_at.date()}/{created_at:%H%M%S}-{project_id}.json"


def path_of(receipt: Receipt) -> str:
    """Return where the entry of a receipt is, relative to the root."""
    return entry_path(receipt.created_at, receipt.project_id)


def event_path(path: str, event: str) -> str:
    """Return where an event is recorded, by the path of its entry."""
    return f"{path.removesuffix('.json')}-{event}.json"


@dataclass(frozen=True)
class Entry:
    """
    An entry of the catalogue, by its name.

    :param day: the day of its partition, as ``2026-11-21``.
    :param time: the time within it, as ``102655``.
    :param project_id: the project.
    :param events: what else is recorded of it.
    """

    day: str
    time: str
    project_id: str
    events: frozenset[str] = frozenset()

    @property
    def path(self) -> str:
        """Return where the entry is, relative to the root."""
        return f"{FOLDER}/dt={self.day}/{self.time}-{self.project_id}.json"


def read(root: Storage, path: str, project_id: str) -> Receipt | None:
    """
    Return an entry, None where there is none, or where it is not about stored files.

    :raises ReceiptError: if it cannot be trusted.
    """
    data = root.read(path, MAX_BYTES)
    return None if data is None else receipts.parse(data, project_id)


def write(root: Storage, receipt: Receipt) -> None:
    """Write the entry of a project whose files are all in place."""
    root.write(path_of(receipt), receipts.dump(receipt.data))


def find(root: Storage, project: Mapping[str, Any], project_id: str, now: datetime) -> Receipt | None:
    """
    Return the entry of a project as the API gives it, None where there is none.

    :raises ReceiptError: if it cannot be trusted.
    """
    at = receipts.created_at(project, now)
    if at == now:  # the API does not say when it was created
        return search(root, project_id)
    return read(root, entry_path(at, project_id), project_id)


def search(root: Storage, project_id: str) -> Receipt | None:
    """
    Return the entry of a project of which only the id is known, the newest day first.

    This lists the days until the entry is found.
    """
    for day in reversed(days(root)):
        for entry in entries(root, day):
            if entry.project_id == project_id:
                return read(root, entry.path, project_id)
    return None


def days(root: Storage) -> list[str]:
    """Return the days of the catalogue in order, as ``2026-11-21``."""
    return [match[1] for name in root.names(FOLDER) if (match := _DAY.fullmatch(name))]


def entries(root: Storage, day: str) -> Iterator[Entry]:
    """Give the entries of a day in order, each with its events; names of others are passed over."""
    events: dict[tuple[str, str], set[str]] = {}
    for name in root.scan(f"{FOLDER}/dt={day}"):
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        time, project_id, event = match.groups()
        if event:  # its name comes before its entry's: '-' is before '.'
            events.setdefault((time, project_id), set()).add(event)
        else:
            yield Entry(day, time, project_id, frozenset(events.pop((time, project_id), ())))


# ----------------------------------------------------------------------------------------------- events


def record(root: Storage, path: str, receipt: Receipt, event: str, **facts: Any) -> None:
    """
    Record what happened to a project after its download.

    :param path: the path of its entry.
    :param facts: what else the event says.
    """
    data = {
        "version": receipts.VERSION,
        "event": event,
        "project_id": receipt.project_id,
        "kind": receipt.kind,
        "account_id": receipt.account_id,
        "magichour_conn_id": receipt.conn_id,
        "at": receipts.timestamp(datetime.now(UTC)),
        **facts,
    }
    # a lost event does no harm: the next clean-up finds the project gone
    root.write(event_path(path, event), receipts.dump(data), sync=False)


def forget(root: Storage, receipt: Receipt, event: str) -> None:
    """Remove an event that a new download has made untrue."""
    root.remove(event_path(path_of(receipt), event))


def moved_files(root: Storage, path: str) -> dict[str, str]:
    """
    Return where the files of an entry were moved on purpose, by name.

    :param path: the path of the entry.
    :raises ReceiptError: if what is recorded cannot be trusted.
    """
    data = root.read(event_path(path, MOVED), MAX_BYTES)
    if data is None:
        return {}
    moved = receipts.load(data).get("moved_to")
    if not isinstance(moved, dict):
        raise ReceiptError("the record of moved files names none")
    return {str(name): where for name, where in moved.items() if isinstance(where, str) and where.strip()}


def acknowledge_moved(root: Storage, receipt: Receipt, moved_to: Mapping[str, str]) -> None:
    """
    Record that files of a project were moved away on purpose, so that a clean-up does not look for them.

    :param moved_to: where each file went, by its name.
    :raises ReceiptError: if the receipt does not list one of them.
    """
    receipts.check_moved(receipt, moved_to)
    known = moved_files(root, path_of(receipt))
    record(root, path_of(receipt), receipt, MOVED, moved_to={**known, **moved_to})

"""
The catalogue: one small JSON object for each project. It is receipt, index and record in one.

    {root}/magichour-catalog/dt=2026-11-21/133304-cm9x1y2z30001.json            the entry
    {root}/magichour-catalog/dt=2026-11-21/133304-cm9x1y2z30001-deleted.json    a later event
    {root}/magichour-catalog/dt=2026-11-21/133304-cm9x1y2z30001-reused-5d41402a.json   an event of one try
    {root}/magichour-catalog/dt=2026-11-21/133304-3f9a0c41d2b7e688-uncertain.json   a submit without an id

The day is the day of the project's creation, in UTC. The six digits are the time that was left of that day,
so 133304 stands for 10:26:55. An entry is therefore found without a search, and object stores, which list
names in order, return the newest entries of a day first. An entry is written once, when all files of the
project are stored, or when the project failed or was canceled. Later events are separate objects, so no
object is ever changed. Only a download replaces an entry. :mod:`recorder` writes the entries of projects
without stored files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airflow_provider_magichour._transfer import receipts, receipts_0_1_0
from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour._transfer.locations import index_root
from airflow_provider_magichour._transfer.receipts import MAX_BYTES, Receipt, ReceiptError, Writer
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour.tools import Kind

FOLDER = "magichour-catalog"
#: The events of a project. Each one is a separate object.
DELETED, MOVED, TIMED_OUT, REUSED = "deleted", "moved", "timed_out", "reused"
#: The events of a submit before its project is finished.
SUBMITTED, UNCERTAIN = "submitted", "uncertain"

_DAY = re.compile(r"dt=(\d{4}-\d{2}-\d{2})", re.ASCII)
#: Time left and project; for an event also what happened, and the try if several tries can cause it.
_NAME = re.compile(
    r"((?:[01]\d|2[0-3])[0-5]\d[0-5]\d)-([A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}?)"
    r"(?:-(deleted|moved|timed_out|reused|submitted|uncertain)(?:-[0-9a-f]{8})?)?\.json",
    re.ASCII,
)


def entry_path(created_at: datetime, project_id: str) -> str:
    """Return where the entry of a project is, relative to the root."""
    return Entry(f"{created_at.date()}", f"{created_at:%H%M%S}", project_id).path


def path_of(receipt: Receipt) -> str:
    """Return where the entry of a receipt is, relative to the root."""
    return entry_path(receipt.created_at, receipt.project_id)


def event_path(path: str, event: str, described: Mapping[str, Any] | None = None) -> str:
    """
    Return where an event is recorded, by the path of its entry.

    :param described: the try, by the names of :data:`receipts.TASK_FIELDS`. If several tries can cause the
        event, each has its own name, so that no object is overwritten.
    """
    if described is not None and event in {TIMED_OUT, REUSED}:
        named = json.dumps([described.get(name) for name in receipts.TASK_FIELDS], default=str)
        event = f"{event}-{hashlib.sha256(named.encode()).hexdigest()[:8]}"
    return f"{path.removesuffix('.json')}-{event}.json"


@dataclass(frozen=True)
class Entry:
    """
    An entry of the catalogue, according to its name.

    :param day: the day of its partition, such as ``2026-11-21``.
    :param time: the time of the day, such as ``102655``.
    :param events: its events.
    """

    day: str
    time: str
    project_id: str
    events: frozenset[str] = frozenset()

    @property
    def path(self) -> str:
        """Return where the entry is, relative to the root."""
        return f"{FOLDER}/dt={self.day}/{self.name}"

    @property
    def name(self) -> str:
        """Return the name of the object. In order of their names, the newest entries of a day come first."""
        return f"{_time_left(self.time)}-{self.project_id}.json"


def _time_left(time: str) -> str:
    """Return the time until the last second of the day, and for that again the time."""
    return f"{235959 - int(time):06}"


def read(root: Storage, path: str, project_id: str) -> Receipt | None:
    """
    Return an entry, or None if there is none or it is not about stored files.

    :raises ReceiptError: if it cannot be trusted.
    """
    data = root.read(path, MAX_BYTES)
    return None if data is None else receipts.parse(data, project_id)


def write(root: Storage, receipt: Receipt) -> None:
    """Write the entry of a project whose files are all stored."""
    root.write(path_of(receipt), receipts.dump(receipt.data))


def find(root: Storage, project: Mapping[str, Any], project_id: str, now: datetime) -> Receipt | None:
    """
    Return the entry of a project from the API's response, or None if there is none.

    :raises ReceiptError: if it cannot be trusted.
    """
    at = receipts.created_at(project, now)
    if at == now:  # the API does not say when it was created
        return search(root, project_id)
    return read(root, entry_path(at, project_id), project_id)


def search(root: Storage, project_id: str) -> Receipt | None:
    """
    Return the entry of a project of which only the id is known.

    This lists the days, the newest first, until the entry is found.
    """
    for day in reversed(days(root)):
        for entry in entries(root, day):
            if entry.project_id == project_id:
                return read(root, entry.path, project_id)
    return None


def days(root: Storage) -> list[str]:
    """Return the days of the catalogue in order, as ``2026-11-21``."""
    return [match[1] for name in root.names(FOLDER) if (match := _DAY.fullmatch(name))]


def entries(root: Storage, day: str, latest: str = "235959") -> Iterator[Entry]:
    """
    Yield the entries of a day, the newest first, each with its events.

    :param latest: the time of the newest entry to yield, as ``102655``.
    """
    return _entries_of(day, root.scan(f"{FOLDER}/dt={day}", _time_left(latest)))


def entries_of_days(root: Storage, some: Sequence[str]) -> tuple[list[Entry], int]:
    """
    Return the entries of the last of some days, the newest first, and how many days these are. Only on S3.

    All days are requested together. If that is too much for one request, the days after those that it
    returned are requested. If that is too much, too, there are no entries.

    :param some: the days in order, all that the catalogue has between the first and the last.
    """
    for _ in range(2):
        names = defaultdict[str, list[str]](list)
        day = some[0]
        listed, is_whole = root.first_names(FOLDER, f"dt={day}/")
        for path in listed:
            day, _, name = path.removeprefix("dt=").partition("/")
            names[day].append(name)
        if is_whole or f"{day}/" > f"{some[-1]}/":  # in the order of the store
            return [entry for one in reversed(some) for entry in _entries_of(one, names[one])], len(some)
        some = [one for one in some if one > day]
        if not some:
            break
    return [], 0


def _entries_of(day: str, names: Iterable[str]) -> Iterator[Entry]:
    """Yield the entries with these names, each with its events. Other names are ignored."""
    events: dict[tuple[str, str], set[str]] = {}
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        left, project_id, event = match.groups()
        if event:  # an event is listed before its entry, because '-' is before '.'
            events.setdefault((left, project_id), set()).add(event)
        else:
            yield Entry(day, _time_left(left), project_id, frozenset(events.pop((left, project_id), ())))


# ---------------------------------------------------------------------------------------------- events


def record(root: Storage, path: str, event: str, described: Mapping[str, Any], **facts: Any) -> None:
    """
    Record an event of a project.

    :param path: the path of its entry.
    :param described: the project and the task, which the event repeats.
    :param facts: the further fields of the event.
    """
    about = ("project_id", "kind", "tool", "account_id", "magichour_conn_id", *receipts.TASK_FIELDS)
    data = {
        "version": receipts.VERSION,
        "event": event,
        **{name: described.get(name) for name in about},
        "at": receipts.timestamp(datetime.now(UTC)),
        **facts,
    }
    # a lost event does no harm: the next clean-up finds that the project is deleted
    root.write(event_path(path, event, described), receipts.dump(data), sync=False)


def moved_files(root: Storage, path: str, receipt: Receipt) -> dict[str, str]:
    """
    Return the new places of the moved files of an entry, by name.

    Files that were moved before the entry's download, or from another destination, are not those.

    :param path: the path of the entry.
    :param receipt: the entry.
    :raises ReceiptError: if the record cannot be trusted.
    """
    data = root.read(event_path(path, MOVED), MAX_BYTES)
    if data is None:
        return {}
    event = receipts.load(data)
    moved = event.get("moved_to")
    if not isinstance(moved, dict):
        raise ReceiptError("the record of moved files names none")
    is_earlier = str(event.get("at") or "") < receipts.timestamp(receipt.downloaded_at)
    if is_earlier or event.get("destination", receipt.destination) != receipt.destination:
        return {}
    return {str(name): where for name, where in moved.items() if isinstance(where, str) and where.strip()}


# ------------------------------------------------------------------------------- one destination's projects


@dataclass(frozen=True)
class Catalogue:
    """The catalogue of a destination, and the receipts of version 0.1.0 there."""

    root: Storage
    destination: Storage

    @classmethod
    def open(cls, destination: object, unrendered: object = None, index: object = None) -> Catalogue:
        """Open the catalogue of a destination, at the place that :func:`index_root` returns."""
        root = index_root(unrendered, destination, index)
        return cls(open_destination(root, "index"), open_destination(destination))

    def find(self, project_id: str, project: Any = None) -> Receipt | None:
        """
        Return the receipt of a project, wherever its files are, or None if there is none.

        :param project: the project from the API's response; any other value if it is deleted there.
        :raises ReceiptError: if there is a receipt that cannot be trusted.
        """
        return self._entry(project_id, project) or receipts_0_1_0.read(self.destination, project_id)

    def find_here(self, project_id: str, project: Any, sizes: Mapping[str, int]) -> Receipt | None:
        """
        Return the receipt of a project whose files are in this destination, as :meth:`find` does.

        :param sizes: the files in the project's folder, with their sizes.
        """
        receipt = self._entry(project_id, project)
        if receipt and receipt.is_at(self.root, self.destination):
            return receipt
        has_old = receipts_0_1_0.FILE_NAME in sizes
        return receipts_0_1_0.read(self.destination, project_id) if has_old else None

    def _entry(self, project_id: str, project: Any) -> Receipt | None:
        if isinstance(project, Mapping):
            return find(self.root, project, project_id, datetime.now(UTC))
        return search(self.root, project_id)

    def add_download(
        self,
        project: Mapping[str, Any],
        project_id: str,
        kind: Kind,
        writer: Writer,
        *,
        files: Sequence[Mapping[str, Any]],
        replaced: Receipt | None,
    ) -> None:
        """
        Write the entry of a project whose files are all in place.

        :param project: the project as the API gives it.
        :param replaced: the receipt that :meth:`find_here` gave.
        """
        if replaced is not None:  # a plain download does not know these fields, but the first task knew them
            given = {
                name: fact for name, fact in writer.facts.get(project_id, {}).items() if fact is not None
            }
            known = {name: replaced.data.get(name) for name in receipts.FACTS}
            writer = dataclasses.replace(writer, facts={project_id: {**known, **given}})
        receipt = receipts.make(
            project,
            project_id,
            kind,
            writer,
            root=self.root,
            destination=self.destination,
            files=files,
            downloaded_at=datetime.now(UTC),
        )
        write(self.root, receipt)
        if replaced is None:
            return
        for event in (DELETED, MOVED):  # the project exists, and its files are here again
            self.root.remove(event_path(path_of(receipt), event))
        if replaced.data["version"] == 1:
            receipts_0_1_0.remove(self.destination, replaced)

    def add_deletion(
        self, receipt: Receipt, account_id: str | None, outcome: str, path: str | None = None
    ) -> None:
        """
        Record that a project is deleted at Magic Hour.

        :param outcome: ``deleted``, or ``missing`` if it was deleted before.
        :param path: the path of its entry, if it is known.
        """
        is_old = receipt.data["version"] == 1
        if is_old:
            receipt = receipts.upgrade(receipt, account_id, self.root, self.destination)
            write(self.root, receipt)
        about = {**receipt.data, "account_id": account_id}
        record(self.root, path or path_of(receipt), DELETED, about, outcome=outcome)
        if is_old:
            receipts_0_1_0.remove_hint(self.destination, receipts_0_1_0.hint_path(receipt))

    def add_moved(self, project_id: str, moved_to: Mapping[str, str]) -> None:
        """
        Record that files of a project were moved on purpose, so that a clean-up does not search for them.

        :param moved_to: where each file went, by its name.
        :raises ReceiptError: if there is no receipt, or it does not list one of the files.
        """
        receipt = self.find(project_id)
        if receipt is None:
            raise ReceiptError(f"there is no receipt of it below {self.root.shown('')}")
        receipts.check_moved(receipt, moved_to)
        if receipt.data["version"] == 1:
            receipts_0_1_0.add_moved(self.destination, receipt, moved_to)
            return
        path = path_of(receipt)
        moved = {**moved_files(self.root, path, receipt), **moved_to}
        record(self.root, path, MOVED, receipt.data, moved_to=moved, destination=receipt.destination)

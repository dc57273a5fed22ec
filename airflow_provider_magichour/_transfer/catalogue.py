"""
The catalogue: for each project one small JSON object, which is its receipt, its index and its record in one.

    {root}/magichour-catalog/dt=2026-11-21/102655-cm9x1y2z30001.json            the entry
    {root}/magichour-catalog/dt=2026-11-21/102655-cm9x1y2z30001-deleted.json    what happened later: an event
    {root}/magichour-catalog/dt=2026-11-21/102655-cm9x1y2z30001-reused-5d41402a.json   one of several tries
    {root}/magichour-catalog/dt=2026-11-21/102655-3f9a0c41d2b7e688-uncertain.json   a submit without an id

Day and time are those of the project's creation, in UTC, so that an entry is found without a search, and the
entries of a day are listed in order. An entry is written once, when a project's fate is known: all its files
are in place, or it failed or was canceled. What happens later is an object of its own, so that nothing is
ever changed; only a download replaces an entry. All entries and events are written here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airflow_provider_magichour._transfer import receipts, receipts_0_1_0
from airflow_provider_magichour._transfer.receipts import MAX_BYTES, Receipt, ReceiptError, Writer
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour.tools import Kind

FOLDER = "magichour-catalog"
#: What may happen to a project besides its end: each is an object of its own.
DELETED, MOVED, TIMED_OUT, REUSED = "deleted", "moved", "timed_out", "reused"
#: What is known of a submit before its project's end.
SUBMITTED, UNCERTAIN = "submitted", "uncertain"

_DAY = re.compile(r"dt=(\d{4}-\d{2}-\d{2})", re.ASCII)
#: Time, project, and for an event what happened, and to which try where it may happen to several.
NAME = re.compile(
    r"(\d{6})-([A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}?)"
    r"(?:-(deleted|moved|timed_out|reused|submitted|uncertain)(?:-[0-9a-f]{8})?)?\.json",
    re.ASCII,
)


def entry_path(created_at: datetime, project_id: str) -> str:
    """Return where the entry of a project is, relative to the root."""
    return f"{FOLDER}/dt={created_at.date()}/{created_at:%H%M%S}-{project_id}.json"


def path_of(receipt: Receipt) -> str:
    """Return where the entry of a receipt is, relative to the root."""
    return entry_path(receipt.created_at, receipt.project_id)


def event_path(path: str, event: str, described: Mapping[str, Any] | None = None) -> str:
    """
    Return where an event is recorded, by the path of its entry.

    :param described: the try to which it happened, by the names of :data:`receipts.TASK_FIELDS`. What may
        happen to several has a name for each, so that no object is overwritten.
    """
    if described is not None and event in {TIMED_OUT, REUSED}:
        named = json.dumps([described.get(name) for name in receipts.TASK_FIELDS], default=str)
        event = f"{event}-{hashlib.sha256(named.encode()).hexdigest()[:8]}"
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
        match = NAME.fullmatch(name)
        if match is None:
            continue
        time, project_id, event = match.groups()
        if event:  # its name comes before its entry's: '-' is before '.'
            events.setdefault((time, project_id), set()).add(event)
        else:
            yield Entry(day, time, project_id, frozenset(events.pop((time, project_id), ())))


# ---------------------------------------------------------------------------------------------- events


def record(root: Storage, path: str, event: str, described: Mapping[str, Any], **facts: Any) -> None:
    """
    Record what happened to a project besides its end.

    :param path: the path of its entry.
    :param described: what is known of the project, of which an event repeats who and what it is about.
    :param facts: what else the event says.
    """
    about = ("project_id", "kind", "tool", "account_id", "magichour_conn_id", *receipts.TASK_FIELDS)
    data = {
        "version": receipts.VERSION,
        "event": event,
        **{name: described.get(name) for name in about},
        "at": receipts.timestamp(datetime.now(UTC)),
        **facts,
    }
    # a lost event does no harm: the next clean-up finds the project gone
    root.write(event_path(path, event, described), receipts.dump(data), sync=False)


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


# ---------------------------------------------------------------------- projects without stored files


def add_end(root: Storage, project: Mapping[str, Any], project_id: str, kind: Kind, writer: Writer) -> None:
    """
    Write the entry of a finished project whose files are not stored: failed, canceled, or only complete.

    :param project: the project as the API gives it.
    """
    at = receipts.created_at(project, datetime.now(UTC))
    path = entry_path(at, project_id)
    if root.read(path, MAX_BYTES) is not None:
        return  # its files were stored meanwhile, or another task wrote its end
    root.write(path, receipts.dump(receipts.describe(project, project_id, kind, writer)))


def add_event(root: Storage, event: str, project: Mapping[str, Any], kind: Kind, writer: Writer) -> None:
    """
    Record what happened to a project, with what it cost as far as that is known.

    :param project: the project as the API gives it, or as much of it as is known, with its ``id``.
    """
    project_id = str(project["id"])
    data = receipts.describe(project, project_id, kind, writer)
    path = entry_path(receipts.created_at(project, datetime.now(UTC)), project_id)
    names = ("type", "status", "created_at", "credits_charged", "body_fingerprint")
    record(root, path, event, data, **{name: data[name] for name in names})


def add_uncertain(root: Storage, fingerprint: str, kind: Kind, writer: Writer) -> None:
    """Record a submit of which nobody knows whether it was accepted, by the fingerprint of its body."""
    data = receipts.describe({}, fingerprint, kind, writer)
    path = entry_path(datetime.now(UTC), fingerprint)
    record(root, path, UNCERTAIN, {**data, "project_id": None}, body_fingerprint=fingerprint)


# ------------------------------------------------------------------------------- one destination's projects


@dataclass(frozen=True)
class Catalogue:
    """
    The catalogue of a destination, and the receipts that version 0.1.0 left there.

    :param root: where the catalogue lies.
    :param destination: where the files are.
    """

    root: Storage
    destination: Storage

    def find(self, project_id: str, project: Any = None) -> Receipt | None:
        """
        Return the receipt of a project, wherever its files are; None where there is none.

        :param project: the project as the API gives it; anything else where it is gone there.
        :raises ReceiptError: if there is one that cannot be trusted.
        """
        return self._entry(project_id, project) or receipts_0_1_0.read(self.destination, project_id)

    def find_here(self, project_id: str, project: Any, sizes: Mapping[str, int]) -> Receipt | None:
        """
        Return the receipt of a project whose files are in this destination, as :meth:`find` does.

        :param sizes: what is in the project's folder.
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
        if replaced is not None:  # a plain download does not know what the task that made it knew
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
        for event in (DELETED, MOVED):  # it was there to be downloaded, and is here now
            self.root.remove(event_path(path_of(receipt), event))
        if replaced.data["version"] == 1:
            receipts_0_1_0.remove(self.destination, replaced)

    def add_deletion(
        self, receipt: Receipt, account_id: str | None, outcome: str, path: str | None = None
    ) -> None:
        """
        Record that a project is deleted at Magic Hour.

        :param outcome: ``deleted``, or ``missing`` where it was gone already.
        :param path: the path of its entry, where that is known.
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
        Record that files of a project were moved away on purpose, so that a clean-up does not look for them.

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
        moved = {**moved_files(self.root, path), **moved_to}
        record(self.root, path, MOVED, receipt.data, moved_to=moved)

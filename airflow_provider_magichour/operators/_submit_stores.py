"""
The stores of submit records: Airflow's task state store, and a folder in object storage.

In object storage a record is its own object below
``.magichour/submits/{dag}/{run}/{task}/{map index}``, and its *name* holds all of it. So one LIST reads what
a task has recorded, and no object is ever overwritten.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, unquote

from airflow_provider_magichour.operators._clear_or_retry import Ending, Reported, UnreadableRecordError
from airflow_provider_magichour.operators._submit_record import INTENT, Record

if TYPE_CHECKING:
    from airflow_provider_magichour._transfer.storage import Storage

#: The folder of submit records, relative to the root.
FOLDER = ".magichour/submits"
#: The largest ending in the task state store, in bytes. Airflow recommends at most 65,535 for a value.
MAX_STATE_VALUE = 60_000
#: The largest object that is read, in bytes.
MAX_OBJECT = 64 * 1024 * 1024
#: The most empty slots in a row, which is the number of create calls in progress at once.
MAX_GAP = 8
#: The longest name of an object, in characters: the limit of file systems minus a temporary name's parts.
MAX_NAME = 210

_ENDING_KEY = "magichour_success"
#: When an object was written, in its name.
_WRITTEN = re.compile(r",u=(\d{1,12})[.,]")


class Store(Protocol):
    """A store that remains after a try. Its methods raise the store's own errors."""

    name: str
    #: Whether it keeps records after the DAG run is deleted.
    outlives_run: bool

    def is_around(self, destination: Storage) -> bool:
        """Return whether a destination is in the same store, and not on a disk."""
        ...

    def read_records(self, count: int) -> list[Record]:
        """Return the records of the task, whose list now has ``count`` bodies."""
        ...

    def read_ending(self) -> Ending | None:
        """Return how the task last ended, None if it never did."""

    def written_at(self) -> float:
        """Return when the newest of what was read was written, in unix seconds; 0 if that is not known."""
        ...

    def write(self, record: Record) -> None:
        """Write a record."""

    def write_ending(self, ending: Ending) -> None:
        """Write how the task ended."""

    def discard(self, record: Record) -> None:
        """
        Discard an intent of this try.

        :param record: the intent, with the number of this write.
        """


class TaskStateStore:
    """
    Airflow's ``task_state_store`` (3.3 and newer): one key for each slot.

    :param store: what the context holds.
    """

    name = "Airflow's task state store"
    outlives_run = False

    def __init__(self, store: Any) -> None:
        self._store = store
        self._options = _retention(store)
        self._lock = threading.Lock()  # the task has only one channel to its supervisor

    def is_around(self, destination: Storage) -> bool:
        """Return False, because it stores no files."""
        return False

    def read_records(self, count: int) -> list[Record]:
        """Return the records. Slots beyond the list are from a longer list of an earlier try."""
        ending = self._get(_ENDING_KEY)
        records: list[Record] = []
        slot = empty = 0
        while slot < count or empty < MAX_GAP:
            value = self._get(_key(slot))
            empty = empty + 1 if value is None else 0
            if value is not None:
                records.append(_read_record(value, slot, ending))
            slot += 1
        return records

    def read_ending(self) -> Ending | None:
        """Return how the task last ended."""
        value = self._get(_ENDING_KEY)
        return None if value is None else Ending.from_json(value)

    def written_at(self) -> float:
        """Return 0: Airflow refuses what a try writes that it has replaced."""
        return 0.0

    def write(self, record: Record) -> None:
        """Write a record."""
        self._set(_key(record.slot), record.to_json())

    def write_ending(self, ending: Ending) -> None:
        """Write how the task ended, without its results if they are too large."""
        value = ending.to_json()
        if len(json.dumps(value)) > MAX_STATE_VALUE:
            value = dataclasses.replace(ending, results={}).to_json()
        self._set(_ENDING_KEY, value)

    def discard(self, record: Record) -> None:
        """Write a record with a higher number. The slot stays, because readers stop after many empty ones."""
        self.write(record)

    def _get(self, key: str) -> Any:
        with self._lock:
            return self._store.get(key)

    def _set(self, key: str, value: dict[str, Any]) -> None:
        with self._lock:
            self._store.set(key, value, **self._options)


class ObjectStore:
    """
    A folder in object storage or on disk: one object for each version of a record.

    :param task: identifies the task instance: DAG, run, task and map index.
    """

    outlives_run = True

    def __init__(self, storage: Storage, task: tuple[str, str, str, int]) -> None:
        self._storage = storage
        self._folder = "/".join([FOLDER, *(_segment(str(part)) for part in task)])
        self._listed: list[str] | None = None
        self._intents: dict[int, list[str]] = {}
        self.name = storage.shown(self._folder)

    def is_around(self, destination: Storage) -> bool:
        """Return whether a destination is below the root, in the same object store."""
        root = self._storage
        return not root.is_local and root.fs is destination.fs and root.relative(destination.url) is not None

    def read_records(self, count: int) -> list[Record]:
        """Return the current records, each with all its versions."""
        self._listed = None
        return [self._read_record(name) for name in self._names() if not name.startswith("end-")]

    def read_ending(self) -> Ending | None:
        """Return how the task last ended."""
        names = [name for name in self._names() if name.startswith("end-")]
        return Ending.from_json(self._read(max(names, key=_ending_order))) if names else None

    def written_at(self) -> float:
        """Return when the newest of what was read was written."""
        written = (_WRITTEN.search(name) for name in self._listed or ())
        return max((float(match[1]) for match in written if match), default=0.0)

    def write(self, record: Record) -> None:
        """Write a record beside its earlier versions."""
        name = _record_name(record)
        if record.state == INTENT:  # even if the response is lost
            self._intents.setdefault(record.slot, []).append(name)
        self._storage.write(f"{self._folder}/{name}", _json(record.to_json()))

    def write_ending(self, ending: Ending) -> None:
        """Write how the task ended."""
        name = f"end-{ending.number:05d},u={time.time():.0f}.json"
        self._storage.write(f"{self._folder}/{name}", _json(ending.to_json()))

    def discard(self, record: Record) -> None:
        """Remove the intent, and nothing else: what became of an earlier project of its slot still counts."""
        try:
            for name in self._intents.get(record.slot, []):
                self._storage.remove(f"{self._folder}/{name}")
        except Exception:  # noqa: BLE001  # the connection may not delete: then the higher number counts
            self.write(record)
        self._intents.pop(record.slot, None)

    def _names(self) -> list[str]:
        if self._listed is None:
            found = self._storage.names(self._folder)
            self._listed = [name for name in found if not name.startswith(".")]  # the .tmp of a killed task
        return self._listed

    def _read_record(self, name: str) -> Record:
        record = _record_of_name(name)
        return record or Record.from_json(self._read(name), int(name.partition("-")[0]))

    def _read(self, name: str) -> Any:
        data = self._storage.read(f"{self._folder}/{name}", MAX_OBJECT)
        try:
            return json.loads(data or b"")
        except ValueError:
            raise UnreadableRecordError(self._storage.shown(f"{self._folder}/{name}")) from None


def remove_old_records(storage: Storage, before: datetime) -> int:
    """
    Remove the submit records below a root that were written before a time, and return how many.

    :param before: so long ago that nobody retries or clears these DAG runs any more.
    """
    removed = 0
    for path in _walk(storage):
        written = _WRITTEN.search(path)
        if written and int(written[1]) < before.timestamp():
            storage.remove(f"{FOLDER}/{path}")
            removed += 1
    return removed


def _walk(storage: Storage) -> Iterator[str]:
    try:
        yield from storage.walk(FOLDER)
    except FileNotFoundError:
        return


# ------------------------------------------------------------------------------------------------- names


#: The fields in the name of a record after its slot, number and state, by their letters.
_LETTERS = {"b": "body", "e": "epoch", "i": "id", "a": "account", "c": "credits_charged", "w": "writer"}


def _record_name(record: Record) -> str:
    """Return a record as a name: ``00000-00002,made,b=3f2a...,i=cm9x...,c=5,u=1795651200.json``."""
    start = f"{record.slot:05d}-{record.number:05d},{record.state}"
    values = {letter: getattr(record, name) for letter, name in _LETTERS.items()}
    values |= {"e": record.epoch or None, "t": _join(record.reported)}
    written = f"u={time.time():.0f}.json"
    given = [f"{key}={quote(str(value), safe='')}" for key, value in values.items() if value is not None]
    name = ",".join([start, *given, written])
    # if the id is very long, the content has the whole record
    return name if len(name) <= MAX_NAME else f"{start},{written}"


def _record_of_name(name: str) -> Record | None:
    """Return the record from a name, or None if the object's content must be read."""
    match = re.fullmatch(r"(\d{5,})-(\d{5,}),(\w+)((?:,\w=[^,=]*)*)\.json", name, re.ASCII)
    if not match:
        raise UnreadableRecordError(name)
    values = {each[0]: unquote(each[2:]) for each in match[4].split(",") if each}
    if "b" not in values:
        return None
    value: dict[str, Any] = {_LETTERS[each]: text for each, text in values.items() if each in _LETTERS}
    if "c" in values:
        value["credits_charged"] = float(values["c"])
    if "t" in values:
        why, *numbers = values["t"].split(".")
        value["reported"] = Reported(why, *map(_int, numbers))._asdict()  # type: ignore[arg-type]
    return Record.from_json({**value, "number": match[2], "state": match[3]}, int(match[1]))


def _ending_order(name: str) -> tuple[int, str]:
    number = name.removeprefix("end-").partition(",")[0]
    return (int(number) if number.isdecimal() else -1, name)


def _join(values: Iterable[Any] | None) -> str | None:
    return None if values is None else ".".join(map(str, values))


def _int(text: str) -> int | None:
    return None if text == "None" else int(text)


def _segment(text: str) -> str:
    """Return a unique part of a path for a text, of limited length."""
    quoted = quote(text, safe="").replace(".", "%2E")
    if len(quoted) <= 120:
        return quoted
    return f"{quoted[:80]}~{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, default=str).encode()


# ------------------------------------------------------------------------------------------- task state


def _key(slot: int) -> str:
    return f"magichour_submit_{slot}"


def _read_record(value: Any, slot: int, ending: Any) -> Record:
    """
    Read a stored record.

    Version 0.1.0 had no epochs. Its submits after a Clear of a success have a higher ``max_tries``.
    """
    try:
        record = Record.from_json(value, slot)
    except UnreadableRecordError:
        raise UnreadableRecordError(f"{_key(slot)}: {str(value)[:200]!r}") from None
    succeeded = ending.get("max_tries") if isinstance(ending, Mapping) else None
    if "state" in value or succeeded is None:
        return record
    return dataclasses.replace(record, epoch=int(value["max_tries"] > succeeded))


def _retention(store: Any) -> dict[str, Any]:
    """Keep records as long as their DAG run, because a Clear may come after Airflow's default of 30 days."""
    try:
        from airflow.sdk.execution_time.context import NEVER_EXPIRE, TaskStateStoreAccessor
    except ImportError:
        return {}
    return {"retention": NEVER_EXPIRE} if isinstance(store, TaskStateStoreAccessor) else {}

"""What is recorded at the roots, as the page shows it: newest first, filtered, a page at a time."""

from __future__ import annotations

import heapq
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_magichour._transfer.catalogue import DELETED
from airflow_provider_magichour._transfer.newest import Place, Record, files_of, newest
from airflow_provider_magichour._transfer.receipts import Receipt, ReceiptError, file_name
from airflow_provider_magichour._transfer.storage import Storage, open_destination
from airflow_provider_magichour.ui.media import StoredFile, file_key, media_of

log = logging.getLogger(__name__)

#: Records that are read for one page at most, and for the sums.
MOST_READ = 2000
#: Names that are looked through for a project.
MOST_LISTED = 20_000
#: Files of a project that are shown, and characters of a text.
MOST_FILES, MOST_TEXT = 100, 1000
#: How many records are kept in memory, and how long.
KEPT, KEPT_SECONDS = 5000, 60.0

_CURSOR = re.compile(r"([01])-(\d{8})-(\d{6})-([A-Za-z0-9_-][A-Za-z0-9_.-]{0,127})", re.ASCII)
_PARALLEL = 16


@dataclass(frozen=True)
class Item:
    """
    A project as the page shows it.

    :param dag_id: the DAG that made it; without one, nobody sees it.
    :param row: what the page gets.
    :param files: the stored files by their keys.
    """

    dag_id: str
    row: Mapping[str, Any]
    files: Mapping[str, StoredFile]


@dataclass(frozen=True)
class Wanted:
    """What a page asks for; empty: all. Days are as ``20261121``."""

    dag: str = ""
    run: str = ""
    kind: str = ""
    state: str = ""
    first_day: str = ""
    last_day: str = ""
    projects: frozenset[str] = frozenset()

    def has(self, row: Mapping[str, Any]) -> bool:
        """Return whether an item is wanted; days and projects are looked for by name."""
        return all(not wanted or wanted == row[name] for name, wanted in vars(self).items() if name in row)


@dataclass(frozen=True)
class Page:
    """A part of the items, where the next one begins, whether records were left unread, and what failed."""

    items: list[Item]
    next: str | None
    is_partial: bool
    problems: list[str]


class Library:
    """
    What is recorded at the roots.

    :param roots: the destinations by name.
    """

    def __init__(self, roots: Mapping[str, str]) -> None:
        self._roots = roots
        self._opened: dict[str, Storage] = {}
        self._kept: OrderedDict[tuple[str, str], tuple[float, Item | None]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_PARALLEL, "magichour-view")

    def _storage(self, name: str) -> Storage:
        """Return a root; one that cannot be opened is tried again the next time."""
        if name not in self._opened:
            self._opened[name] = open_destination(self._roots[name], "view_roots")
        return self._opened[name]

    def _reachable(self) -> dict[str, Storage]:
        """Return the roots that can be opened; a list of what is there tells of the others."""
        for name in self._roots:
            with suppress(Exception):
                self._storage(name)
        return dict(self._opened)

    def origins(self) -> list[str]:
        """Return where browsers are led to for files: the stores that presign."""
        found = set[str]()
        for storage in self._reachable().values():
            parts = urlsplit(StoredFile(storage, "x", 0, "image/png").sign() or "")
            # it goes into a header
            if re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", parts.netloc):
                found.add(f"{parts.scheme}://{parts.netloc}")
        return sorted(found)

    def page(
        self, wanted: Wanted, may_read: Callable[[str], bool], before: str = "", limit: int = 48
    ) -> Page:
        """
        Return the newest items that a user may see.

        :param may_read: whether the user may read a DAG.
        :param before: where the page before ended, as it said.
        """
        match = _CURSOR.fullmatch(before)
        place = Place(match[1] == "1", *match.groups()[1:]) if match else None
        found, read, last, problems = list[Item](), 0, place, list[str]()
        records = self._records(wanted, place, problems)
        while batch := list(islice(records, min(limit, MOST_READ - read))):
            read += len(batch)
            for (_, record), item in zip(batch, self._pool.map(self._item, batch), strict=True):
                if item and wanted.has(item.row) and may_read(item.dag_id):
                    found.append(item)
                last = record.place
                if len(found) == limit:
                    return Page(found, _cursor(last), is_partial=False, problems=problems)
        is_partial = read >= MOST_READ
        return Page(found, _cursor(last) if last and is_partial else None, is_partial, problems)

    def find(self, root: str, project_id: str, at: str = "") -> Item | None:
        """
        Return what is recorded of a project; None where there is nothing.

        :param root: the name of the root.
        :param at: where it is recorded, if that is known: as an item says.
        """
        if root not in self._roots:
            return None
        try:
            storage = self._storage(root)
        except Exception:  # noqa: BLE001 - the page says what is wrong with it
            return None
        match = _CURSOR.fullmatch(at)
        if match and match[4] == project_id:  # then nothing has to be listed
            return self._item((root, Record(storage, Place(match[1] == "1", *match.groups()[1:]))))
        found = next(self._records(Wanted(projects=frozenset((project_id,))), None, [], root), None)
        return self._item(found) if found else None

    def _records(
        self, wanted: Wanted, before: Place | None, problems: list[str], root: str | None = None
    ) -> Iterator[tuple[str, Record]]:
        def of_root(name: str) -> Iterator[tuple[str, Record]]:
            try:
                records = newest(self._storage(name), before, wanted.first_day, wanted.last_day or "9")
                yield from ((name, record) for record in records)
            except Exception as error:  # noqa: BLE001 - the other roots are shown all the same
                problems.append(f"The root {name} cannot be listed: {type(error).__name__}")
                log.error("Magic Hour's view: %s", problems[-1])  # noqa: TRY400

        names = [root] if root else list(self._roots)
        merged = heapq.merge(*map(of_root, names), key=lambda one: one[1].place, reverse=True)
        if not wanted.projects:
            return merged
        left = set(wanted.projects) if len(names) == 1 else set[str]()
        return _only(islice(merged, MOST_LISTED), wanted.projects, left)

    def _item(self, found: tuple[str, Record]) -> Item | None:
        """Return an item, None where the record cannot be trusted; kept for a minute."""
        name, record = found
        key = (name, f"{record.path}{sorted(record.events)}")
        with self._lock:
            until, item = self._kept.get(key, (0.0, None))
        if time.monotonic() < until:
            return item
        try:
            read = record.read()
            item = self._make(name, record, *read) if read else None
        except ReceiptError:
            item = None
        except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
            log.warning("A record of the root %r cannot be read: %s", name, type(error).__name__)
            return None
        with self._lock:
            self._kept[key] = (time.monotonic() + KEPT_SECONDS, item)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return item

    def _make(self, name: str, record: Record, data: Mapping[str, Any], receipt: Receipt | None) -> Item:
        made_by = data.get("downloaded_by")
        by: Mapping[str, Any] = made_by if isinstance(made_by, Mapping) else data  # version 0.1.0 nests it
        is_deleted = DELETED in record.events or bool(data.get("deleted_at"))
        state = "deleted" if is_deleted else "stored" if receipt else "failed"
        stored, shown = self._files(name, record, receipt) if receipt else ({}, [])
        dag_id = _text(by.get("dag_id"))
        row = {
            "root": name,
            "id": record.place.project_id,
            "at": _cursor(record.place),
            "state": state,
            "dag": dag_id,
            "run": _text(by.get("run_id")),
            "task": _text(by.get("task_id")),
            "map_index": index if type(index := by.get("map_index")) is int else -1,
            "created": f"{record.place.day}T{record.place.time}Z",
            "credits": data["credits_charged"] if type(data.get("credits_charged")) in {int, float} else None,
            "files": shown,
            "more_files": len(receipt.files) - len(shown) if receipt else 0,
            "error": ": ".join(
                filter(None, (_text(data.get(key)) for key in ("error_code", "error_message")))
            ),
            **{key: _text(data.get(key)) for key in ("kind", "tool", "name", "prompt", "status")},
        }
        return Item(dag_id, row, stored)

    def _files(
        self, name: str, record: Record, receipt: Receipt
    ) -> tuple[dict[str, StoredFile], list[dict[str, Any]]]:
        """Return the files that may be fetched, by key, and all of them as the page shows them."""
        roots = {name: record.root} if receipt.folder is not None else self._reachable()
        folder = files_of(receipt, record.root, roots)
        within = (one for one in roots.values() if folder and one.relative(folder.url) is not None)
        root = next(within, None)
        stored, shown = {}, []
        for file in receipt.files[:MOST_FILES]:
            title, key = file_name(file), file_key(file)
            media, content_type = media_of(title)
            if root and folder and media:
                below = "/".join(filter(None, (root.relative(folder.url), str(file["path"]))))
                stored[key] = StoredFile(root, below, file["bytes"], content_type)
            shown.append(
                {"key": key if key in stored else "", "name": title, "bytes": file["bytes"], "media": media}
            )
        return stored, shown


def _only(
    records: Iterator[tuple[str, Record]], projects: frozenset[str], left: set[str]
) -> Iterator[tuple[str, Record]]:
    """Give the records of some projects; ends once all that are left were given."""
    is_finite = bool(left)
    for name, record in records:
        if record.place.project_id in projects:
            yield name, record
            left.discard(record.place.project_id)
            if is_finite and not left:
                return


def _cursor(place: Place) -> str:
    return f"{int(place.is_entry)}-{place.day}-{place.time}-{place.project_id}"


def _text(value: object) -> str:
    return value[:MOST_TEXT] if isinstance(value, str) else ""

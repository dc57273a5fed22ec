"""The records of the roots for the page: the newest first, with filters, one page at a time."""

from __future__ import annotations

import heapq
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby, islice
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_magichour._transfer.catalogue import DELETED
from airflow_provider_magichour._transfer.newest import PLACE, Record, files_of, newest
from airflow_provider_magichour._transfer.receipts import Receipt, ReceiptError, file_name
from airflow_provider_magichour._transfer.storage import Storage, open_destination
from airflow_provider_magichour.ui.media import StoredFile, file_key, media_of

log = logging.getLogger(__name__)

#: The most records that are read for a page, and for the sums.
MOST_READ = 2000
#: The most names that are searched for a project.
MOST_LISTED = 20_000
#: The most files of a project, and the most characters of a text.
MOST_FILES, MOST_TEXT = 100, 1000
#: How many records are cached, and how many seconds.
KEPT, KEPT_SECONDS = 5000, 60.0

_PARALLEL = 16


@dataclass(frozen=True)
class Item:
    """
    A project on the page.

    :param dag_id: its DAG. Without one, nobody sees the project.
    :param row: the data for the page.
    :param files: the stored files by their keys.
    """

    dag_id: str
    row: Mapping[str, Any]
    files: Mapping[str, StoredFile]


@dataclass(frozen=True)
class Wanted:
    """What a page requests; empty: all. Days are as ``2026-11-21``, and commas separate projects."""

    dag: str = ""
    run: str = ""
    kind: str = ""
    state: str = ""
    first: str = ""
    last: str = ""
    projects: str = ""

    def has(self, row: Mapping[str, Any]) -> bool:
        """Return whether an item is wanted; days and projects are looked for by name."""
        return all(not wanted or wanted == row[name] for name, wanted in vars(self).items() if name in row)


@dataclass(frozen=True)
class Page:
    """A page of items: the start of the next page, whether records were not read, and the errors."""

    items: list[Item]
    next: str | None
    is_partial: bool
    problems: list[str]


class Library:
    """What is recorded at the roots."""

    def __init__(self, roots: Mapping[str, str]) -> None:
        self._roots = roots
        self._opened: dict[str, Storage] = {}
        self._read = lru_cache(KEPT)(self._read_item)
        self._pool = ThreadPoolExecutor(_PARALLEL, "magichour-view")

    def _storage(self, name: str) -> Storage:
        """Return a root. If it cannot be opened, the next request tries again."""
        if name not in self._opened:
            self._opened[name] = open_destination(self._roots[name], "view_roots")
        return self._opened[name]

    def _reachable(self) -> dict[str, Storage]:
        """Return the roots that can be opened. The list of items has the errors of the others."""
        for name in self._roots:
            with suppress(Exception):
                self._storage(name)
        return dict(self._opened)

    def origins(self) -> list[str]:
        """Return the origins of the stores with presigned URLs, which browsers download from."""
        found = set[str]()
        for storage in self._reachable().values():
            parts = urlsplit(StoredFile(storage, "x", 0, "image/png").sign() or "")
            # it becomes part of a header
            if re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", parts.netloc):
                found.add(f"{parts.scheme}://{parts.netloc}")
        return sorted(found)

    def page(
        self, wanted: Wanted, may_read: Callable[[str], bool], before: str = "", limit: int = 48
    ) -> Page:
        """
        Return the newest items that a user may see.

        :param may_read: whether the user may read a DAG.
        :param before: the end of the previous page, as it was returned.
        """
        last = before if PLACE.fullmatch(before) else ""
        found, read, problems = list[Item](), 0, list[str]()
        records = self._records(wanted, last, problems)
        # two roots may have the same project, and a page ends after both
        places = (list(same) for _, same in groupby(records, key=lambda one: one[1].place))
        while batch := list(islice(places, max(min(limit, MOST_READ - read), 0))):
            items = self._pool.map(self._item, chain.from_iterable(batch))
            for same in batch:
                read += len(same)
                some = islice(items, len(same))
                found += [one for one in some if one and wanted.has(one.row) and may_read(one.dag_id)]
                last = same[0][1].place
                if len(found) >= limit:
                    return Page(found, last, is_partial=False, problems=problems)
        is_partial = read >= MOST_READ
        return Page(found, last if is_partial else None, is_partial, problems)

    def find(self, root: str, project_id: str, at: str = "") -> Item | None:
        """
        Return what is recorded of a project; None if there is nothing.

        :param at: the place of its record from an item, if it is known.
        """
        if root not in self._roots:
            return None
        try:
            storage = self._storage(root)
        except Exception:  # noqa: BLE001 - the page says what is wrong with it
            return None
        match = PLACE.fullmatch(at)
        if match and match[4] == project_id:  # the place is known, so nothing is listed
            return self._item((root, Record(storage, at)))
        found = next(self._records(Wanted(projects=project_id), "", [], root), None)
        return self._item(found) if found else None

    def _records(
        self, wanted: Wanted, before: str, problems: list[str], root: str | None = None
    ) -> Iterator[tuple[str, Record]]:
        def of_root(name: str) -> Iterator[tuple[str, Record]]:
            try:
                records = newest(self._storage(name), before, wanted.first, wanted.last or "9")
                yield from ((name, record) for record in records)
            except Exception as error:  # noqa: BLE001 - the other roots are shown all the same
                problems.append(f"The root {name} cannot be listed: {type(error).__name__}")
                log.error("Magic Hour's view: %s", problems[-1])  # noqa: TRY400

        names = [root] if root else list(self._roots)
        merged = heapq.merge(*map(of_root, names), key=lambda one: one[1].order)
        projects = frozenset(filter(None, wanted.projects.split(",")))
        if not projects:
            return merged
        left = set(projects) if len(names) == 1 else set[str]()
        return _only(islice(merged, MOST_LISTED), projects, left)

    def _item(self, found: tuple[str, Record]) -> Item | None:
        """Return an item, None if the record cannot be read or trusted; kept for a minute."""
        name, record = found
        try:
            return self._read(name, record, time.monotonic() // KEPT_SECONDS)
        except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
            log.warning("A record of the root %r cannot be read: %s", name, type(error).__name__)
            return None

    def _read_item(self, name: str, record: Record, period: float) -> Item | None:
        try:
            read = record.read()
            return self._make(name, record, *read) if read else None
        except ReceiptError:
            return None

    def _make(self, name: str, record: Record, data: Mapping[str, Any], receipt: Receipt | None) -> Item:
        made_by = data.get("downloaded_by")
        by: Mapping[str, Any] = made_by if isinstance(made_by, Mapping) else data  # nested in 0.1.0
        is_deleted = DELETED in record.events or bool(data.get("deleted_at"))
        state = "deleted" if is_deleted else "stored" if receipt else "failed"
        stored, shown = self._files(name, record, receipt) if receipt else ({}, [])
        dag_id = _text(by.get("dag_id"))
        day, at, project_id = record.parts
        row = {
            "root": name,
            "id": project_id,
            "at": record.place,
            "state": state,
            "dag": dag_id,
            "run": _text(by.get("run_id")),
            "task": _text(by.get("task_id")),
            "map_index": index if type(index := by.get("map_index")) is int else -1,
            "created": f"{day}T{at[:2]}:{at[2:4]}:{at[4:]}Z",
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
        """Return the files that may be downloaded, by key, and all files for the page."""
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
    """Yield the records of some projects; ends once all that are left were given."""
    is_finite = bool(left)
    for name, record in records:
        if record.parts[2] in projects:
            yield name, record
            left.discard(record.parts[2])
            if is_finite and not left:
                return


def _text(value: object) -> str:
    return value[:MOST_TEXT] if isinstance(value, str) else ""

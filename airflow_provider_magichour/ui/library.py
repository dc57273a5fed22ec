"""The records of the roots for the page: the newest first, with filters, one page at a time."""

from __future__ import annotations

import heapq
import logging
import posixpath
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain, groupby, islice
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_magichour._transfer.catalogue import DELETED
from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour._transfer.newest import PLACE, Record, newest
from airflow_provider_magichour._transfer.receipts import Receipt, file_name
from airflow_provider_magichour._transfer.storage import Storage
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

    :param row: the data for the page. Without a DAG, nobody sees the project.
    :param files: the stored files by their keys.
    """

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


class Library:
    """What is recorded at the roots."""

    def __init__(self, roots: Mapping[str, str]) -> None:
        self._roots = roots
        # what raises is not cached: the next request tries again
        self._storage = cache(lambda name: open_destination(roots[name], "view_roots"))
        self._read = lru_cache(KEPT)(self._read_item)
        self._pool = ThreadPoolExecutor(_PARALLEL, "magichour-view")

    def _open(self, name: str) -> Storage | None:
        """Return a root; None if there is none, or it cannot be opened: a page says why."""
        with suppress(Exception):
            return self._storage(name)
        return None

    def _reachable(self) -> list[Storage]:
        return [root for name in self._roots if (root := self._open(name))]

    def origins(self) -> list[str]:
        """Return the origins of the stores with presigned URLs, which browsers download from."""
        found = set[str]()
        for storage in self._reachable():
            parts = urlsplit(StoredFile(storage, "x", 0, "image/png").sign() or "")
            # it becomes part of a header
            if re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", parts.netloc):
                found.add(f"{parts.scheme}://{parts.netloc}")
        return sorted(found)

    def page(
        self, wanted: Wanted, may_read: Callable[[str], bool], before: str = "", limit: int = 48
    ) -> dict[str, Any]:
        """
        Return the newest projects that a user may see, and where the next page starts.

        ``is_partial`` says that there are older records, which were not read.

        :param may_read: whether the user may read a DAG.
        :param before: ``next`` of the previous page.
        """
        last = before if PLACE.fullmatch(before) else ""
        rows, read, problems = list[Mapping[str, Any]](), 0, list[str]()
        records = [self._records(name, wanted, last, problems) for name in self._roots]
        merged = heapq.merge(*records, key=lambda one: one[1].order)
        # two roots may have the same project, and a page ends after both
        groups = (list(same) for _, same in groupby(merged, key=lambda one: one[1].place))
        while len(rows) < limit and (some := list(islice(groups, max(min(limit, MOST_READ - read), 0)))):
            batch = list(chain.from_iterable(some))
            read += len(batch)
            for (_, record), item in zip(batch, self._pool.map(self._item, batch), strict=True):
                if len(rows) >= limit and record.place != last:
                    break
                if item and wanted.has(item.row) and may_read(item.row["dag"]):
                    rows.append(item.row)
                last = record.place
        is_full, is_partial = len(rows) >= limit, read >= MOST_READ
        return {
            "projects": rows,
            "next": last if is_full or is_partial else None,
            "is_partial": is_partial and not is_full,
            "problems": problems,
        }

    def find(self, root: str, project_id: str, at: str = "") -> Item | None:
        """
        Return what is recorded of a project; None if there is nothing.

        :param at: the place of its record from an item, if it is known.
        """
        storage = self._open(root)
        if storage is None:
            return None
        match = PLACE.fullmatch(at)
        if match and match[4] == project_id:  # the place is known, so nothing is listed
            return self._item((root, Record(storage, at)))
        records = self._records(root, Wanted(projects=project_id), "", [])
        return next(map(self._item, records), None)

    def _records(
        self, name: str, wanted: Wanted, before: str, problems: list[str]
    ) -> Iterator[tuple[str, Record]]:
        """Yield the records of a root with its name, the newest first. An error is added to the problems."""
        projects = set(filter(None, wanted.projects.split(",")))
        try:
            records = newest(self._storage(name), before, wanted.first, wanted.last or "9")
            for record in _only(records, projects) if projects else records:
                yield name, record
        except Exception as error:  # noqa: BLE001 - the other roots are shown all the same
            problems.append(f"The root {name} cannot be listed: {type(error).__name__}")
            log.error("Magic Hour's view: %s", problems[-1])  # noqa: TRY400

    def _item(self, found: tuple[str, Record]) -> Item | None:
        """Return an item, None if the record cannot be read or trusted; kept for a minute."""
        name, record = found
        try:
            return self._read(name, record, time.monotonic() // KEPT_SECONDS)
        except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
            log.warning("%s in the root %r cannot be read: %s", record.path, name, type(error).__name__)
            return None

    def _read_item(self, name: str, record: Record, period: float) -> Item | None:
        read = record.read()
        if read is None:
            return None
        data, receipt = read
        by = data.get("downloaded_by") or data  # nested in 0.1.0
        is_deleted = DELETED in record.events or bool(data.get("deleted_at"))
        files, shown = self._files(record, receipt) if receipt else ({}, [])
        day, at, project_id = record.parts
        row = {
            "root": name,
            "id": project_id,
            "at": record.place,
            "state": "deleted" if is_deleted else "stored" if receipt else "failed",
            "dag": _text(by.get("dag_id")),
            "run": _text(by.get("run_id")),
            "task": _text(by.get("task_id")),
            "map_index": index if type(index := by.get("map_index")) is int else -1,
            "created": f"{day}T{at[:2]}:{at[2:4]}:{at[4:]}Z",
            "credits": amount if type(amount := data.get("credits_charged")) in {int, float} else None,
            "files": shown,
            "error": ": ".join(filter(None, map(_text, map(data.get, ("error_code", "error_message"))))),
            **{key: _text(data.get(key)) for key in ("kind", "tool", "name", "prompt")},
        }
        return Item(row, files)

    def _files(self, record: Record, receipt: Receipt) -> tuple[dict[str, StoredFile], list[dict[str, Any]]]:
        """Return the files that may be downloaded, by key, and all files for the page."""
        place = self._place(record, receipt)
        stored, shown = {}, []
        for file in receipt.files[:MOST_FILES]:
            name = file_name(file)
            media, content_type = media_of(name)
            key = file_key(file) if place and media else ""
            if place and key:
                root, folder = place
                path = posixpath.join(folder, file["path"])
                stored[key] = StoredFile(root, path, file["bytes"], content_type)
            shown.append({"key": key, "name": name, "bytes": file["bytes"], "media": media})
        return stored, shown

    def _place(self, record: Record, receipt: Receipt) -> tuple[Storage, str] | None:
        """Return the root that contains the files of a receipt, and their folder in it."""
        if receipt.folder is not None or receipt.destination is None:
            return record.root, receipt.folder or ""
        for root in self._reachable():
            folder = root.relative(receipt.destination)
            if folder is not None:
                return root, folder
        return None


def _only(records: Iterator[Record], projects: set[str]) -> Iterator[Record]:
    """Yield the records of some projects, until all are found or many names were searched."""
    for record in islice(records, MOST_LISTED):
        project_id = record.parts[2]
        if project_id in projects:
            yield record
            projects.remove(project_id)
            if not projects:
                return


def _text(value: object) -> str:
    return value[:MOST_TEXT] if isinstance(value, str) else ""

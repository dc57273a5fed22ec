"""The records at one place, the newest first, for the pages of the view."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from airflow_provider_magichour._transfer import catalogue, receipts, receipts_0_1_0
from airflow_provider_magichour._transfer.catalogue import Entry
from airflow_provider_magichour._transfer.receipts import MAX_BYTES, Receipt, ReceiptError
from airflow_provider_magichour._transfer.storage import Storage

#: Where a record is in the order, as ``1-2026-11-21-102655-cm9x1y2z30001``. With 0 instead of 1 it is of
#: version 0.1.0, and comes after all entries of the catalogue.
PLACE = re.compile(
    r"([01])-(\d{4}-\d\d-\d\d)-((?:[01]\d|2[0-3])[0-5]\d[0-5]\d)-([A-Za-z0-9_-][A-Za-z0-9_.-]{0,127})",
    re.ASCII,
)

#: The most days that are listed together.
MOST_DAYS = 64


@dataclass(frozen=True)
class Record:
    """
    A project with a record.

    :param place: where it is in the order, see :data:`PLACE`.
    :param events: what happened later, by the names of the catalogue.
    """

    root: Storage
    place: str
    events: frozenset[str] = frozenset()

    @property
    def parts(self) -> tuple[str, str, str]:
        """Return the day, the time and the project of the place."""
        return self.place[2:12], self.place[13:19], self.place[20:]

    @property
    def order(self) -> tuple[int, str]:
        """Return the sort key: the newest first, and the names of one second as stores list them."""
        return _order(self.place)

    @property
    def path(self) -> str:
        """Return the path of the record, relative to the root."""
        is_entry, project_id = self.place[0] == "1", self.parts[2]
        return Entry(*self.parts).path if is_entry else receipts_0_1_0.path_of(project_id)

    def read(self) -> tuple[Mapping[str, Any], Receipt | None] | None:
        """
        Return the record, with the receipt if it is about stored files; None if it does not exist any more.

        :raises ReceiptError: if it cannot be trusted.
        """
        data = self.root.read(self.path, MAX_BYTES)
        if data is None:
            return None
        project_id = self.parts[2]
        receipt = receipts.parse(data, project_id)
        content = receipt.data if receipt else receipts.load(data)
        if content.get("project_id") != project_id:
            raise ReceiptError("the record names another project than its path")
        return content, receipt


def newest(root: Storage, before: str = "", first_day: str = "", last_day: str = "9") -> Iterator[Record]:
    """
    Yield what is recorded, the newest first.

    :param before: the place of the last record of the previous page.
    :param first_day: the earliest day, as ``2026-11-21``.
    """
    for record in chain(_entries(root, before, first_day, last_day), _old(root, first_day, last_day)):
        if not before or record.order > _order(before):
            yield record


def _order(place: str) -> tuple[int, str]:
    return -int(place[:19].replace("-", "")), f"{place[20:]}.json"


# --------------------------------------------------------------------------------------- the catalogue


def _entries(root: Storage, before: str, first_day: str, last_day: str) -> Iterator[Record]:
    if before.startswith("0"):
        return
    last_day = min(last_day, before[2:12] or last_day)
    days = [day for day in catalogue.days(root) if first_day <= day <= last_day]
    # other names of the last second may still come
    latest = before[13:19] if days and days[-1] == before[2:12] else "235959"
    for entry in _newest_entries(root, days, latest):
        yield Record(root, f"1-{entry.day}-{entry.time}-{entry.project_id}", entry.events)


def _newest_entries(root: Storage, days: list[str], latest: str) -> Iterator[Entry]:
    """
    Yield the entries of some days, the newest first.

    A day is listed alone. On S3, the days before it are then listed together: few days if many were too many.

    :param latest: the time of the newest entry of the last day.
    """
    together = MOST_DAYS if root.is_s3 else 0
    while days:
        yield from catalogue.entries(root, days.pop(), latest)
        latest = "235959"
        if days and together:
            entries, listed = catalogue.entries_of_days(root, days[-together:])
            yield from entries
            days = days[: len(days) - listed]
            together = together if listed else together // 8  # the days are large


# ------------------------------------------------------------------------------------- version 0.1.0


def _old(root: Storage, first_day: str, last_day: str) -> Iterator[Record]:
    """Yield the receipts of version 0.1.0, by the time of the download."""
    days = {
        (day, conn_id)
        for conn_id in receipts_0_1_0.connections(root)
        for day in receipts_0_1_0.days(root, conn_id)
        if first_day <= day <= last_day
    }
    for day in sorted({day for day, _ in days}, reverse=True):
        hints = [
            hint for each, conn_id in days if each == day for hint in receipts_0_1_0.hints(root, conn_id, day)
        ]
        places = (f"0-{hint.downloaded_at:%Y-%m-%d-%H%M%S}-{hint.project_id}" for hint in hints)
        yield from (Record(root, place) for place in sorted(places, key=_order))

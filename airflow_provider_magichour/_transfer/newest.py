"""
What is recorded at one place, the newest first: for people who look at it page by page.

Of stores that list a thousand names at a time, :mod:`timeline` finds the last ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from airflow_provider_magichour._transfer import catalogue, receipts, receipts_0_1_0
from airflow_provider_magichour._transfer.catalogue import Entry
from airflow_provider_magichour._transfer.receipts import MAX_BYTES, Receipt, ReceiptError
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour._transfer.timeline import DAY, Timeline


class Place(NamedTuple):
    """
    Where a record is in the order: what 0.1.0 wrote is older than any entry of the catalogue.

    :param is_entry: whether it is an entry of the catalogue.
    :param day: as ``20261121``.
    :param time: as ``102655``.
    """

    is_entry: bool
    day: str
    time: str
    project_id: str


@dataclass(frozen=True)
class Record:
    """
    A project that something is recorded of.

    :param root: where the record lies.
    :param events: what happened later, by the names of the catalogue.
    """

    root: Storage
    place: Place
    events: frozenset[str] = field(default=frozenset())

    @property
    def path(self) -> str:
        """Return the path of the record, relative to the root."""
        is_entry, day, time, project_id = self.place
        if not is_entry:
            return receipts_0_1_0.path_of(project_id)
        return Entry(f"{day[:4]}-{day[4:6]}-{day[6:]}", time, project_id).path

    def read(self) -> tuple[Mapping[str, Any], Receipt | None] | None:
        """
        Return what the record says, and the receipt where it is about stored files; None if it is gone.

        :raises ReceiptError: if it cannot be trusted.
        """
        data = self.root.read(self.path, MAX_BYTES)
        if data is None:
            return None
        project_id = self.place.project_id
        receipt = receipts.parse(data, project_id)
        content = receipt.data if receipt else receipts.load(data)
        if content.get("project_id") != project_id:
            raise ReceiptError("the record names another project than its path")
        return content, receipt


def newest(
    root: Storage, before: Place | None = None, first_day: str = "", last_day: str = "9"
) -> Iterator[Record]:
    """
    Give what is recorded, the newest first.

    :param before: the record to go on behind.
    :param first_day: the earliest day, as ``20261121``.
    :param last_day: the latest day.
    """
    for record in chain(_entries(root, before, first_day, last_day), _old(root, first_day, last_day)):
        if before is None or record.place < before:
            yield record


def files_of(receipt: Receipt, root: Storage, roots: Mapping[str, Storage]) -> Storage | None:
    """
    Return where a receipt's files are; None where that is below none of some places.

    :param root: where the receipt lies.
    """
    if receipt.folder is not None or receipt.destination is None:
        return root.below(receipt.folder or "")
    for each in roots.values():
        folder = each.relative(receipt.destination)
        if folder is not None:
            return each.below(folder)
    return None


# --------------------------------------------------------------------------------------- the catalogue


def _entries(root: Storage, before: Place | None, first_day: str, last_day: str) -> Iterator[Record]:
    if before is not None and not before.is_entry:
        return
    last_day = min(last_day, before.day) if before else last_day
    days = [day for day in catalogue.days(root) if first_day <= day.replace("-", "") <= last_day]
    for names in _blocks(root, days, before):
        for (day, time, project_id), events in sorted(_grouped(names).items(), reverse=True):
            if None in events:
                place = Place(True, day.replace("-", ""), time, project_id)
                later = frozenset(event for event in events if event)
                yield Record(root, place, later)


def _grouped(names: list[str]) -> dict[tuple[str, str, str], set[str | None]]:
    """Return the events of each project by day, time and id; None stands for the entry itself."""
    found: dict[tuple[str, str, str], set[str | None]] = {}
    for name in names:
        day, _, rest = name.removeprefix("dt=").partition("/")
        if match := catalogue.NAME.fullmatch(rest):
            found.setdefault((day, match[1], match[2]), set()).add(match[3])
    return found


def _blocks(root: Storage, days: list[str], before: Place | None) -> Iterator[list[str]]:
    """Give the names of some days in blocks, the latest first; no second is in two of them."""
    if not hasattr(root.fs, "call_s3"):
        for day in reversed(days):
            yield [f"dt={day}/{name}" for name in root.names(f"{catalogue.FOLDER}/dt={day}")]
        return
    timeline = Timeline(root, days)
    end = len(days) * DAY
    if before and days and days[-1].replace("-", "") == before.day:
        # a name of the same second may still be older
        end = timeline.moment(f"dt={days[-1]}/{before.time}", end - 1) + 1
    while end > 0:
        end, names = timeline.last_block(end)
        yield names


# ------------------------------------------------------------------------------------- version 0.1.0


def _old(root: Storage, first_day: str, last_day: str) -> Iterator[Record]:
    """Give the receipts of version 0.1.0, by the time of the download."""
    days = {
        (day, conn_id)
        for conn_id in receipts_0_1_0.connections(root)
        for day in receipts_0_1_0.days(root, conn_id)
        if first_day <= day.replace("-", "") <= last_day
    }
    for day in sorted({day for day, _ in days}, reverse=True):
        hints = [
            hint for each, conn_id in days if each == day for hint in receipts_0_1_0.hints(root, conn_id, day)
        ]
        for hint in sorted(hints, reverse=True):
            at = hint.downloaded_at
            place = Place(False, f"{at:%Y%m%d}", f"{at:%H%M%S}", hint.project_id)
            yield Record(root, place)

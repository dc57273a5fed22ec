"""
What is recorded at one place, the newest first: for people who look at it page by page.

A store lists names in ascending order, and a thousand at a time. Of a day with more, the last ones are
found by a few lists that start at guessed times, instead of listing them all.
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

#: Lists of one day that start at guessed times; after that, the rest of the day is listed whole.
GUESSES = 5


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
    :param path: the record, relative to the root.
    :param events: what happened later, by the names of the catalogue.
    """

    root: Storage
    place: Place
    path: str
    events: frozenset[str] = field(default=frozenset())

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
    if before is not None and before.is_entry:
        last_day = min(last_day, before.day)
    elif before is not None:
        return
    for shown in reversed(catalogue.days(root)):
        day = shown.replace("-", "")
        if first_day <= day <= last_day:
            # a name of the same second may still be older
            end = int(before.time) + 1 if before and before.day == day else 240_000
            for names in _blocks(root, f"{catalogue.FOLDER}/dt={shown}", end):
                for (time, project_id), events in sorted(_grouped(names).items(), reverse=True):
                    if None in events:
                        path = Entry(shown, time, project_id).path
                        later = frozenset(event for event in events if event)
                        yield Record(root, Place(True, day, time, project_id), path, later)


def _grouped(names: list[str]) -> dict[tuple[str, str], set[str | None]]:
    """Return the events of each project by time and id; None stands for the entry itself."""
    found: dict[tuple[str, str], set[str | None]] = {}
    for name in names:
        if match := catalogue.NAME.fullmatch(name):
            found.setdefault((match[1], match[2]), set()).add(match[3])
    return found


def _blocks(root: Storage, folder: str, end: int) -> Iterator[list[str]]:
    """Give the names of a day in blocks, the latest first; no second is in two of them."""
    if not hasattr(root.fs, "call_s3"):
        yield root.names(folder)
        return
    while end > 0:
        end, names = _last_block(root, folder, end)
        yield names


def _last_block(root: Storage, folder: str, end: int) -> tuple[int, list[str]]:
    """
    Return the names of the last part of a day that is not empty, and when it starts.

    Times are the numbers that names begin with.

    :param end: the time at which the part ends.
    """
    low = start = span = seconds_of_page = 0
    high = end
    for _ in range(GUESSES):
        names, is_end = _page(root, folder, start, end)
        if is_end and (names or start == 0):
            return start, names
        if names:
            low, span = _time(names[-1]), _time(names[-1]) - _time(names[0])
            seconds_of_page = len({name[:6] for name in names})
            start = low + (high - low) * 3 // 4
            continue
        high, start = start, low  # nothing is so late
        if high - low > 2 * span:  # another page may not reach it: ask in which seconds there is something
            seconds, is_end = _page(root, folder, low, high, by_second=True)
            low = _time(seconds[-1]) if seconds else low
            start = _time(seconds[-(1 + seconds_of_page // 2) :][0]) if is_end and seconds else low
    found, is_end, after = list[str](), False, f"{low:06}"
    while not is_end:
        names, is_end = _page(root, folder, after, end)
        found += names
        after = names[-1] if names else after
    return low, found


def _page(
    root: Storage, folder: str, start: int | str, end: int, *, by_second: bool = False
) -> tuple[list[str], bool]:
    """Return what one list gives of a time on, and whether that is all there is until another time."""
    bucket, key, _ = root.fs.split_path(root.full(folder))
    after = start if isinstance(start, str) else f"{start:06}"
    page = root.fs.call_s3(
        "list_objects_v2",
        Bucket=bucket,
        Prefix=f"{key}/",
        Delimiter="-" if by_second else "/",
        StartAfter=f"{key}/{after}",
    )
    found = [one["Key"] for one in page.get("Contents", ())]
    found += [one["Prefix"] for one in page.get("CommonPrefixes", ())]
    names = [name for one in found if (name := one.removeprefix(f"{key}/"))]
    inside = sorted(name for name in names if _time(name) < end)
    return inside, len(inside) < len(names) or not page.get("IsTruncated")


def _time(name: str) -> int:
    return int(name[:6]) if name[:6].isdecimal() else 0  # of others' names


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
            yield Record(root, place, receipts_0_1_0.path_of(hint.project_id))

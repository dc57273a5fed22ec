"""
The last names of the catalogue in a store that lists a thousand at a time, in ascending order.

They are found by a few lists that start at guessed moments, instead of listing them all. First by days, as
long as these have few; where a list is not enough for what lies between two moments, by what it shows of how
close the names are. Most spreads of ten thousand names take five lists; a model of the search took 8 for
hourly batches of 1,200, and 21 for ten thousand in one second.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from airflow_provider_magichour._transfer import catalogue
from airflow_provider_magichour._transfer.storage import Storage

#: Seconds of a day.
DAY = 86_400
#: How many names are enough for a block.
ENOUGH = 64
#: Lists that start at guessed moments; after that, the rest is listed whole.
GUESSES = 8

_TIME = re.compile(r"dt=(\d{4}-\d\d-\d\d)/([01]\d|2[0-3])([0-5]\d)([0-5]\d)", re.ASCII)


class Block(NamedTuple):
    """The names from a moment on, in order."""

    start: int
    names: list[str]


class Timeline:
    """
    The catalogue by moments: numbers of seconds, in which days without entries do not count.

    :param days: the days that have entries, in order.
    """

    def __init__(self, root: Storage, days: list[str]) -> None:
        self._root = root
        self._days = days
        self._midnights = {day: number * DAY for number, day in enumerate(days)}

    def moment(self, name: str, otherwise: int = -1) -> int:
        """Return the moment of a name; something else for names that are not the catalogue's."""
        match = _TIME.match(name)
        if not match or match[1] not in self._midnights:
            return otherwise
        return self._midnights[match[1]] + int(match[2]) * 3600 + int(match[3]) * 60 + int(match[4])

    def last_block(self, end: int) -> Block:
        """Return the names from some moment until another, at which the block after it starts."""
        known = Block(end, [])
        block, is_whole = self._list((end - 1) // DAY * DAY, end)
        while is_whole and block.start > 0 and len(block.names) < ENOUGH:
            known = block
            days = (end - block.start - 1) // DAY + 1
            more = min(days * 3 * ENOUGH // max(len(block.names), 1), 300 * days)
            block, is_whole = self._list(max(block.start - more * DAY, 0), end)
        return block if is_whole else self._narrow(block, known, end)

    def _narrow(self, block: Block, known: Block, end: int) -> Block:
        """
        Return a last block, where there are more names than one list gives.

        :param block: the names that a list has given; it is cut off.
        :param known: a later block that is complete, but has few.
        """
        first = self._first(block)
        is_until_end = first - block.start <= self._span(block) / 5
        guesses = {"second", "size"}
        for attempt in range(GUESSES):
            low, high = self._last(block), known.start
            is_dense = self._seconds(block) * 2 <= len(block.names) and low // DAY == (high - 1) // DAY
            if is_dense and "second" in guesses:
                guesses.remove("second")
                start = self._guess_by_second(block, high)
            elif is_until_end:  # as if the names went on until there
                start, is_until_end = int(high - 0.9 * self._span(block)), False
            elif "size" in guesses:  # as if there were ten thousand
                guesses.remove("size")
                start = int(first + 9.05 * self._span(block))
            else:
                start = int(first + math.sqrt(max(low - first, 1) * (high - first)))
            found, is_whole = self._list(start if low < start < high else low, end)
            if not is_whole:
                if self._last(found) == low:
                    break  # more of one second than a list gives
                block = found
            elif len(found.names) >= ENOUGH or found.start == low or (found.names and attempt > 1):
                return found
            else:
                is_until_end, known = len(found.names) > len(known.names), found
        return self._list_all(self._last(block), end)

    def _guess_by_second(self, block: Block, high: int) -> int:
        """Return from when on there is about one list, by the seconds in which there is something."""
        low = self._last(block)
        names, is_whole = self._page(low, high, of_day=self._days[low // DAY])
        seconds = [moment for name in names if low < (moment := self.moment(name)) < high]
        if not seconds:
            return low
        return seconds[-max(int(0.9 * self._seconds(block)), 1) :][0] if is_whole else seconds[-1]

    def _first(self, block: Block) -> int:
        return self.moment(block.names[0]) if block.names else block.start

    def _last(self, block: Block) -> int:
        return self.moment(block.names[-1]) if block.names else block.start

    def _span(self, block: Block) -> int:
        return max(self._last(block) - self._first(block), 1)

    def _seconds(self, block: Block) -> int:
        return len({self.moment(name) for name in block.names})

    # ----------------------------------------------------------------------------------------- lists

    def _list(self, start: int, end: int) -> tuple[Block, bool]:
        """Return what one list gives from a moment on, and whether that is all until another."""
        names, is_whole = self._page(start, end)
        return Block(start, [name for name in names if self.moment(name) >= 0]), is_whole

    def _list_all(self, start: int, end: int) -> Block:
        """Return all names from a moment until another."""
        names, is_whole = self._page(start, end)
        while not is_whole:
            more, is_whole = self._page(names[-1] if names else start, end)
            if not more:  # a store that says there is more, and gives nothing
                break
            names += more
        return Block(start, [name for name in names if self.moment(name) >= 0])

    def _page(self, after: int | str, end: int, of_day: str | None = None) -> tuple[list[str], bool]:
        """Return the names of one list before a moment, and whether these are all; of a day, the seconds."""
        bucket, key, _ = self._root.fs.split_path(self._root.full(catalogue.FOLDER))
        more = {"Prefix": f"{key}/"}
        if of_day:
            more = {"Prefix": f"{key}/dt={of_day}/", "Delimiter": "-"}
        start = after if isinstance(after, str) else self._name(after)
        page = self._root.fs.call_s3("list_objects_v2", Bucket=bucket, StartAfter=f"{key}/{start}", **more)
        keys = [one["Key"] for one in page.get("Contents", ())]
        keys += [one["Prefix"] for one in page.get("CommonPrefixes", ())]
        names = sorted(one.removeprefix(f"{key}/") for one in keys)
        inside = [name for name in names if name < self._name(end)]
        return inside, len(inside) < len(names) or not page.get("IsTruncated")

    def _name(self, moment: int) -> str:
        """Return what the names of a moment begin with."""
        day, second = divmod(moment, DAY)
        if day == len(self._days):
            return f"dt={self._days[-1]}0"  # behind all of the last day
        return f"dt={self._days[day]}/{second // 3600:02}{second // 60 % 60:02}{second % 60:02}"

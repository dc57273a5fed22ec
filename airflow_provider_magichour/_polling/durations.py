"""How long projects take, learned from those that a process sees finish."""

from __future__ import annotations

import statistics
from collections import OrderedDict, deque

#: How many of the last finished projects of a type count.
WINDOW = 32
#: Fewer finished projects than this teach nothing.
ENOUGH = 5
#: Types that are remembered; the one that was not seen for longest is forgotten first.
MAX_TYPES = 128


class LearnedDurations:
    """
    Median durations by the kind and ``type`` of a project, in memory.

    Magic Hour halves and doubles its durations within months, so a table of them ages. Bounded: a process
    that runs for months remembers the last projects of the types that it sees.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def add(self, kind: str, project_type: str, at_least: float, at_most: float) -> None:
        """
        Learn from a finished project.

        :param at_least: its age when it was seen unfinished last, in seconds; 0 if it never was.
        :param at_most: its age when it was seen finished.
        """
        key = (kind, project_type)
        durations = self._seen.setdefault(key, deque(maxlen=WINDOW))
        self._seen.move_to_end(key)
        durations.append((at_least + at_most) / 2)
        if len(self._seen) > MAX_TYPES:
            self._seen.popitem(last=False)

    def median(self, kind: str, project_type: object) -> float | None:
        """Return the median duration in seconds, None where too few projects finished."""
        durations = self._seen.get((kind, str(project_type)))
        if durations is None or len(durations) < ENOUGH:
            return None
        return statistics.median(durations)


#: What this process has learned.
LEARNED = LearnedDurations()

"""The durations of projects, learned from the projects that a process sees finish."""

from __future__ import annotations

import statistics
from collections import OrderedDict, deque

#: How many of the last finished projects of a type count.
WINDOW = 32
#: The smallest number of finished projects that gives a median.
ENOUGH = 5
#: How many types are stored. The type that was not seen for the longest time is dropped first.
MAX_TYPES = 128


class LearnedDurations:
    """
    Median durations by the kind and ``type`` of a project, in memory.

    The speed of Magic Hour changes within months, so a fixed table becomes wrong. The memory is bounded,
    because only the last projects of each type are stored.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def add(self, kind: str, project_type: str, at_least: float, at_most: float) -> None:
        """
        Add a finished project.

        :param at_least: its age in seconds at the last check that found it unfinished; 0 if there was none.
        :param at_most: its age at the check that found it finished.
        """
        key = (kind, project_type)
        durations = self._seen.setdefault(key, deque(maxlen=WINDOW))
        self._seen.move_to_end(key)
        durations.append((at_least + at_most) / 2)
        if len(self._seen) > MAX_TYPES:
            self._seen.popitem(last=False)

    def median(self, kind: str, project_type: object) -> float | None:
        """Return the median duration in seconds, None if too few projects finished."""
        durations = self._seen.get((kind, str(project_type)))
        if durations is None or len(durations) < ENOUGH:
            return None
        return statistics.median(durations)


#: The durations of this process.
LEARNED = LearnedDurations()

"""Learning how long projects take, where the table of typical durations is wrong."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from airflow_provider_magichour._polling.durations import ENOUGH, MAX_TYPES, WINDOW, LearnedDurations
from airflow_provider_magichour._polling.schedule import next_delay

MEDIAN = 120.0


def poll(
    typical: float, learned: LearnedDurations | None, count: int, source: random.Random
) -> tuple[float, float]:
    """Poll projects one after another; return requests per project and the mean lateness."""
    requests, late = 0, []
    for _ in range(count):
        duration = MEDIAN * math.exp(0.5 * source.gauss(0, 1))
        age = unfinished = 0.0
        while age < duration:
            unfinished = age
            seconds = (learned.median("video", "NEW") if learned else None) or typical
            age += next_delay("video", seconds, age, math.inf, source.random())
            requests += 1
        late.append(age - duration)
        if learned is not None:
            learned.add("video", "NEW", unfinished, age)
    return requests / count, statistics.mean(late)


@pytest.mark.parametrize("wrong", [4.0, 0.25])
def test_a_wrong_table_costs_little_after_twenty_projects(wrong: float) -> None:
    right_requests, right_lateness = poll(MEDIAN, None, 3000, random.Random(1))
    learned, source = LearnedDurations(), random.Random(2)
    poll(MEDIAN * wrong, learned, 20, source)
    requests, lateness = poll(MEDIAN * wrong, learned, 3000, source)
    assert requests <= 1.2 * right_requests
    assert lateness <= 1.2 * right_lateness


def test_a_wrong_table_costs_much_where_nothing_is_learned() -> None:
    right_requests, right_lateness = poll(MEDIAN, None, 1000, random.Random(1))
    requests, _ = poll(MEDIAN / 4, None, 1000, random.Random(1))
    _, lateness = poll(MEDIAN * 4, None, 1000, random.Random(1))
    assert requests > 1.2 * right_requests
    assert lateness > 1.2 * right_lateness


def test_few_projects_teach_nothing() -> None:
    learned = LearnedDurations()
    for _ in range(ENOUGH - 1):
        learned.add("image", "A", 1, 3)
    assert learned.median("image", "A") is None
    learned.add("image", "A", 1, 3)
    assert learned.median("image", "A") == 2
    assert learned.median("video", "A") is None
    assert learned.median("image", None) is None


def test_memory_is_bounded() -> None:
    learned = LearnedDurations()
    for number in range(3 * MAX_TYPES):
        for _ in range(3 * WINDOW):
            learned.add("image", f"T{number}", 1, 3)
    assert len(learned._seen) == MAX_TYPES
    assert max(map(len, learned._seen.values())) == WINDOW
    assert learned.median("image", "T0") is None
    assert learned.median("image", f"T{3 * MAX_TYPES - 1}") == 2

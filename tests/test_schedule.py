"""When the next status check is due: few checks, little lateness, none after the deadline."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_magichour._polling.schedule import (
    BACKOFF_CAP,
    CAP,
    EARLY_CAP,
    FLOOR,
    OLD_CAP,
    backoff,
    created_at,
    next_delay,
)
from airflow_provider_magichour.tools import KINDS, TOOLS

kinds = st.sampled_from(KINDS)
seconds = st.floats(0, 1e7)
typical = st.none() | st.floats(1, 5000)
draws = st.floats(0, 1)


@given(kinds, typical, st.floats(-1e12, 1e12), st.floats(0, 1e7), draws, st.none() | st.floats(0.01, 1e5))
def test_no_status_check_comes_after_the_deadline(
    kind: str, typical: float | None, age: float, left: float, draw: float, fixed: float | None
) -> None:
    delay = next_delay(kind, typical, age, left, draw, poll_interval=fixed)
    assert 0 <= delay <= left
    assert delay < left or left <= 2 or delay == fixed == left


@given(kinds, typical, st.floats(-1e12, 1e12), draws)
def test_interval_is_bounded(kind: str, typical: float | None, age: float, draw: float) -> None:
    delay = next_delay(kind, typical, age, math.inf, draw)
    assert FLOOR <= delay <= max(EARLY_CAP, OLD_CAP) * 1.05
    if typical is None and 0 <= age < 900:
        assert delay <= CAP * 1.05 < 10


@given(kinds, typical, st.floats(0, 1e6), st.floats(0, 1e6), draws)
def test_interval_grows_with_age_once_a_finish_is_likely(
    kind: str, typical: float | None, age: float, older: float, draw: float
) -> None:
    base = (typical or 0) * 0.35
    young = next_delay(kind, typical, base + age, math.inf, draw)
    assert next_delay(kind, typical, base + age + older, math.inf, draw) >= young


@given(kinds, typical, st.floats(1, 1e5), st.integers(0, 1000))
def test_number_of_status_checks_is_bounded(
    kind: str, typical: float | None, duration: float, seed: int
) -> None:
    source, age, checks = random.Random(seed), 0.0, 0
    while age < duration:
        age += next_delay(kind, typical, age, duration - age, source.random())
        checks += 1
    assert checks <= 3 + min(duration, 1000) / 1.9 + max(duration - 1000, 0) / 8


@given(kinds, typical, seconds, draws, st.floats(0.01, 1e5))
def test_fixed_interval_is_kept(
    kind: str, typical: float | None, age: float, draw: float, fixed: float
) -> None:
    assert next_delay(kind, typical, age, math.inf, draw, poll_interval=fixed) == fixed


@given(st.floats(0.01, 200), st.integers(1, 10_000), st.none() | st.floats(0, 1e9))
def test_failed_status_checks_back_off(delay: float, failures: int, asked: float | None) -> None:
    pause = backoff(delay, failures, asked)
    assert pause >= (asked or 0)
    assert delay <= pause <= max(delay, BACKOFF_CAP, asked or 0)
    assert backoff(delay, failures + 1, asked) >= pause


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2026-11-21T10:00:00.000Z", 1795255200.0),
        ("2026-11-21T10:00:00", 1795255200.0),
        ("2026-11-21T12:00:00+02:00", 1795255200.0),
        ("yesterday", None),
        ("", None),
        (None, None),
        (1795255200, None),
        ("2026-13-01T00:00:00Z", None),
        ("9" * 400, None),
    ],
)
def test_created_at_is_parsed(value: object, seconds: float | None) -> None:
    assert created_at({"created_at": value}) == seconds


def checks_and_lateness(known: bool, each: int = 300) -> tuple[float, list[float], list[float]]:
    """Return checks against a fixed 5 s, lateness, and lateness against 4 % of the duration or 1 s."""
    source = random.Random(3)
    ours = fixed = 0
    late, share = [], []
    for tool in TOOLS.values():
        if tool.typical_seconds is None:
            continue
        for _ in range(each):
            duration = tool.typical_seconds * math.exp(0.5 * source.gauss(0, 1))
            age, checks = 0.0, 1  # the first check comes at once
            while age < duration:
                seen = tool.typical_seconds if known else None
                age += next_delay(tool.kind, seen, age, math.inf, source.random())
                checks += 1
            ours += checks
            fixed += 1 + math.ceil(duration / 5)
            late.append(age - duration)
            share.append((age - duration) / max(0.04 * duration, 1))
    return ours / fixed, sorted(late), sorted(share)


@pytest.mark.parametrize(("known", "bar"), [(True, 0.7), (False, 0.9)])
def test_schedule_makes_few_checks_with_little_lateness(known: bool, bar: float) -> None:
    # The shorter renders become, the fewer checks an interval of 5 s makes; what counts is the lateness.
    ratio, late, share = checks_and_lateness(known)
    assert ratio <= bar
    assert statistics.median(share) <= 1
    assert late[int(len(late) * 0.99)] <= 10

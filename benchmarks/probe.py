"""Measures an event loop and its process from inside: lag, memory, sockets."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

#: Seconds between two samples of the lag.
EVERY = 0.02


def percentile(values: list[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def rss() -> int:
    """Return the resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sockets() -> int:
    """Return how many sockets this process holds."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += str(entry.readlink()).startswith("socket:")
        except OSError:
            continue
    return found


async def sample_lag(seconds: float) -> list[float]:
    """Return how much later than asked this loop woke up, in seconds, again and again."""
    lags = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        before = time.monotonic()
        await asyncio.sleep(EVERY)
        lags.append(time.monotonic() - before - EVERY)
    return lags


class LagProbe(BaseTrigger):
    """
    Measure the triggerer that it runs in.

    :param seconds: how long.
    :param path: the file that gets the figures.
    """

    def __init__(self, seconds: float, path: str) -> None:
        super().__init__()
        self.seconds = seconds
        self.path = path

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "benchmarks.probe.LagProbe", {"seconds": self.seconds, "path": self.path}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        lags = await sample_lag(self.seconds)
        found = {
            "samples": len(lags),
            "lag_p50_ms": percentile(lags, 0.5) * 1000,
            "lag_p99_ms": percentile(lags, 0.99) * 1000,
            "lag_max_ms": max(lags) * 1000,
            "rss_mib": rss() / 2**20,
            "sockets": sockets(),
        }
        await asyncio.to_thread(Path(self.path).write_text, json.dumps(found))
        yield TriggerEvent(found)

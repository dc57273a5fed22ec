"""The pace that all calls over one connection keep to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator


class Throttle:
    """
    Spaces requests evenly, and holds all of them back while Magic Hour asks for a pause.

    Shared by any number of threads and tasks of one process.

    :param requests_per_second: the rate to keep to.
    """

    def __init__(self, requests_per_second: float) -> None:
        self._interval = 1 / requests_per_second
        self._lock = threading.Lock()
        self._next_turn = self._paused_until = 0.0

    def pause(self, seconds: float) -> None:
        """Let nobody have a turn for this many seconds."""
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def wait_turn(self) -> None:
        """Block the thread until it may send."""
        for seconds in self._waits():
            time.sleep(seconds)

    async def wait_turn_async(self) -> None:
        """Suspend the task until it may send."""
        for seconds in self._waits():
            await asyncio.sleep(seconds)

    def _waits(self) -> Iterator[float]:
        """Give the sleeps until a turn; a pause that began during a sleep means another one."""
        while True:
            with self._lock:
                now = time.monotonic()
                turn = max(now, self._next_turn, self._paused_until)
                self._next_turn = turn + self._interval
            if turn > now:
                yield turn - now
            if turn >= self._paused_until:
                return

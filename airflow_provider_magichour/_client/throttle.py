"""The rate limit of all calls over one connection."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator

log = logging.getLogger(__name__)


class Throttle:
    """
    Space requests evenly, and send none during a pause that Magic Hour requests.

    All threads and tasks of one process share it. Get it with :func:`shared_throttle`.
    """

    def __init__(self, requests_per_second: float) -> None:
        self._interval = 1 / requests_per_second
        self._lock = threading.Lock()
        self._next_turn = self._paused_until = 0.0

    def pause(self, seconds: float) -> None:
        """Send nothing for this many seconds."""
        now = time.monotonic()
        with self._lock:
            longer = now + seconds - max(self._paused_until, now)
            self._paused_until = max(self._paused_until, now + seconds)
        if longer > 1:  # once for all calls that were refused at the same time
            log.warning(
                "Rate limited (429): all calls of this process over the connection pause %.0f s", seconds
            )

    def acquire(self, stopping: threading.Event | None = None) -> None:
        """
        Block the thread until it may send.

        :param stopping: ends the wait when it is set.
        """
        for seconds in self._waits():
            if stopping is None:
                time.sleep(seconds)
            elif stopping.wait(seconds):
                return

    async def acquire_async(self) -> None:
        """Suspend the task until it may send."""
        for seconds in self._waits():
            await asyncio.sleep(seconds)

    def _waits(self) -> Iterator[float]:
        """Yield the times to sleep until a call may be sent. A new pause adds another one."""
        while True:
            with self._lock:
                now = time.monotonic()
                turn = max(now, self._next_turn, self._paused_until)
                self._next_turn = turn + self._interval
            if turn > now:
                yield turn - now
            if turn >= self._paused_until:
                return


_throttles: dict[tuple[str, str, float], Throttle] = {}
_throttles_lock = threading.Lock()


def shared_throttle(base_url: str, api_key: str, requests_per_second: float) -> Throttle:
    """
    Return the throttle of a connection, which all hooks, pollers and transfers of this process share.

    It is kept permanently, because a limit or a pause outlives the hook that met it. A connection that is
    given another rate has another throttle.
    """
    with _throttles_lock:
        key = (base_url, api_key, requests_per_second)
        return _throttles.setdefault(key, Throttle(requests_per_second))

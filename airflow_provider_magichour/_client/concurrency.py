"""How many requests of one sender are under way at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from airflow_provider_magichour._client.throttle import Throttle

#: Requests under way at once where the API is fast.
START = 16
#: Seconds between two decisions to grow, while requests wait for a connection.
TICK = 0.1
#: Connections are too few where less than this share of the rate was sent while requests waited...
RATE_SHARE = 0.9
#: ...in this many ticks in a row: a busy machine alone is no reason for more.
PATIENCE = 2
#: Connections that were not needed for this many seconds are closed.
SHRINK_SECONDS = 10.0
#: A request that takes longer than this many seconds, and than this many times the usual latency, is slow.
SLOW_SECONDS, SLOW_FACTOR = 2.0, 4.0
#: One that takes longer than this many seconds, and that much longer than usual, needs a place of its own.
HELD_SECONDS = 0.5
#: How much more than rate times latency may be under way.
ROOM = 1.5
#: The latency that counts is the shortest of the last seconds: a busy machine makes the others longer.
LATENCY_SECONDS = 5.0


class ConnectionLimit:
    """
    Let so many requests be under way that the rate limit is what limits, and no more.

    It starts with few connections. While requests wait for one, and the rate is not used up, it grows up to
    ``most``: with the latency of the API, and where requests hang. It shrinks when they are not needed.
    Where all connections are in use, and more than a quarter of them by slow requests that have a time
    limit, the oldest of these are given up.

    :param most: the most requests that may be under way.
    :param rate: the requests per second that are aimed at.
    """

    def __init__(self, most: int, rate: float) -> None:
        self.most = most
        self.limit = min(START, most)
        #: Seconds that a request takes, a moving average; None before the first response.
        self.latency: float | None = None
        self._rate = rate
        self._free = asyncio.Semaphore(self.limit)
        self._waiting = 0
        self._sent = 0
        self._open = self._most_open = 0
        self._surplus = 0
        self._pressure = 0
        #: The shortest latency before the present span of seconds, the shortest in it, and when it began.
        self._fastest: tuple[float, float, float] = (math.inf, math.inf, 0.0)
        self._counted_since = asyncio.get_running_loop().time()
        self._ticked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        #: The requests that were sent: when, and whether they may be given up.
        self._under_way: dict[asyncio.Timeout, tuple[float, bool]] = {}

    @asynccontextmanager
    async def slot(self, throttle: Throttle, time_limit: float | None = None) -> AsyncIterator[bool]:
        """
        Wait for a connection and for the throttle, and hold the connection as long as the context lasts.

        :param throttle: spaces the requests.
        :param time_limit: seconds that the request may take once it is its turn; no limit here if None.
        :return: whether the connection should be closed afterwards.
        :raises TimeoutError: if the request took longer, or was given up for others.
        """
        await self._acquire()
        surplus = False
        try:
            await throttle.acquire_async()
            loop = asyncio.get_running_loop()
            started = loop.time()
            self._sent += 1
            self._open += 1
            self._most_open = max(self._most_open, self._open)
            surplus = self._is_surplus()
            timer = asyncio.timeout(time_limit)
            self._under_way[timer] = (started, time_limit is not None)
            try:
                async with timer:
                    yield surplus
                self._note_latency(loop.time(), loop.time() - started)
            finally:
                self._under_way.pop(timer, None)
                self._open -= 1
        finally:
            if not surplus:
                self._free.release()

    async def _acquire(self) -> None:
        self._waiting += 1
        if self._timer is None and self._free.locked():
            self._start_timer()
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1

    # -------------------------------------------------------------------------------- growing, shrinking

    def _note_latency(self, now: float, seconds: float) -> None:
        self.latency = seconds if self.latency is None else 0.9 * self.latency + 0.1 * seconds
        before, fastest, since = self._fastest
        if now - since > LATENCY_SECONDS:
            self._fastest = (fastest, seconds, now)
        else:
            self._fastest = (before, min(fastest, seconds), since)

    def _slow(self, least: float) -> list[asyncio.Timeout]:
        """Return the requests that take longer than so many seconds and than others, oldest first."""
        now = asyncio.get_running_loop().time()
        slow_after = max(least, SLOW_FACTOR * (self.latency or 0.0))
        return [timer for timer, (started, _) in self._under_way.items() if now - started > slow_after]

    def _needed(self) -> float:
        """Return how many requests have to be under way to keep the rate, slow ones aside."""
        fastest = min(self._fastest[:2])
        if math.isinf(fastest):
            return self.most
        return max(START, ROOM * self._rate * fastest) + len(self._slow(HELD_SECONDS))

    def _start_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._sent, self._ticked_at = 0, loop.time()
        self._timer = loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        """Grow where requests wait although the rate is not used up."""
        elapsed = asyncio.get_running_loop().time() - self._ticked_at
        self._timer = None
        if not self._waiting:
            self._pressure = 0
            return
        is_late = elapsed > 3 * TICK  # the machine was busy: nothing follows from what was sent
        if not is_late and self._sent < RATE_SHARE * self._rate * elapsed:
            self._pressure += 1
        else:
            self._pressure = 0
        if self._pressure >= PATIENCE:
            self._grow()
        self._start_timer()

    def _grow(self) -> None:
        if self.limit >= self.most:
            self._give_up_slow()
        more = min(max(1, self.limit // 2), min(self.most, math.ceil(self._needed())) - self.limit)
        if more <= 0:
            return
        self.limit += more
        self._surplus = 0
        for _ in range(more):
            self._free.release()

    def _give_up_slow(self) -> None:
        slow = [timer for timer in self._slow(SLOW_SECONDS) if self._under_way[timer][1]]
        for timer in slow[: max(0, len(slow) - self.most // 4)]:
            del self._under_way[timer]
            timer.reschedule(asyncio.get_running_loop().time())

    def _is_surplus(self) -> bool:
        """Return whether the connection of this request is one too many, and shrink the limit by it."""
        now = asyncio.get_running_loop().time()
        if now - self._counted_since >= SHRINK_SECONDS:
            self._surplus = self.limit - max(self._most_open, min(START, self.most))
            self._counted_since, self._most_open = now, self._open
        if self._surplus <= 0:
            return False
        self._surplus -= 1
        self.limit -= 1
        return True

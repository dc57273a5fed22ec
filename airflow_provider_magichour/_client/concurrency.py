"""Limits how many requests of one sender are in progress at once."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType

from airflow_provider_magichour._client.throttle import Throttle

#: The number of requests in progress at once if the API is fast.
START = 16
#: Seconds between two increases of the limit, while requests wait for a connection.
TICK = 0.1
#: There are too few connections if less than this share of the rate was sent while requests waited...
RATE_SHARE = 0.9
#: ...in this many intervals in a row, because a busy machine can be the cause of one.
PATIENCE = 2
#: Connections that were not needed for this many seconds are closed.
SHRINK_SECONDS = 10.0
#: A request that takes longer than this many seconds, and than this many times the usual latency, is slow.
SLOW_SECONDS, SLOW_FACTOR = 2.0, 4.0
#: A request that takes longer than this many seconds, and that much longer than usual, does not count
#: against the limit.
HELD_SECONDS = 0.5
#: How much more than rate times latency may be in progress.
ROOM = 1.5
#: The latency that counts is the shortest of the last seconds: a busy machine makes the others longer.
LATENCY_SECONDS = 5.0


class ConnectionLimit:
    """
    Allow as many requests at once as are needed to reach the rate limit.

    It starts with few connections. While requests wait for a connection and the rate limit is not reached, it
    allows more, up to ``most``. This happens if the API is slow, or if requests hang. It later closes
    connections that are not needed. If all connections are in use, and slow requests with a time limit use
    more than a quarter of them, the oldest of these requests are canceled.

    :param most: the most requests that may be in progress.
    :param rate: the wanted number of requests per second.
    """

    def __init__(self, most: int, rate: float) -> None:
        self.most = most
        self.limit = min(START, most)
        #: Seconds that a request takes, a moving average; None before the first response.
        self.latency: float | None = None
        self._rate = rate
        self._loop = asyncio.get_running_loop()
        self._free = asyncio.Semaphore(self.limit)
        self._waiting = 0
        self._sent = 0
        self._open = self._most_open = 0
        self._surplus = 0
        self._pressure = 0
        #: The shortest latency before the present span of seconds, the shortest in it, and when it began.
        self._fastest: tuple[float, float, float] = (math.inf, math.inf, 0.0)
        self._counted_since = self._loop.time()
        self._ticked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        #: The requests that were sent: when, and whether they may be canceled.
        self._under_way: dict[asyncio.Timeout, tuple[float, bool]] = {}

    def slot(self, throttle: Throttle, seconds: float, may_be_canceled: bool) -> Slot:
        """
        Return a context that waits for a connection and for the throttle, and then uses the connection.

        :param seconds: how long the request may take after it was sent.
        :param may_be_canceled: whether it may be canceled in favour of others if it is slow.
        """
        return Slot(self, throttle, seconds, may_be_canceled)

    def begin(self, timer: asyncio.Timeout, may_be_canceled: bool) -> tuple[float, bool]:
        """Count a request that is sent now; return the time, and whether to close its connection."""
        now = self._loop.time()
        self._sent += 1
        self._open += 1
        self._most_open = max(self._most_open, self._open)
        self._under_way[timer] = (now, may_be_canceled)
        return now, self._is_surplus(now)

    def end(self, timer: asyncio.Timeout, is_surplus: bool) -> None:
        """Count a request as finished, and let another one use its connection."""
        self._under_way.pop(timer, None)
        self._open -= 1
        if not is_surplus:
            self.release()

    def release(self) -> None:
        """Let another request use a connection."""
        self._free.release()

    async def acquire(self) -> None:
        """Wait for a connection."""
        self._waiting += 1
        if self._timer is None and self._free.locked():
            self._start_timer()
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1

    # -------------------------------------------------------------------------------- growing, shrinking

    def note_latency(self, started: float) -> None:
        """Record how long a request took that has just succeeded."""
        now = self._loop.time()
        seconds = now - started
        self.latency = seconds if self.latency is None else 0.9 * self.latency + 0.1 * seconds
        before, fastest, since = self._fastest
        if now - since > LATENCY_SECONDS:
            self._fastest = (fastest, seconds, now)
        else:
            self._fastest = (before, min(fastest, seconds), since)

    def _slow(self, least: float) -> list[asyncio.Timeout]:
        """Return the requests that take longer than so many seconds and than others, oldest first."""
        now = self._loop.time()
        slow_after = max(least, SLOW_FACTOR * (self.latency or 0.0))
        return [timer for timer, (started, _) in self._under_way.items() if now - started > slow_after]

    def _needed(self) -> float:
        """Return how many requests must be in progress to reach the rate, without the slow ones."""
        fastest = min(self._fastest[:2])
        if math.isinf(fastest):
            return self.most
        return max(START, ROOM * self._rate * fastest) + len(self._slow(HELD_SECONDS))

    def _start_timer(self) -> None:
        self._sent, self._ticked_at = 0, self._loop.time()
        self._timer = self._loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        """Increase the limit if requests wait although the rate limit is not reached."""
        elapsed = self._loop.time() - self._ticked_at
        self._timer = None
        if not self._waiting:
            self._pressure = 0
            return
        is_late = elapsed > 3 * TICK  # the machine was busy, so the number of sent requests says nothing
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
        slow = [
            timer
            for timer in self._slow(SLOW_SECONDS)
            if self._under_way[timer][1] and not timer.expired()  # in this iteration of the event loop
        ]
        for timer in slow[: max(0, len(slow) - self.most // 4)]:
            del self._under_way[timer]
            timer.reschedule(self._loop.time())

    def _is_surplus(self, now: float) -> bool:
        """Return whether this connection is not needed any more, and reduce the limit if so."""
        if now - self._counted_since >= SHRINK_SECONDS:
            self._surplus = self.limit - max(self._most_open, min(START, self.most))
            self._counted_since, self._most_open = now, self._open
        if self._surplus <= 0:
            return False
        self._surplus -= 1
        self.limit -= 1
        return True


class Slot:
    """
    The context of one request: see :meth:`ConnectionLimit.slot`.

    Its value is whether to close the connection. It is a class and not a generator, because each status check
    enters one.

    :raises TimeoutError: if the request took too long, or was canceled in favour of others.
    """

    __slots__ = ("_limit", "_may_be_canceled", "_seconds", "_started", "_surplus", "_throttle", "_timer")

    def __init__(
        self, limit: ConnectionLimit, throttle: Throttle, seconds: float, may_be_canceled: bool
    ) -> None:
        self._limit, self._throttle = limit, throttle
        self._seconds = seconds
        self._may_be_canceled = may_be_canceled

    async def __aenter__(self) -> bool:
        await self._limit.acquire()
        try:
            await self._throttle.acquire_async()
            self._timer = await asyncio.timeout(self._seconds).__aenter__()  # the time to wait does not count
        except BaseException:
            self._limit.release()
            raise
        self._started, self._surplus = self._limit.begin(self._timer, self._may_be_canceled)
        return self._surplus

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timer.__aexit__(kind, error, trace)
            if error is None:
                self._limit.note_latency(self._started)
        finally:
            self._limit.end(self._timer, self._surplus)

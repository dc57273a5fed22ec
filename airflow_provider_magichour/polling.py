"""
Looks at projects until they are finished: the poller that all waits share.

All waits of one event loop on one connection share a :class:`Poller`: one HTTP session, one schedule, one
rate limit, one pause when a 429 asks for it. Two waits for one project cost one request.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

from airflow_provider_magichour import api
from airflow_provider_magichour.exceptions import (
    MagicHourConnectionError,
    MagicHourConnectionNotFoundError,
    MagicHourError,
)
from airflow_provider_magichour.looks import MAX_LOOKS, Look, judge
from airflow_provider_magichour.schedule import BACKOFF_CAP
from airflow_provider_magichour.watches import Wait, Watch

if TYPE_CHECKING:
    from airflow_provider_magichour.transport import AsyncSender, Settings

    ReadSettings = Callable[[], Awaitable[Settings]]

log = logging.getLogger(__name__)

#: The longest pause that a 429 is granted for all waits of a connection, in seconds.
MAX_PAUSE = 3600.0
#: A connection that cannot be read now. Airflow also calls it missing where a secrets backend is away.
CANNOT_READ = (MagicHourConnectionError, MagicHourConnectionNotFoundError)
#: The connection is not read again sooner than this many seconds after that failed.
REREAD_PAUSE = 5.0


class Poller:
    """
    Looks at the projects of all waits of one event loop on one connection.

    It lives from its first wait to its last. Get one with :meth:`shared`.

    :param read_settings: reads the connection; called again by each new wait, and once after a 401.
    """

    _shared: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Poller]]] = WeakKeyDictionary()

    def __init__(self, read_settings: ReadSettings) -> None:
        self._read_settings = read_settings
        self._loop = asyncio.get_running_loop()
        self._watches: dict[tuple[str, str], Watch] = {}
        self._heap: list[tuple[float, int, Watch]] = []
        self._order = itertools.count()
        self._users = 0
        self._sooner = asyncio.Event()
        self._next_in_line = asyncio.Lock()
        self._workers: list[asyncio.Task[None]] = []
        self._reading = asyncio.Lock()
        self._rereading = asyncio.Lock()
        self._read_at = -1.0
        self._sender: AsyncSender | None = None
        self._retired: list[AsyncSender] = []
        self._refused_sender: AsyncSender | None = None
        #: Why the connection could not be read again the last time, and when that was, on the loop's clock.
        self._trouble: MagicHourError | None = None
        self._trouble_at = 0.0

    @classmethod
    @asynccontextmanager
    async def shared(
        cls, name: str, read_settings: Callable[[], Awaitable[Settings]]
    ) -> AsyncIterator[Poller]:
        """
        Give the poller that this event loop's waits on a connection share, its connection just read.

        :param name: the connection id.
        :param read_settings: reads the connection.
        """
        pollers = cls._shared.setdefault(asyncio.get_running_loop(), {})
        poller = pollers.get(name)
        if poller is None:
            poller = pollers[name] = cls(read_settings)
        poller._users += 1
        try:
            await poller._refresh()
            yield poller
        finally:
            poller._users -= 1
            if not poller._users:
                if pollers.get(name) is poller:
                    del pollers[name]
                await poller._close()

    @asynccontextmanager
    async def watching(self, wait: Wait) -> AsyncIterator[None]:
        """Look at a wait's projects as long as the context lasts."""
        now = time.time()
        for project_id in wait.ids:
            self._add(wait, project_id, now)
        while len(self._workers) < min(MAX_LOOKS, len(self._watches)):
            # A context of its own: what a worker logs belongs to no single task.
            context = contextvars.Context()
            self._workers.append(self._loop.create_task(self._work(), context=context))
        try:
            yield
        finally:
            for project_id in wait.ids:
                self._remove(wait, project_id)

    # ------------------------------------------------------------------------------------- schedule

    def _add(self, wait: Wait, project_id: str, now: float) -> None:
        key = (wait.kind, project_id)
        watch = self._watches.get(key)
        if watch is None:
            created = now if wait.submitted_at is None else min(wait.submitted_at, now)
            watch = self._watches[key] = Watch(wait.kind, project_id, created, wait.usual)
            watch.waits = (wait,)
            first = 0.0 if wait.submitted_at is None else watch.delay(Look(), now)
            self._plan(watch, first)
            return
        watch.waits += (wait,)
        watch.told = None
        if watch.due is not None:
            self._plan(watch, 0.0)

    def _remove(self, wait: Wait, project_id: str) -> None:
        watch = self._watches.get((wait.kind, project_id))
        if watch is None:
            return
        watch.waits = tuple(other for other in watch.waits if other is not wait)
        if not watch.waits:
            self._forget(watch)

    def _forget(self, watch: Watch) -> None:
        watch.waits = ()
        if self._watches.get((watch.kind, watch.project_id)) is watch:
            del self._watches[watch.kind, watch.project_id]

    def _plan(self, watch: Watch, delay: float) -> None:
        """Plan a look; the heap's older entry for it, if any, is void from now on."""
        watch.due = self._loop.time() + delay
        heapq.heappush(self._heap, (watch.due, next(self._order), watch))
        if self._heap[0][2] is watch:
            self._sooner.set()

    async def _next_due(self) -> Watch:
        """Wait until a look is due and take it; one worker at a time waits here."""
        async with self._next_in_line:
            while True:
                while self._heap and (not self._heap[0][2].waits or self._heap[0][0] != self._heap[0][2].due):
                    heapq.heappop(self._heap)
                seconds = self._heap[0][0] - self._loop.time() if self._heap else None
                if seconds is not None and seconds <= 0:
                    watch = heapq.heappop(self._heap)[2]
                    watch.due = None
                    return watch
                self._sooner.clear()
                timer = self._loop.call_later(seconds, self._sooner.set) if seconds is not None else None
                try:
                    await self._sooner.wait()
                finally:
                    if timer is not None:
                        timer.cancel()

    # ---------------------------------------------------------------------------------------- looks

    async def _work(self) -> None:
        while True:
            watch = await self._next_due()
            try:
                look = await self._look(watch)
                if watch.waits:
                    self._take(watch, look)
            except Exception:
                # A worker must outlive whatever it did not foresee: others' waits depend on it.
                log.exception("A look at project %s failed in an unforeseen way", watch.project_id)
                if watch.waits:
                    self._plan(watch, BACKOFF_CAP)

    async def _look(self, watch: Watch) -> Look:
        request = watch.request
        while True:
            sender, asked_at = self._sender, self._loop.time()
            if sender is None:
                return Look(blip=MagicHourError("the poller is closed"))
            answer: api.Response | MagicHourConnectionError
            try:
                answer = await sender.attempt(request)
            except MagicHourConnectionError as error:
                answer = error
            look = judge(request, answer)
            if not isinstance(answer, api.Response):
                return look
            if answer.status == 429 and look.retry_after:
                sender.throttle.pause(min(look.retry_after, MAX_PAUSE))
            if answer.status != 401:
                if self._refused_sender is sender:
                    self._refused_sender = None
                return look
            if watch.refused or sender is self._refused_sender or not watch.waits:
                self._refused_sender = sender
                return look
            trouble = await self._reread_after(sender, asked_at)
            if trouble is not None:  # nobody can tell whether the key was replaced: the next look tries again
                return Look(blip=MagicHourConnectionError(f"{look.error}; {trouble}"))
            watch.refused = True

    def _take(self, watch: Watch, look: Look) -> None:
        """Tell the waits, and plan the next look or forget the project."""
        now = time.time()
        status = None
        if look.project is not None:
            watch.learn(look.project, now)
            status = look.project["status"]
        elif look.blip is not None:
            watch.failures += 1
        over = look.outcome is not None or look.error is not None
        delay = 0.0 if over else watch.delay(look, now)
        if look.outcome is not None or status is None or status != watch.told:  # what is news
            watch.told = status
            news = look if over else replace(look, next_in=delay)
            for wait in watch.waits:
                wait.tell(watch.project_id, news)
        if over:
            self._forget(watch)
        else:
            self._plan(watch, delay)

    # ----------------------------------------------------------------------------------- connection

    async def _refresh(self) -> None:
        """Read the connection; callers that ask before a reading began share it."""
        asked_at = self._loop.time()
        async with self._reading:
            if self._sender is not None and self._read_at > asked_at:
                return
            started_at = self._loop.time()
            try:
                settings = await self._read_settings()
            except MagicHourError:
                raise
            except Exception as error:  # a secrets backend or a database may fail in any way
                raise MagicHourConnectionError(
                    f"The Airflow connection could not be read: {type(error).__name__}"
                ) from error
            self._use(settings)
            self._read_at = started_at

    async def _reread_after(self, sender: AsyncSender, asked_at: float) -> MagicHourError | None:
        """Read the connection after a 401, unless that was done since; return why it can't be read."""
        async with self._rereading:
            if sender is not self._sender or self._read_at > asked_at:
                return None
            if self._trouble is not None and self._loop.time() < self._trouble_at + REREAD_PAUSE:
                return self._trouble
            log.warning("Magic Hour does not know the API key (401): reading the connection again")
            try:
                await self._refresh()
            except CANNOT_READ as error:
                log.warning("The connection could not be read again: %s", error)
                self._trouble, self._trouble_at = error, self._loop.time()
                return error
            except MagicHourError as error:
                log.warning("The connection cannot be used any more: %s", error)
            return None

    def _use(self, settings: Settings) -> None:
        from airflow_provider_magichour.transport import AsyncSender

        old = self._sender
        if old is not None and old.settings == settings:
            return
        throttle = None
        if old is not None:
            self._retired.append(old)  # looks may be under way on it
            if old.settings.requests_per_second == settings.requests_per_second:
                throttle = old.throttle
        self._sender = AsyncSender(settings, throttle)

    async def _close(self) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.cancel()
        senders, self._retired, self._sender = [*self._retired, self._sender], [], None
        await asyncio.gather(*workers, return_exceptions=True)
        for sender in senders:
            if sender is not None:
                await sender.close()

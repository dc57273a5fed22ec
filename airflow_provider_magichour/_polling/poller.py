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
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from airflow_provider_magichour._client import api
from airflow_provider_magichour._polling.schedule import (
    BACKOFF_CAP,
    OLDEST,
    backoff,
    before_deadline,
    created_at,
    next_delay,
)
from airflow_provider_magichour._polling.status import MAX_CHECKS, StatusCheck, classify_response
from airflow_provider_magichour.exceptions import (
    MagicHourConnectionError,
    MagicHourConnectionNotFoundError,
    MagicHourError,
)
from airflow_provider_magichour.tools import typical_seconds

if TYPE_CHECKING:
    from airflow_provider_magichour._client.settings import Settings
    from airflow_provider_magichour._client.transport import AsyncSender

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
        self._projects: dict[tuple[str, str], PolledProject] = {}
        self._heap: list[tuple[float, int, PolledProject]] = []
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
    async def polling(self, wait: WaitRequest) -> AsyncIterator[None]:
        """Look at a wait's projects as long as the context lasts."""
        now = time.time()
        for project_id in wait.ids:
            self._add(wait, project_id, now)
        while len(self._workers) < min(MAX_CHECKS, len(self._projects)):
            # A context of its own: what a worker logs belongs to no single task.
            context = contextvars.Context()
            self._workers.append(self._loop.create_task(self._work(), context=context))
        try:
            yield
        finally:
            for project_id in wait.ids:
                self._remove(wait, project_id)

    # ------------------------------------------------------------------------------------- schedule

    def _add(self, wait: WaitRequest, project_id: str, now: float) -> None:
        key = (wait.kind, project_id)
        project = self._projects.get(key)
        if project is None:
            created = now if wait.submitted_at is None else min(wait.submitted_at, now)
            project = self._projects[key] = PolledProject(
                wait.kind, project_id, created, wait.typical_seconds
            )
            project.waits = (wait,)
            first = 0.0 if wait.submitted_at is None else project.delay(StatusCheck(), now)
            self._plan(project, first)
            return
        project.waits += (wait,)
        project.last_notified_status = None
        if project.due is not None:
            self._plan(project, 0.0)

    def _remove(self, wait: WaitRequest, project_id: str) -> None:
        project = self._projects.get((wait.kind, project_id))
        if project is None:
            return
        project.waits = tuple(other for other in project.waits if other is not wait)
        if not project.waits:
            self._forget(project)

    def _forget(self, project: PolledProject) -> None:
        project.waits = ()
        if self._projects.get((project.kind, project.project_id)) is project:
            del self._projects[project.kind, project.project_id]

    def _plan(self, project: PolledProject, delay: float) -> None:
        """Plan a look; the heap's older entry for it, if any, is void from now on."""
        project.due = self._loop.time() + delay
        heapq.heappush(self._heap, (project.due, next(self._order), project))
        if self._heap[0][2] is project:
            self._sooner.set()

    async def _next_due(self) -> PolledProject:
        """Wait until a look is due and take it; one worker at a time waits here."""
        async with self._next_in_line:
            while True:
                while self._heap and (not self._heap[0][2].waits or self._heap[0][0] != self._heap[0][2].due):
                    heapq.heappop(self._heap)
                seconds = self._heap[0][0] - self._loop.time() if self._heap else None
                if seconds is not None and seconds <= 0:
                    project = heapq.heappop(self._heap)[2]
                    project.due = None
                    return project
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
            project = await self._next_due()
            try:
                check = await self._check(project)
                if project.waits:
                    self._take(project, check)
            except Exception:
                # A worker must outlive whatever it did not foresee: others' waits depend on it.
                log.exception("A look at project %s failed in an unforeseen way", project.project_id)
                if project.waits:
                    self._plan(project, BACKOFF_CAP)

    async def _check(self, project: PolledProject) -> StatusCheck:
        request = project.request
        while True:
            sender, asked_at = self._sender, self._loop.time()
            if sender is None:
                return StatusCheck(transient_error=MagicHourError("the poller is closed"))
            answer: api.Response | MagicHourConnectionError
            try:
                answer = await sender.attempt(request)
            except MagicHourConnectionError as error:
                answer = error
            check = classify_response(request, answer)
            if not isinstance(answer, api.Response):
                return check
            if answer.status == 429 and check.retry_after:
                sender.throttle.pause(min(check.retry_after, MAX_PAUSE))
            if answer.status != 401:
                if self._refused_sender is sender:
                    self._refused_sender = None
                return check
            if project.refused or sender is self._refused_sender or not project.waits:
                self._refused_sender = sender
                return check
            trouble = await self._reread_after(sender, asked_at)
            if trouble is not None:  # nobody can tell whether the key was replaced: the next look tries again
                return StatusCheck(transient_error=MagicHourConnectionError(f"{check.error}; {trouble}"))
            project.refused = True

    def _take(self, project: PolledProject, check: StatusCheck) -> None:
        """Tell the waits, and plan the next look or forget the project."""
        now = time.time()
        status = None
        if check.project is not None:
            project.update(check.project, now)
            status = check.project["status"]
        elif check.transient_error is not None:
            project.failures += 1
        over = check.outcome is not None or check.error is not None
        delay = 0.0 if over else project.delay(check, now)
        if (
            check.outcome is not None or status is None or status != project.last_notified_status
        ):  # what is news
            project.last_notified_status = status
            news = check if over else replace(check, next_in=delay)
            for wait in project.waits:
                wait.tell(project.project_id, news)
        if over:
            self._forget(project)
        else:
            self._plan(project, delay)

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
        from airflow_provider_magichour._client.transport import AsyncSender

        old = self._sender
        if old is not None and old.settings == settings:
            return
        if old is not None:
            self._retired.append(old)  # looks may be under way on it
        self._sender = AsyncSender(settings)

    async def _close(self) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.cancel()
        senders, self._retired, self._sender = [*self._retired, self._sender], [], None
        await asyncio.gather(*workers, return_exceptions=True)
        for sender in senders:
            if sender is not None:
                await sender.close()


class WaitRequest:
    """
    One task's wait for one or many projects; what was found comes out of :meth:`news`.

    :param kind: the kind of all its projects.
    :param project_ids: the projects.
    :param deadline: when to stop looking, in unix seconds.
    :param poll_interval: seconds between looks, adaptive if None.
    :param usual: the median duration of the projects, where the tool is known.
    :param submitted_at: when they were made, in unix seconds, where that was just now: no look at once.
    """

    __slots__ = (
        "_arrived",
        "_found",
        "deadline",
        "ids",
        "kind",
        "poll_interval",
        "submitted_at",
        "typical_seconds",
    )

    def __init__(
        self,
        kind: str,
        project_ids: Iterable[str],
        deadline: float,
        poll_interval: float | None = None,
        *,
        typical_seconds: float | None = None,
        submitted_at: float | None = None,
    ) -> None:
        self.kind = kind
        self.ids = list(dict.fromkeys(project_ids))
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.typical_seconds = typical_seconds
        self.submitted_at = submitted_at
        self._found: list[tuple[str, StatusCheck]] = []
        self._arrived = asyncio.Event()

    def tell(self, project_id: str, check: StatusCheck) -> None:
        """Put a look among the news."""
        self._found.append((project_id, check))
        self._arrived.set()

    async def news(self, seconds: float) -> list[tuple[str, StatusCheck]]:
        """Return what was found since the last call; wait for something this long at most."""
        if not self._found:
            self._arrived.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        found, self._found = self._found, []
        return found


class PolledProject:
    """One project that is looked at, for one wait or several."""

    __slots__ = (
        "created",
        "due",
        "failures",
        "kind",
        "last_notified_status",
        "project_id",
        "refused",
        "request",
        "seen",
        "typical_seconds",
        "waits",
    )

    def __init__(self, kind: str, project_id: str, created: float, typical_seconds: float | None) -> None:
        self.kind = kind
        self.project_id = project_id
        self.request = api.get_project(kind, project_id)
        self.created = created
        self.typical_seconds = typical_seconds
        self.waits: tuple[WaitRequest, ...] = ()
        #: When to look next, on the loop's clock; None while a look is under way.
        self.due: float | None = None
        self.failures = 0
        #: Whether the last answer was a 401.
        self.refused = False
        #: Whether the project itself was seen, which tells its age and type.
        self.seen = False
        #: The status that the waits were told last; None to tell them whatever the next look finds.
        self.last_notified_status: str | None = None

    def update(self, project: Mapping[str, Any], now: float) -> None:
        """Take the age and the usual duration from the project itself."""
        self.failures = 0
        self.refused = False
        if self.seen:
            return
        self.seen = True
        created = created_at(project)
        if created is not None and now - OLDEST <= created <= now:
            self.created = created
        if self.typical_seconds is None:
            self.typical_seconds = typical_seconds(self.kind, project.get("type"))

    def delay(self, check: StatusCheck, now: float) -> float:
        """Return the seconds until the next look: the soonest that one of the waits wants."""
        return min(self._delay_for(wait, check, now) for wait in self.waits)

    def _delay_for(self, wait: WaitRequest, check: StatusCheck, now: float) -> float:
        left = wait.deadline - now
        delay = next_delay(
            self.kind,
            self.typical_seconds,
            now - self.created,
            left,
            random.random(),
            poll_interval=wait.poll_interval,
        )
        if check.transient_error is None:
            return delay
        return before_deadline(backoff(delay, self.failures, check.retry_after), left)


def delay_after(wait: WaitRequest, project_id: str, check: StatusCheck) -> float:
    """Return the seconds until the next look at a project that one look found unfinished."""
    now = time.time()
    project = PolledProject(wait.kind, project_id, now, wait.typical_seconds)
    project.waits = (wait,)
    if check.project is not None:
        project.update(check.project, now)
    elif check.transient_error is not None:
        project.failures = 1
    return project.delay(check, now)

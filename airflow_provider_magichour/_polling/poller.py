"""
Polls projects until they are finished: the poller that all waits share.

All waits of one event loop on one connection share a :class:`Poller`: one HTTP session, one schedule, one
rate limit, one pause when a 429 requests it. Two waits for one project cost one request.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

from airflow_provider_magichour._client import api, stats
from airflow_provider_magichour._polling.not_found import decide_not_found, not_found_delay
from airflow_provider_magichour._polling.refreshing_sender import RefreshingSender
from airflow_provider_magichour._polling.schedule import BACKOFF_CAP
from airflow_provider_magichour._polling.status import StatusCheck, classify_response
from airflow_provider_magichour._polling.wait_request import PolledProject, WaitRequest
from airflow_provider_magichour.exceptions import MagicHourConnectionError, MagicHourNotFoundError

if TYPE_CHECKING:
    from airflow_provider_magichour._polling.refreshing_sender import ReadConnection, ReadSettings

log = logging.getLogger(__name__)

#: The longest pause of all waits of a connection after a 429, in seconds.
MAX_PAUSE = 3600.0
#: Seconds that a status check may take, whatever the connection's ``timeout`` is.
CHECK_SECONDS = 12.0
#: The share of the connections that projects may use whose last check failed.
FAILING_SHARE = 0.25
#: How often a triggerer reports the metrics of its pollers, in seconds.
REPORT_SECONDS = 10.0


class Poller:
    """
    Checks the status of the projects of all waits of one event loop on one connection.

    It exists from its first wait to its last. Get one with :meth:`shared`.

    :param read_settings: reads the connection; called again by each new wait, and once after a 401.
    """

    _shared: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Poller]]] = WeakKeyDictionary()

    def __init__(self, read_settings: ReadSettings, name: str = "") -> None:
        self._sender = RefreshingSender(read_settings)
        self._loop = asyncio.get_running_loop()
        self._projects: dict[tuple[str, str], PolledProject] = {}
        self._heap: list[tuple[float, int, PolledProject]] = []
        self._order = itertools.count()
        self._users = 0
        self._sooner = asyncio.Event()
        self._next_in_line = asyncio.Lock()
        self._workers: list[asyncio.Task[None]] = []
        #: Checks in progress of projects whose last check failed, and such projects that have to wait.
        self._failing = 0
        self._held_back: deque[PolledProject] = deque()
        #: When the pause after a 429 ends, on the loop's clock.
        self.paused_until = 0.0
        #: The longest lateness of a check since the metrics were reported last, in seconds.
        self._late = 0.0
        self._reporter: asyncio.Task[None] | None = None
        if not stats.running_task():  # a task's poller does not show the triggerers' load
            self._reporter = self._loop.create_task(self._report(name), context=contextvars.Context())

    @classmethod
    @asynccontextmanager
    async def shared(cls, conn_id: str, read_connection: ReadConnection) -> AsyncIterator[Poller]:
        """Yield the shared poller of this event loop for a connection, after reading the connection."""
        pollers = cls._shared.setdefault(asyncio.get_running_loop(), {})
        poller = pollers.get(conn_id)
        if poller is None:
            poller = pollers[conn_id] = cls(functools.partial(read_connection, conn_id), conn_id)
        poller._users += 1
        try:
            await poller._sender.refresh()
            yield poller
        finally:
            poller._users -= 1
            if not poller._users:
                if pollers.get(conn_id) is poller:
                    del pollers[conn_id]
                await poller._close()

    @asynccontextmanager
    async def polling(self, wait: WaitRequest) -> AsyncIterator[None]:
        """Poll a wait's projects as long as the context lasts."""
        now = time.time()
        for project_id in wait.ids:
            self._add(wait, project_id, now)
        # More workers than connections, because slow checks may use all connections.
        while len(self._workers) < min(2 * self._max_connections, len(self._projects)):
            # A new context, because the log lines of a worker belong to no single task.
            context = contextvars.Context()
            self._workers.append(self._loop.create_task(self._work(), context=context))
        try:
            yield
        finally:
            for project_id in wait.ids:
                self._remove(wait, project_id)

    @property
    def _max_connections(self) -> int:
        return self._sender.sender.settings.max_connections

    # ------------------------------------------------------------------------------------- schedule

    def check_soon(self, wait: WaitRequest, project_ids: Iterable[str], delay: float = 0.0) -> None:
        """
        Check projects of a wait as soon as possible, and notify all their waits of the result.

        :param delay: seconds before the check.
        """
        for project_id in project_ids:
            project = self._projects.get((wait.kind, project_id))
            if project is None:
                continue
            project.last_notified_status = None
            if project.due is not None:
                self._plan(project, delay)

    def _add(self, wait: WaitRequest, project_id: str, now: float) -> None:
        key = (wait.kind, project_id)
        project = self._projects.get(key)
        if project is None:
            project = self._projects[key] = PolledProject(wait, project_id, now)
            self._plan(project, 0.0 if wait.submitted_at is None else project.delay(StatusCheck(), now))
            return
        project.waits += (wait,)
        self.check_soon(wait, [project_id])

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
        """Plan a check. An older entry in the heap for the same project is not valid any more."""
        project.due = self._loop.time() + delay
        heapq.heappush(self._heap, (project.due, next(self._order), project))
        if self._heap[0][2] is project:
            self._sooner.set()

    async def _next_due(self) -> tuple[PolledProject, float]:
        """Wait until a check is due, and return it. Only one worker at a time waits here."""
        async with self._next_in_line:
            while True:
                while self._heap and (not self._heap[0][2].waits or self._heap[0][0] != self._heap[0][2].due):
                    heapq.heappop(self._heap)
                seconds = self._heap[0][0] - self._loop.time() if self._heap else None
                if seconds is not None and seconds <= 0:
                    due, _, project = heapq.heappop(self._heap)
                    project.due = None
                    if project.failures and self._failing >= max(1, self._max_connections * FAILING_SHARE):
                        self._held_back.append(project)
                        continue
                    return project, due
                self._sooner.clear()
                timer = self._loop.call_later(seconds, self._sooner.set) if seconds is not None else None
                try:
                    await self._sooner.wait()
                finally:
                    if timer is not None:
                        timer.cancel()

    # --------------------------------------------------------------------------------------- checks

    async def _work(self) -> None:
        while True:
            project, due = await self._next_due()
            is_failing = project.failures > 0
            self._failing += is_failing
            try:
                check = await self._check(project)
                if check.project is not None:
                    self._note_lateness(project, due)
                if project.waits:
                    self._handle(project, check)
            except Exception:
                # A worker must survive unexpected errors, because other waits depend on it.
                log.exception("Unexpected error while polling project %s", project.project_id)
                if project.waits:
                    self._plan(project, BACKOFF_CAP)
            finally:
                self._failing -= is_failing
                if is_failing and self._held_back:
                    self._plan(self._held_back.popleft(), 0.0)

    async def _check(self, project: PolledProject) -> StatusCheck:
        """Check a project's status once."""
        response: api.Response | MagicHourConnectionError
        try:
            response = await self._sender.attempt(project.request, CHECK_SECONDS)
        except MagicHourConnectionError as error:
            response = error
        check = classify_response(project.request, response)
        if isinstance(response, api.Response) and response.status == 429 and check.retry_after:
            self._pause(min(check.retry_after, MAX_PAUSE))
        if isinstance(check.error, MagicHourNotFoundError):
            return await decide_not_found(project, check.error, self._sender.sender, CHECK_SECONDS)
        return check

    def _pause(self, seconds: float) -> None:
        self._sender.sender.throttle.pause(seconds)
        self.paused_until = max(self.paused_until, self._loop.time() + seconds)

    def _note_lateness(self, project: PolledProject, due: float) -> None:
        """Record for the logs how late a check was, unless the cause was a pause after a 429."""
        sender = self._sender.sender
        started = self._loop.time() - (sender.connections.latency or 0.0)
        late = started - max(due, self.paused_until)
        self._late = max(self._late, late)
        if late > 0:
            is_full = sender.connections.limit >= sender.settings.max_connections
            limit = "max_connections" if is_full else "requests_per_second"
            for wait in project.waits:
                wait.late = max(wait.late, (late, limit))

    def _handle(self, project: PolledProject, check: StatusCheck) -> None:
        """Notify the waits, and plan the next check, or remove the project."""
        now = time.time()
        status = None
        if check.project is not None:
            project.update(check, check.project, now)
            status = check.project["status"]
        elif check.transient_error is not None:
            project.failures += 1
            if not isinstance(check.transient_error, MagicHourNotFoundError):
                project.not_found_since = None
        over = check.outcome is not None or check.error is not None
        delay = 0.0 if over else not_found_delay(project, project.delay(check, now), now)
        if check.outcome is not None or status is None or status != project.last_notified_status:
            project.last_notified_status = status
            change = check if over else replace(check, next_in=delay)
            for wait in project.waits:
                wait.notify(project.project_id, change)
        if over:
            self._forget(project)
        else:
            self._plan(project, delay)

    async def _report(self, name: str) -> None:
        """Report how many projects are waited for, and how late status checks are, until it is canceled."""
        try:
            while True:
                stats.gauge("poller.waiting", len(self._projects), connection=name)
                stats.gauge("poller.late_seconds", self._late, connection=name)
                self._late = 0.0
                await asyncio.sleep(REPORT_SECONDS)
        finally:
            stats.gauge("poller.waiting", 0, connection=name)
            stats.gauge("poller.late_seconds", 0, connection=name)

    async def _close(self) -> None:
        workers, self._workers = self._workers, []
        if self._reporter is not None:
            workers.append(self._reporter)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await self._sender.close()

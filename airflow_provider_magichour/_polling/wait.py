"""
Waits for projects, in a trigger, on a worker, and in the hook.

The meaning of responses, the schedule and the error messages are the same in all three.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_magichour._polling.poller import Poller
from airflow_provider_magichour._polling.progress import LOG_INTERVAL, MISSING, WaitProgress, timeout_error
from airflow_provider_magichour._polling.refreshing_sender import CANNOT_READ
from airflow_provider_magichour._polling.schedule import created_at
from airflow_provider_magichour._polling.status import StatusCheck
from airflow_provider_magichour._polling.wait_request import WaitRequest
from airflow_provider_magichour.exceptions import (
    MagicHourConnectionError,
    MagicHourError,
    MagicHourNotFoundError,
    MagicHourTimeoutError,
)
from airflow_provider_magichour.tools import seconds_before_deferral, tool_of, typical_seconds_of

if TYPE_CHECKING:
    from airflow_provider_magichour._polling.refreshing_sender import ReadConnection

#: The pauses between the tries to read the connection, in seconds.
JOIN_PAUSES = (1.0, 5.0, 15.0, 30.0)
#: Seconds that one check of all pending projects may take. A decision about a 404 takes 60 s.
ROUND_SECONDS = 75.0
#: Seconds that the last check of a wait may take, plus one second for so many projects. A triggerer that has
#: just started on a busy machine needs some time. The sum is less than the margin of a deferral.
LAST_CHECK_SECONDS, LAST_CHECK_RATE = 60.0, 100.0
#: The tries of the last check if it fails, and the pause between them in seconds.
LAST_CHECK_TRIES, LAST_CHECK_PAUSE = 3, 2.0
#: While all projects are checked once, a pause after a 429 is noticed within this many seconds.
PAUSE_CHECK_SECONDS = 1.0
#: Seconds to read the connection for a wait whose deadline has passed.
MIN_JOIN_SECONDS = 60.0
#: The possible outcomes of a project.
OUTCOMES = frozenset({"complete", "error", "canceled", "deleted", MISSING})


async def wait_for_outcomes(
    wait: WaitRequest,
    conn_id: str,
    read_connection: ReadConnection,
    *,
    missing_ok: bool = False,
    logger: Any = None,
    projects: dict[str, Mapping[str, Any]] | None = None,
) -> dict[str, str]:
    """
    Wait until all projects are finished, however they end; check once more before the wait times out.

    :param conn_id: the connection. Waits on the same connection in one event loop share a poller.
    :param missing_ok: whether a project that Magic Hour does not know (404) is the outcome ``missing``
        instead of an error that ends the wait.
    :param projects: filled with the finished projects, if given.
    :return: how each project ended: ``complete``, ``error``, ``canceled``, ``deleted`` or ``missing``.
    :raises MagicHourApiError: 401, 403 and 404.
    :raises MagicHourTimeoutError: at the deadline.
    """
    progress = WaitProgress(wait, missing_ok, logger, projects)
    async with _polling(progress, conn_id, read_connection) as poller:
        await _collect_until(wait.deadline, progress)
        if progress.pending:
            poller.check_soon(wait, progress.pending)
            seconds = LAST_CHECK_SECONDS + len(progress.pending) / LAST_CHECK_RATE
            await _collect_each(poller, progress, seconds, tries=LAST_CHECK_TRIES)
    if progress.pending:
        raise progress.timeout(wait.deadline)
    return {project_id: progress.outcomes[project_id] for project_id in wait.ids}


@asynccontextmanager
async def _polling(
    progress: WaitProgress, conn_id: str, read_connection: ReadConnection
) -> AsyncIterator[Poller]:
    """
    Poll a wait's projects as long as the context lasts.

    :raises MagicHourTimeoutError: if the connection could not be read before the deadline.
    """
    wait = progress.wait
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(max(wait.deadline - time.time(), MIN_JOIN_SECONDS)):
                poller = await _join(stack, progress, conn_id, read_connection)
        except TimeoutError:
            progress.last_error = progress.last_error or MagicHourConnectionError(
                f"the connection {conn_id!r} could not be read in time"
            )
            raise progress.timeout(wait.deadline) from None
        await stack.enter_async_context(poller.polling(wait))
        yield poller


async def _join(
    stack: AsyncExitStack, progress: WaitProgress, conn_id: str, read_connection: ReadConnection
) -> Poller:
    """Use the poller of a connection. A wait does not fail if a secrets backend fails for a moment."""
    for pause in JOIN_PAUSES:
        try:
            return await stack.enter_async_context(Poller.shared(conn_id, read_connection))
        except CANNOT_READ as error:
            progress.last_error = error
            progress.log.warning("%s; trying again in %.0f s", error, pause)
        await progress.wait.changes(pause)  # there are none, but a kill ends it
    return await stack.enter_async_context(Poller.shared(conn_id, read_connection))


async def _collect_until(until: float, progress: WaitProgress) -> None:
    """Process the results of the poller until all projects are finished or the time is up (unix seconds)."""
    while progress.pending and (left := until - time.time()) > 0:
        for project_id, check in await progress.wait.changes(min(left, LOG_INTERVAL)):
            progress.take(project_id, check)
        progress.report()


async def _collect_each(
    poller: Poller, progress: WaitProgress, seconds: float, *, tries: int = 1
) -> dict[str, StatusCheck]:
    """
    Check each pending project once, and return the checks that found a project unfinished.

    After a 404, the project is checked until the decision is clear. A pause after a 429 ends this.

    :param tries: how often a check is repeated after another failure.
    """
    wait, loop = progress.wait, asyncio.get_running_loop()
    ends = loop.time() + seconds
    unfinished: dict[str, StatusCheck] = {}
    left = dict.fromkeys(progress.pending, tries)
    while left and ends > max(loop.time(), poller.paused_until):
        for project_id, check in await wait.changes(min(ends - loop.time(), PAUSE_CHECK_SECONDS)):
            progress.take(project_id, check)
            unfinished[project_id] = check
            if isinstance(check.transient_error, MagicHourNotFoundError) or project_id not in left:
                continue
            left[project_id] = left[project_id] - 1 if check.transient_error is not None else 0
            pause = max(LAST_CHECK_PAUSE, check.retry_after or 0.0)
            if left[project_id] and loop.time() + pause < ends:
                poller.check_soon(wait, [project_id], pause)
            else:
                del left[project_id]
    return {project_id: check for project_id, check in unfinished.items() if project_id in progress.pending}


def wait_for_finished(
    wait: WaitRequest, conn_id: str, read_connection: ReadConnection, *, logger: Any = None
) -> tuple[dict[str, str], dict[str, Mapping[str, Any]]]:
    """
    Wait on this thread until all projects are finished, however they end; see :func:`wait_for_outcomes`.

    :return: how each project ended, and the finished projects by id.
    """
    from airflow_provider_magichour._client.transport import run_async

    projects: dict[str, Mapping[str, Any]] = {}
    outcomes = run_async(
        lambda: wait_for_outcomes(wait, conn_id, read_connection, logger=logger, projects=projects)
    )
    return outcomes, projects


class WaitResult(NamedTuple):
    """
    The result of a wait of limited time.

    :param outcomes: how the finished projects ended.
    :param pending: the others, with their status, None if no check succeeded.
    :param last_error: why the last status check failed, if it did.
    :param next_in: seconds until the next status check.
    """

    outcomes: dict[str, str]
    projects: dict[str, Mapping[str, Any]]
    pending: dict[str, str | None]
    last_error: MagicHourError | None
    next_in: float

    def timeout(self) -> MagicHourTimeoutError:
        """Return the error of a wait that reaches its deadline now."""
        total = len(self.pending) + len(self.outcomes)
        return timeout_error(self.pending, total, time.time(), self.last_error)


def wait_on_worker(
    wait: WaitRequest,
    conn_id: str,
    read_connection: ReadConnection,
    seconds: float | None = 0.0,
    *,
    tries: int = 1,
    missing_ok: bool = False,
    logger: Any = None,
) -> WaitResult:
    """
    Check each project once on this thread, and then wait for a limited time: before a deferral, or in a poke.

    :param seconds: how long to wait after the first check. If None, it waits if the projects are likely to
        finish sooner than a deferral takes.
    :param tries: how often a check is repeated after a failure. At the deadline, it is always repeated.
    :param missing_ok: as :func:`wait_for_outcomes` takes it.
    :raises MagicHourApiError: 401, 403 and 404.
    """
    from airflow_provider_magichour._client.transport import run_async

    projects: dict[str, Mapping[str, Any]] = {}
    progress = WaitProgress(wait, missing_ok, logger, projects)

    async def check_and_wait() -> float:
        async with _polling(progress, conn_id, read_connection) as poller:
            poller.check_soon(wait, wait.ids)
            most = LAST_CHECK_TRIES if wait.deadline <= time.time() else tries
            unfinished = await _collect_each(poller, progress, ROUND_SECONDS, tries=most)
            patience = _patience(wait.kind, unfinished) if seconds is None else seconds
            await _collect_until(min(time.time() + patience, wait.deadline), progress)
            pause = max(poller.paused_until - asyncio.get_running_loop().time(), 0.0)
        return max(min((check.next_in or 0.0 for check in unfinished.values()), default=0.0), pause)

    next_in = run_async(check_and_wait)
    return WaitResult(progress.outcomes, projects, progress.pending, progress.last_error, next_in)


def _patience(kind: str, unfinished: Mapping[str, StatusCheck]) -> float:
    """Return how long to wait on the worker because that is quicker than a deferral."""
    longest = 0.0
    for check in unfinished.values():
        project = check.project or {}
        created = created_at(project)
        seconds = seconds_before_deferral(typical_seconds_of(tool_of(kind, project.get("type"))))
        if not seconds or created is None:
            return 0.0
        longest = max(longest, created + seconds - time.time())
    return longest

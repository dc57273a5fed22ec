"""
Waits for projects: the same for a trigger, a task that stays on its worker, and the hook.

What they share is what a response means, the schedule, the errors and their words.
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
from airflow_provider_magichour.tools import seconds_before_deferral, typical_seconds

if TYPE_CHECKING:
    from airflow_provider_magichour._polling.refreshing_sender import ReadConnection

#: The pauses between the tries to read the connection, in seconds.
JOIN_PAUSES = (1.0, 5.0, 15.0, 30.0)
#: Seconds that one check of each pending project may take in all; a 404 takes 60 s to be certain.
ROUND_SECONDS = 75.0
#: Seconds that the last check of a wait may take, and projects a second that it checks besides. A triggerer
#: that has just started on a busy machine needs some; all of it is less than the margin of a deferral.
LAST_CHECK_SECONDS, LAST_CHECK_RATE = 60.0, 100.0
#: How often the last check is tried where it fails, and the pause before it is tried again, in seconds.
LAST_CHECK_TRIES, LAST_CHECK_PAUSE = 3, 2.0
#: In such a round, a pause that a 429 asks for is noticed within this many seconds.
PAUSE_CHECK_SECONDS = 1.0
#: A wait whose deadline has passed still gets this many seconds to read its connection.
MIN_JOIN_SECONDS = 60.0
#: How a project may end, in a wait's outcomes.
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

    :param wait: what is waited for, and until when.
    :param conn_id: the connection id; waits of one name in one event loop share a poller.
    :param read_connection: reads the connection of this id.
    :param missing_ok: whether a project that Magic Hour does not know (404) is the outcome ``missing``
        instead of an error that ends the wait.
    :param logger: what the progress is logged to.
    :param projects: filled with the finished projects, if given.
    :return: how each project ended: ``complete``, ``error``, ``canceled``, ``deleted`` or ``missing``.
    :raises MagicHourApiError: 401, 403 and 404.
    :raises MagicHourTimeoutError: at the deadline.
    """
    progress = WaitProgress(wait, missing_ok, logger)
    async with _polling(wait, conn_id, read_connection, progress) as poller:
        await _collect_until(wait.deadline, wait, progress, projects)
        if progress.pending:
            poller.check_soon(wait, progress.pending)
            seconds = LAST_CHECK_SECONDS + len(progress.pending) / LAST_CHECK_RATE
            await _collect_each(poller, wait, progress, projects, seconds, tries=LAST_CHECK_TRIES)
    if progress.pending:
        raise progress.timeout(wait.deadline)
    return {project_id: progress.outcomes[project_id] for project_id in wait.ids}


@asynccontextmanager
async def _polling(
    wait: WaitRequest, conn_id: str, read_connection: ReadConnection, progress: WaitProgress
) -> AsyncIterator[Poller]:
    """
    Poll a wait's projects as long as the context lasts.

    :raises MagicHourTimeoutError: if the connection could not be read before the deadline.
    """
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(max(wait.deadline - time.time(), MIN_JOIN_SECONDS)):
                poller = await _join(stack, wait, conn_id, read_connection, progress)
        except TimeoutError:
            progress.last_error = progress.last_error or MagicHourConnectionError(
                f"the connection {conn_id!r} could not be read in time"
            )
            raise progress.timeout(wait.deadline) from None
        await stack.enter_async_context(poller.polling(wait))
        yield poller


async def _join(
    stack: AsyncExitStack,
    wait: WaitRequest,
    conn_id: str,
    read_connection: ReadConnection,
    progress: WaitProgress,
) -> Poller:
    """Join the poller of a connection; a secrets backend that is away for a moment fails no wait."""
    for pause in JOIN_PAUSES:
        try:
            return await stack.enter_async_context(Poller.shared(conn_id, read_connection))
        except CANNOT_READ as error:
            progress.last_error = error
            progress.log.warning("%s; trying again in %.0f s", error, pause)
        await wait.changes(pause)  # there are none, but a kill ends it
    return await stack.enter_async_context(Poller.shared(conn_id, read_connection))


async def _collect_until(
    until: float, wait: WaitRequest, progress: WaitProgress, projects: dict[str, Mapping[str, Any]] | None
) -> None:
    """Take what the poller finds into account, until all is finished or the time is up (unix seconds)."""
    while progress.pending and (left := until - time.time()) > 0:
        for project_id, check in await wait.changes(min(left, LOG_INTERVAL)):
            progress.take(project_id, check, projects)
        progress.report()


async def _collect_each(
    poller: Poller,
    wait: WaitRequest,
    progress: WaitProgress,
    projects: dict[str, Mapping[str, Any]] | None,
    seconds: float,
    *,
    tries: int = 1,
) -> dict[str, StatusCheck]:
    """
    Take one check of each pending project into account, and return those that found it unfinished.

    A project that returns 404 is checked until that is certain; a pause that a 429 asks for ends it.

    :param tries: how often a check is made that fails otherwise.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    unfinished: dict[str, StatusCheck] = {}
    left = dict.fromkeys(progress.pending, tries)
    while left and ends > max(loop.time(), poller.paused_until):
        for project_id, check in await wait.changes(min(ends - loop.time(), PAUSE_CHECK_SECONDS)):
            progress.take(project_id, check, projects)
            unfinished[project_id] = check
            if isinstance(check.transient_error, MagicHourNotFoundError) or project_id not in left:
                continue
            left[project_id] = left[project_id] - 1 if check.transient_error is not None else 0
            if left[project_id]:
                poller.check_soon(wait, [project_id], max(LAST_CHECK_PAUSE, check.retry_after or 0.0))
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
    What a wait of limited time found.

    :param outcomes: how the finished projects ended.
    :param projects: the finished projects.
    :param pending: the others, with their status, None where no check succeeded.
    :param last_error: why the last status check failed, if it did.
    :param next_in: seconds until the next status check.
    """

    outcomes: dict[str, str]
    projects: dict[str, Mapping[str, Any]]
    pending: dict[str, str | None]
    last_error: MagicHourError | None
    next_in: float

    def timeout(self) -> MagicHourTimeoutError:
        """Return the error of a wait whose deadline is now."""
        total = len(self.pending) + len(self.outcomes)
        return timeout_error(self.pending, total, time.time(), self.last_error)


def wait_on_worker(
    wait: WaitRequest,
    conn_id: str,
    read_connection: ReadConnection,
    seconds: float | None = 0.0,
    *,
    missing_ok: bool = False,
    logger: Any = None,
) -> WaitResult:
    """
    Check each project once on this thread, then wait for a limited time: before a deferral, or in a poke.

    :param wait: what is waited for, and until when.
    :param conn_id: the connection id.
    :param read_connection: reads the connection of this id.
    :param seconds: how long to wait after the first check; if None, as long as the projects are likely to
        finish sooner than a deferral takes.
    :param missing_ok: as :func:`wait_for_outcomes` takes it.
    :param logger: what the progress is logged to.
    :raises MagicHourApiError: 401, 403 and 404.
    """
    from airflow_provider_magichour._client.transport import run_async

    progress = WaitProgress(wait, missing_ok, logger)
    projects: dict[str, Mapping[str, Any]] = {}

    async def check_and_wait() -> float:
        async with _polling(wait, conn_id, read_connection, progress) as poller:
            poller.check_soon(wait, wait.ids)
            tries = LAST_CHECK_TRIES if wait.deadline <= time.time() else 1
            unfinished = await _collect_each(poller, wait, progress, projects, ROUND_SECONDS, tries=tries)
            patience = _patience(wait.kind, unfinished) if seconds is None else seconds
            await _collect_until(min(time.time() + patience, wait.deadline), wait, progress, projects)
            pause = max(poller.paused_until - asyncio.get_running_loop().time(), 0.0)
        return max(min((check.next_in or 0.0 for check in unfinished.values()), default=0.0), pause)

    next_in = run_async(check_and_wait)
    return WaitResult(progress.outcomes, projects, progress.pending, progress.last_error, next_in)


def _patience(kind: str, unfinished: Mapping[str, StatusCheck]) -> float:
    """Return how long waiting on the worker is quicker than a deferral, for projects of known types."""
    longest = 0.0
    for check in unfinished.values():
        project = check.project or {}
        created = created_at(project)
        seconds = seconds_before_deferral(typical_seconds(kind, project.get("type")))
        if not seconds or created is None:
            return 0.0
        longest = max(longest, created + seconds - time.time())
    return longest

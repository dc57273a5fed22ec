"""
Waits for projects: the same for a trigger, a task that stays on its worker, and the hook.

What they share is the judgement of answers, the schedule, the errors and their words.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_magichour._polling.poller import CANNOT_READ, Poller, WaitRequest, delay_after
from airflow_provider_magichour._polling.schedule import created_at
from airflow_provider_magichour._polling.status import StatusCheck, check_all
from airflow_provider_magichour.exceptions import (
    MagicHourError,
    MagicHourNotFoundError,
    MagicHourTimeoutError,
)

if TYPE_CHECKING:
    from airflow_provider_magichour._client.settings import Settings
    from airflow_provider_magichour._polling.poller import ReadSettings

#: At most this often, in seconds, a wait logs how far it is, and failed looks.
LOG_INTERVAL = 30.0
#: The pauses between the tries to read the connection, in seconds.
JOIN_PAUSES = (1.0, 5.0, 15.0, 30.0)
#: How many projects a message names.
MAX_NAMED = 10
#: The outcome of a project that Magic Hour does not know (404), where a wait goes on without it.
MISSING = "missing"
#: How a project may end, in a wait's outcomes.
OUTCOMES = frozenset({"complete", "error", "canceled", "deleted", MISSING})


class WaitProgress:
    """What one wait has seen so far, and what it logs of it."""

    def __init__(self, wait: WaitRequest, missing_ok: bool, logger: Any) -> None:
        self.pending: dict[str, str | None] = dict.fromkeys(wait.ids)
        self.outcomes: dict[str, str] = {}
        self.projects: dict[str, Mapping[str, Any]] = {}
        self.last_error: MagicHourError | None = None
        self._total = len(wait.ids)
        self._missing_ok = missing_ok
        self.log = logger
        self._unknown: set[str] = set()
        self._failed_checks = 0
        self._last_failure: MagicHourError | None = None
        self._failures_logged_at = self._progress_logged_at = -LOG_INTERVAL
        self.logged_done = 0

    def take(self, project_id: str, check: StatusCheck, keep_projects: bool) -> None:
        """
        Take one look into account.

        :raises MagicHourApiError: if it ends the wait.
        """
        if project_id not in self.pending:
            return
        if check.error is not None:
            if not (self._missing_ok and isinstance(check.error, MagicHourNotFoundError)):
                raise check.error
            self.log.warning("Project %s is gone: %s", project_id, check.error)
            self._finish(project_id, MISSING)
        elif check.outcome is not None:
            if keep_projects and check.project is not None:
                self.projects[project_id] = check.project
            self._finish(project_id, check.outcome, check.project)
        elif check.transient_error is not None:
            self._failed_checks += 1
            self.last_error = self._last_failure = check.transient_error
        elif check.project is not None:
            status = str(check.project["status"])
            if status != self.pending[project_id] and self._total <= MAX_NAMED:
                self.log.info(
                    "Project %s: %s%s%s", project_id, status[:100], _age(check.project), _next(check)
                )
            self.pending[project_id] = status
            self.last_error = None
            self._warn_if_unknown(project_id, status)

    def _finish(self, project_id: str, outcome: str, project: Mapping[str, Any] | None = None) -> None:
        del self.pending[project_id]
        self.outcomes[project_id] = outcome
        if self._total <= MAX_NAMED:
            self.log.info("Project %s: %s%s", project_id, outcome, _age_and_charge(project or {}))

    def _warn_if_unknown(self, project_id: str, status: str) -> None:
        from airflow_provider_magichour._client.api import STATUSES

        if status not in STATUSES and status not in self._unknown:
            self._unknown.add(status[:100])
            self.log.warning(
                "Project %s has the status %r, which this version does not know: waiting on",
                project_id,
                status[:100],
            )

    def say(self) -> None:
        """Log how far the wait is and what failed, at most every half minute each."""
        now = time.monotonic()
        if self._failed_checks and now - self._failures_logged_at >= LOG_INTERVAL:
            self.log.warning(
                "%d failed look(s), waiting on all the same; the last: %s",
                self._failed_checks,
                self._last_failure,
            )
            self._failed_checks, self._failures_logged_at = 0, now
        done = len(self.outcomes)
        if (
            self._total > 1
            and now - self._progress_logged_at >= LOG_INTERVAL
            and (done != self.logged_done or self._progress_logged_at < 0)
        ):
            self.log.info("%d of %d projects finished", done, self._total)
            self.logged_done, self._progress_logged_at = done, now

    def timeout(self, deadline: float) -> MagicHourTimeoutError:
        """Return the error of a wait that reached its deadline."""
        return timeout_error(self.pending, self._total, deadline, self.last_error)


def _age(project: Mapping[str, Any]) -> str:
    created = created_at(project)
    return "" if created is None else f", {max(time.time() - created, 0):.0f} s after it was made"


def _next(check: StatusCheck) -> str:
    return "" if check.next_in is None else f", next look in {check.next_in:.0f} s"


def _age_and_charge(project: Mapping[str, Any]) -> str:
    charged = project.get("credits_charged")
    return _age(project) + (f", {charged:g} credits" if isinstance(charged, int | float) else "")


def timeout_error(
    pending: Mapping[str, str | None], total: int, deadline: float, last_error: MagicHourError | None = None
) -> MagicHourTimeoutError:
    """
    Build the error of a wait that reached its deadline.

    :param pending: the projects that are not finished, with the status last seen, None for none.
    :param total: how many projects were waited for.
    :param deadline: in unix seconds.
    :param last_blip: what went wrong with the last look, if it did.
    """
    named = [f"{project_id} ({status or 'not seen'})" for project_id, status in pending.items()][:MAX_NAMED]
    more = f" and {len(pending) - len(named)} more" if len(pending) > len(named) else ""
    if total == 1:
        what = f"Project {named[0] if named else '?'} was not finished"
    else:
        what = f"{len(pending)} of {total} projects were not finished: {', '.join(named)}{more}"
    when = datetime.fromtimestamp(deadline, UTC).isoformat(timespec="seconds")
    trouble = f"; the last look failed: {last_error}" if last_error is not None else ""
    return MagicHourTimeoutError(
        f"{what} by the deadline, {when}{trouble}. Magic Hour goes on with it: "
        "clear the task to wait again, and raise its timeout if it needs longer",
        next(iter(pending)) if len(pending) == 1 else None,
    )


async def wait_for_outcomes(
    wait: WaitRequest,
    name: str,
    read_settings: ReadSettings,
    *,
    missing_ok: bool = False,
    logger: Any = None,
    projects: dict[str, Mapping[str, Any]] | None = None,
) -> dict[str, str]:
    """
    Wait until all projects are finished, however they end.

    :param wait: what is waited for, and until when.
    :param name: the connection id; waits of one name in one event loop share a poller.
    :param read_settings: reads the connection.
    :param missing_ok: whether a project that Magic Hour does not know (404) is the outcome ``missing``
        instead of an error that ends the wait.
    :param logger: what the progress is logged to.
    :param projects: filled with the finished projects, if given.
    :return: how each project ended: ``complete``, ``error``, ``canceled``, ``deleted`` or ``missing``.
    :raises MagicHourApiError: 401, 403 and 404.
    :raises MagicHourTimeoutError: at the deadline.
    """
    progress = WaitProgress(wait, missing_ok, logger or logging.getLogger(__name__))
    if wait.deadline <= time.time():
        raise progress.timeout(wait.deadline)
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(wait.deadline - time.time()):
                poller = await _join(stack, name, read_settings, progress)
        except TimeoutError:
            raise progress.timeout(wait.deadline) from None
        await stack.enter_async_context(poller.polling(wait))
        while progress.pending:
            left = wait.deadline - time.time()
            if left <= 0:
                raise progress.timeout(wait.deadline)
            for project_id, check in await wait.news(min(left, LOG_INTERVAL)):
                progress.take(project_id, check, projects is not None)
            progress.say()
    if projects is not None:
        projects.update(progress.projects)
    return {project_id: progress.outcomes[project_id] for project_id in wait.ids}


async def _join(
    stack: AsyncExitStack, name: str, read_settings: ReadSettings, progress: WaitProgress
) -> Poller:
    """Join the poller of a connection; a secrets backend that is away for a moment fails no wait."""
    for pause in JOIN_PAUSES:
        try:
            return await stack.enter_async_context(Poller.shared(name, read_settings))
        except CANNOT_READ as error:
            progress.last_error = error
            progress.log.warning("%s; trying again in %.0f s", error, pause)
        await asyncio.sleep(pause)
    return await stack.enter_async_context(Poller.shared(name, read_settings))


def wait_for_finished(
    kind: str,
    project_ids: Iterable[str],
    name: str,
    read_settings: ReadSettings,
    deadline: float,
    *,
    poll_interval: float | None = None,
    typical_seconds: float | None = None,
    submitted_at: float | None = None,
    missing_ok: bool = False,
    logger: Any = None,
) -> tuple[dict[str, str], dict[str, Mapping[str, Any]]]:
    """
    Wait on this thread until all projects are finished, however they end; see :func:`wait_for_outcomes`.

    :return: how each project ended, and the finished projects by id.
    """
    from airflow_provider_magichour._client.transport import run_async

    projects: dict[str, Mapping[str, Any]] = {}

    async def wait() -> dict[str, str]:
        what = WaitRequest(
            kind,
            project_ids,
            deadline,
            poll_interval,
            typical_seconds=typical_seconds,
            submitted_at=submitted_at,
        )
        return await wait_for_outcomes(
            what, name, read_settings, missing_ok=missing_ok, logger=logger, projects=projects
        )

    return run_async(wait), projects


class CheckRound(NamedTuple):
    """
    What a look at each project found.

    :param outcomes: how the finished projects ended.
    :param projects: the finished projects.
    :param pending: the others, with their status, None where the look failed.
    :param last_blip: what went wrong with the last look, if it did.
    :param delay: seconds until the next look at the others.
    """

    outcomes: dict[str, str]
    projects: dict[str, Mapping[str, Any]]
    pending: dict[str, str | None]
    last_error: MagicHourError | None
    delay: float

    def timeout(self) -> MagicHourTimeoutError:
        """Return the error of a wait whose deadline is now."""
        return timeout_error(
            self.pending, len(self.pending) + len(self.outcomes), time.time(), self.last_error
        )


def check_once(wait: WaitRequest, settings: Settings, logger: Any = None) -> CheckRound:
    """
    Look once at each project, on this thread; what a sensor's poke does.

    :param wait: what is waited for, and until when.
    :param settings: how to reach Magic Hour.
    :param logger: what is logged to.
    :raises MagicHourApiError: 401, 403 and 404.
    """
    from airflow_provider_magichour._client.transport import run_async

    checks = run_async(lambda: check_all(settings, wait.kind, wait.ids))
    progress = WaitProgress(wait, missing_ok=False, logger=logger or logging.getLogger(__name__))
    for project_id, check in checks.items():
        progress.take(project_id, check, keep_projects=True)
    progress.say()
    delay = min((delay_after(wait, one, checks[one]) for one in progress.pending), default=0.0)
    return CheckRound(progress.outcomes, progress.projects, progress.pending, progress.last_error, delay)

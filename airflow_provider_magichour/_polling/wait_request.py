"""The wait of one task, and one of its projects."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from airflow_provider_magichour._client import stats
from airflow_provider_magichour._polling.durations import LEARNED
from airflow_provider_magichour._polling.schedule import (
    OLDEST,
    backoff,
    before_deadline,
    created_at,
    next_delay,
)
from airflow_provider_magichour._polling.status import StatusCheck, status_request
from airflow_provider_magichour.exceptions import MagicHourError
from airflow_provider_magichour.tools import TOOLS, tool_of, typical_seconds_of

#: A project whose first check is within this many seconds of its submit was polled from its start.
FROM_START = 60.0
#: Within this many seconds, a wait on a worker notices that its task was killed.
KILL_CHECK_SECONDS = 0.5


class WaitRequest:
    """
    The wait of one task for one or many projects. :meth:`changes` returns the results.

    :param kind: the kind of all its projects, or :data:`~.status.FACE_DETECTION`.
    :param deadline: when to stop waiting, in unix seconds.
    :param poll_interval: seconds between status checks, adaptive if None.
    :param tool: the tool that made the projects, if it is known.
    :param typical_seconds: the median duration of the projects; the tool's if None.
    :param submitted_at: when they were created, in unix seconds, if that was just now. The first check then
        waits.
    :param is_killed: returns whether the task on the worker was killed, which ends the wait.
    """

    def __init__(
        self,
        kind: str,
        project_ids: Iterable[str],
        deadline: float,
        poll_interval: float | None = None,
        *,
        tool: str | None = None,
        typical_seconds: float | None = None,
        submitted_at: float | None = None,
        is_killed: Callable[[], bool] | None = None,
    ) -> None:
        known = TOOLS.get(tool or "")
        self.kind = kind
        self.ids = list(dict.fromkeys(project_ids))
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.project_type = known.project_type if known else None
        self.typical_seconds = known.typical_seconds if known and typical_seconds is None else typical_seconds
        self.submitted_at = submitted_at
        #: By how many seconds status checks were late since the last log line, and what limits them.
        self.late: tuple[float, str] = (0.0, "")
        self._found: list[tuple[str, StatusCheck]] = []
        self._arrived = asyncio.Event()
        self._is_killed = is_killed

    def notify(self, project_id: str, check: StatusCheck) -> None:
        """Add a status check to the changes."""
        self._found.append((project_id, check))
        self._arrived.set()

    async def changes(self, seconds: float) -> list[tuple[str, StatusCheck]]:
        """
        Return the results since the last call. Wait for a result for this long at most.

        :raises MagicHourError: if the task was killed.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not self._found and (left := until - loop.time()) > 0:
            if self._is_killed is not None:
                if self._is_killed():
                    raise MagicHourError(
                        "The task was killed while it waited. Its projects continue at Magic Hour: clear the "
                        "task to wait for them again"
                    )
                left = min(left, KILL_CHECK_SECONDS)
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._arrived.wait()
        found, self._found = self._found, []
        return found


class PolledProject:
    """One project whose status is checked, for one wait or several."""

    __slots__ = (
        "created",
        "due",
        "failures",
        "kind",
        "last_notified_status",
        "not_found_since",
        "project_id",
        "project_type",
        "request",
        "seen",
        "typical_seconds",
        "unfinished_age",
        "waits",
    )

    def __init__(self, wait: WaitRequest, project_id: str, now: float) -> None:
        self.kind = wait.kind
        self.project_id = project_id
        self.request = status_request(wait.kind, project_id)
        self.created = now if wait.submitted_at is None else min(wait.submitted_at, now)
        self.project_type = wait.project_type
        self.typical_seconds = wait.typical_seconds
        self.waits: tuple[WaitRequest, ...] = (wait,)
        #: When to check next, on the loop's clock; None while a check is in progress.
        self.due: float | None = None
        #: How many checks in a row failed.
        self.failures = 0
        #: Since when a 404 has been the only response, in unix seconds.
        self.not_found_since: float | None = None
        #: Whether a response contained the project, and so its age and type.
        self.seen = False
        #: Its age at the last check that found it unfinished; None if there was none.
        self.unfinished_age: float | None = None
        if wait.submitted_at is not None and now - wait.submitted_at < FROM_START:
            self.unfinished_age = 0.0
        #: The last status that the waits were notified of; None to notify them of the next one.
        self.last_notified_status: str | None = None

    def update(self, check: StatusCheck, project: Mapping[str, Any], now: float) -> None:
        """Read the age and the type from the project, and record the duration if it is finished."""
        self.failures = 0
        self.not_found_since = None
        if not self.seen:
            self.seen = True
            created = created_at(project)
            if created is not None and now - OLDEST <= created <= now:
                self.created = created
            self.project_type = project.get("type") or self.project_type
            if self.typical_seconds is None:
                self.typical_seconds = typical_seconds_of(tool_of(self.kind, self.project_type))
        age = now - self.created
        if check.outcome is None:
            self.unfinished_age = age
        elif check.outcome == "complete" and self.unfinished_age is not None and self.project_type:
            LEARNED.add(self.kind, self.project_type, min(self.unfinished_age, age), age)
            seconds, tool = (min(self.unfinished_age, age) + age) / 2, tool_of(self.kind, self.project_type)
            stats.timing("render_seconds", seconds, kind=self.kind, tool=tool)

    def delay(self, check: StatusCheck, now: float) -> float:
        """Return the seconds until the next check, for the wait that needs it first."""
        typical = LEARNED.median(self.kind, self.project_type) or self.typical_seconds
        return min(self._delay_for(wait, check, typical, now) for wait in self.waits)

    def _delay_for(self, wait: WaitRequest, check: StatusCheck, typical: float | None, now: float) -> float:
        left = wait.deadline - now
        if left <= 0:  # the last check at the deadline is not repeated
            left = math.inf
        delay = next_delay(
            self.kind,
            typical,
            now - self.created,
            left,
            random.random(),
            poll_interval=wait.poll_interval,
        )
        if check.transient_error is None or self.not_found_since is not None:
            return delay
        return before_deadline(backoff(delay, self.failures, check.retry_after), left)

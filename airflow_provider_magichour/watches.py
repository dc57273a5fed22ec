"""What is waited for: one task's wait, and the watch on a project that several waits share."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_magichour import api
from airflow_provider_magichour.looks import Look
from airflow_provider_magichour.schedule import OLDEST, backoff, before_deadline, created_at, next_delay
from airflow_provider_magichour.tools import usual_seconds


class Wait:
    """
    One task's wait for one or many projects; what was found comes out of :meth:`news`.

    :param kind: the kind of all its projects.
    :param project_ids: the projects.
    :param deadline: when to stop looking, in unix seconds.
    :param poll_interval: seconds between looks, adaptive if None.
    :param usual: the median duration of the projects, where the tool is known.
    :param submitted_at: when they were made, in unix seconds, where that was just now: no look at once.
    """

    __slots__ = ("_arrived", "_found", "deadline", "ids", "kind", "poll_interval", "submitted_at", "usual")

    def __init__(
        self,
        kind: str,
        project_ids: Iterable[str],
        deadline: float,
        poll_interval: float | None = None,
        *,
        usual: float | None = None,
        submitted_at: float | None = None,
    ) -> None:
        self.kind = kind
        self.ids = list(dict.fromkeys(project_ids))
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.usual = usual
        self.submitted_at = submitted_at
        self._found: list[tuple[str, Look]] = []
        self._arrived = asyncio.Event()

    def tell(self, project_id: str, look: Look) -> None:
        """Put a look among the news."""
        self._found.append((project_id, look))
        self._arrived.set()

    async def news(self, seconds: float) -> list[tuple[str, Look]]:
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


class Watch:
    """One project that is looked at, for one wait or several."""

    __slots__ = (
        "created",
        "due",
        "failures",
        "kind",
        "project_id",
        "refused",
        "request",
        "seen",
        "told",
        "usual",
        "waits",
    )

    def __init__(self, kind: str, project_id: str, created: float, usual: float | None) -> None:
        self.kind = kind
        self.project_id = project_id
        self.request = api.get_project(kind, project_id)
        self.created = created
        self.usual = usual
        self.waits: tuple[Wait, ...] = ()
        #: When to look next, on the loop's clock; None while a look is under way.
        self.due: float | None = None
        self.failures = 0
        #: Whether the last answer was a 401.
        self.refused = False
        #: Whether the project itself was seen, which tells its age and type.
        self.seen = False
        #: The status that the waits were told last; None to tell them whatever the next look finds.
        self.told: str | None = None

    def learn(self, project: Mapping[str, Any], now: float) -> None:
        """Take the age and the usual duration from the project itself."""
        self.failures = 0
        self.refused = False
        if self.seen:
            return
        self.seen = True
        created = created_at(project)
        if created is not None and now - OLDEST <= created <= now:
            self.created = created
        if self.usual is None:
            self.usual = usual_seconds(self.kind, project.get("type"))

    def delay(self, look: Look, now: float) -> float:
        """Return the seconds until the next look: the soonest that one of the waits wants."""
        return min(self._delay_for(wait, look, now) for wait in self.waits)

    def _delay_for(self, wait: Wait, look: Look, now: float) -> float:
        left = wait.deadline - now
        delay = next_delay(
            self.kind, self.usual, now - self.created, left, random.random(), poll_interval=wait.poll_interval
        )
        if look.blip is None:
            return delay
        return before_deadline(backoff(delay, self.failures, look.retry_after), left)


def delay_after(wait: Wait, project_id: str, look: Look) -> float:
    """Return the seconds until the next look at a project that one look found unfinished."""
    now = time.time()
    watch = Watch(wait.kind, project_id, now, wait.usual)
    watch.waits = (wait,)
    if look.project is not None:
        watch.learn(look.project, now)
    elif look.blip is not None:
        watch.failures = 1
    return watch.delay(look, now)

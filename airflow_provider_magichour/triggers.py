"""What waits without a worker."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_magichour import exceptions
from airflow_provider_magichour.arguments import check_seconds, check_some_ids
from airflow_provider_magichour.connections import get_settings_async
from airflow_provider_magichour.exceptions import MagicHourError
from airflow_provider_magichour.tools import check_kind
from airflow_provider_magichour.waiting import OUTCOMES, wait_for_outcomes
from airflow_provider_magichour.watches import Wait

#: No event comes sooner after the trigger's start. Up to 3.3 at least, Airflow fails a task that is resumed
#: before the scheduler has noticed that its worker went away (apache/airflow#72716).
SETTLING_SECONDS = 3.0


class MagicHourProjectTrigger(BaseTrigger):
    """
    Wait for one or many projects of one kind; fire one event when all are finished.

    All triggers of a triggerer that wait on the same connection share one poller. The event is small:
    ``{"kind", "outcomes": {project id: "complete", "error", "canceled", "deleted" or "missing"}}``, or
    ``{"kind", "project_ids", "error": {"class", "args"}}``; :func:`read_event` reads it.

    :param kind: ``image``, ``video`` or ``audio``.
    :param project_ids: the projects.
    :param magichour_conn_id: the connection; its key is read when the trigger runs, and stored nowhere.
    :param deadline: when to stop waiting, in unix seconds; it survives a restart of the triggerer.
    :param poll_interval: seconds between looks; adaptive if None.
    :param usual_seconds: the median duration of such projects, where the tool is known.
    :param submitted_at: when the projects were made, in unix seconds, where that was just now.
    :param missing_ok: whether a project that Magic Hour does not know (404) is the outcome ``missing``
        instead of an error that ends the wait.
    """

    def __init__(
        self,
        kind: str,
        project_ids: list[str],
        magichour_conn_id: str,
        deadline: float,
        poll_interval: float | None = None,
        *,
        usual_seconds: float | None = None,
        submitted_at: float | None = None,
        missing_ok: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's triggers are not typed
        self.kind = check_kind(kind)
        self.project_ids = check_some_ids(project_ids, "project_ids")
        self.magichour_conn_id = magichour_conn_id
        self.deadline = check_seconds(deadline, "deadline")
        self.poll_interval = None if poll_interval is None else check_seconds(poll_interval, "poll_interval")
        self.usual_seconds = usual_seconds
        self.submitted_at = submitted_at
        self.missing_ok = missing_ok

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes this trigger again, in another process; no secret is part of it."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "kind": self.kind,
                "project_ids": self.project_ids,
                "magichour_conn_id": self.magichour_conn_id,
                "deadline": self.deadline,
                "poll_interval": self.poll_interval,
                "usual_seconds": self.usual_seconds,
                "submitted_at": self.submitted_at,
                "missing_ok": self.missing_ok,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then fire the one event; a poller that others do not need is closed before that."""
        event: dict[str, Any] = {"kind": self.kind}
        started = asyncio.get_running_loop().time()
        try:
            event["outcomes"] = await wait_for_outcomes(
                Wait(
                    self.kind,
                    self.project_ids,
                    self.deadline,
                    self.poll_interval,
                    usual=self.usual_seconds,
                    submitted_at=self.submitted_at,
                ),
                self.magichour_conn_id,
                functools.partial(get_settings_async, self.magichour_conn_id),
                missing_ok=self.missing_ok,
                logger=self.log,
            )
        except MagicHourError as error:
            event["project_ids"] = self.project_ids
            event["error"] = carry_error(error)
        if self.task_instance is not None:  # in a triggerer, with a scheduler beside it
            await asyncio.sleep(started + SETTLING_SECONDS - asyncio.get_running_loop().time())
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]


class MagicHourGenerateTrigger(MagicHourProjectTrigger):
    """
    Wait as :class:`MagicHourProjectTrigger` does, and delete the projects when a person kills the task.

    That is when the deferred task is cleared or marked, on Airflow 3.3 and newer; never when a triggerer
    restarts.
    """

    async def on_kill(self) -> None:
        """Delete the projects, within 10 seconds, as far as that goes."""
        from airflow_provider_magichour.killing import delete_killed

        settings = await get_settings_async(self.magichour_conn_id)
        await delete_killed(settings, self.kind, self.project_ids, self.log)


def read_event(event: object, kind: str, project_ids: Iterable[str]) -> dict[str, str]:
    """
    Return how each project ended, from the trigger's event.

    :param event: what the task was resumed with.
    :param kind: the kind that the task waits for.
    :param project_ids: the projects that the task waits for.
    :raises MagicHourError: if the event is not about exactly these projects; else the error it carries, of
        the same class and with the same words as from a wait without a trigger.
    """
    expected = list(dict.fromkeys(project_ids))
    if not isinstance(event, Mapping) or event.get("kind") != kind:
        raise _foreign(event, kind)
    if "error" in event:
        named = event.get("project_ids")
        if not isinstance(named, list) or set(map(str, named)) != set(expected):
            raise _foreign(event, kind)
        raise carried_error(event["error"])
    outcomes = event.get("outcomes")
    if (
        not isinstance(outcomes, Mapping)
        or set(outcomes) != set(expected)
        or not all(isinstance(outcome, str) and outcome in OUTCOMES for outcome in outcomes.values())
    ):
        raise _foreign(event, kind)
    return {project_id: outcomes[project_id] for project_id in expected}


def carry_error(error: MagicHourError) -> dict[str, Any]:
    """Return an error as data that Airflow can store."""
    return {"class": type(error).__name__, "args": list(error.args)}


def carried_error(carried: object) -> MagicHourError:
    """Return the error that :func:`carry_error` made data of."""
    name, args = (carried.get("class"), carried.get("args")) if isinstance(carried, Mapping) else (None, None)
    if isinstance(name, str) and name in exceptions.__all__ and isinstance(args, list):
        try:
            error = getattr(exceptions, name)(*args)
        except TypeError:
            error = None
        if isinstance(error, MagicHourError):
            return error
    return MagicHourError(f"The trigger ended with an error that cannot be read: {str(carried)[:500]}")


def _foreign(event: object, kind: str) -> MagicHourError:
    return MagicHourError(
        f"The task was resumed with an event that is not about its {kind} projects, and is not trusted: "
        f"{str(event)[:300]}; clear the task to wait again"
    )

"""The trigger that waits without a worker, and its event."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_magichour import exceptions
from airflow_provider_magichour._client import api
from airflow_provider_magichour._polling.wait import OUTCOMES, wait_for_outcomes
from airflow_provider_magichour._polling.wait_request import WaitRequest
from airflow_provider_magichour._validation import check_seconds
from airflow_provider_magichour._validation.projects import check_ids
from airflow_provider_magichour.exceptions import MagicHourArgumentError, MagicHourError
from airflow_provider_magichour.hooks.connection import get_settings_async
from airflow_provider_magichour.tools import check_kind

if TYPE_CHECKING:
    from airflow_provider_magichour._client.settings import Settings

__all__ = ["MagicHourGenerateTrigger", "MagicHourProjectTrigger"]

#: A trigger sends its event this many seconds after its start at the earliest. At least up to 3.3, Airflow
#: fails a task that resumes before the scheduler has noticed that its worker finished (apache/airflow#72716).
#: That took up to 8 s in bursts of 30 tasks on two cores; ``python -m benchmarks.waiting.bursts`` measures
#: it.
MIN_EVENT_SECONDS = 20.0

#: The states of a task that has ended, and does not run again by itself.
ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


class MagicHourProjectTrigger(BaseTrigger):
    """
    Wait for one or many projects of one kind, and send one event when all are finished.

    All triggers of a triggerer that wait on the same connection share one poller. The event is small:
    ``{"kind", "outcomes": {project id: "complete", "error", "canceled", "deleted" or "missing"}}``, or
    ``{"kind", "project_ids", "error": {"class", "args"}}``; :func:`read_event` reads it.

    :param kind: ``image``, ``video`` or ``audio``.
    :param project_ids: the projects.
    :param magichour_conn_id: the connection; its key is read when the trigger runs, and is not stored.
    :param deadline: when to stop waiting, in unix seconds; a restart of the triggerer does not change it.
    :param poll_interval: seconds between status checks. If None, the interval depends on the tool and the age
        of the project.
    :param tool: the tool of the projects, if it is known.
    :param usual_seconds: the median duration of such projects, as 0.1.0 stored it; the tool's if None.
    :param submitted_at: when the projects were created, in unix seconds, if the task has just created them.
    :param missing_ok: whether a project that Magic Hour does not know (404) has the outcome ``missing``
        instead of ending the wait with an error.
    """

    def __init__(
        self,
        kind: str,
        project_ids: list[str],
        magichour_conn_id: str,
        deadline: float,
        poll_interval: float | None = None,
        *,
        tool: str | None = None,
        usual_seconds: float | None = None,
        submitted_at: float | None = None,
        missing_ok: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's triggers are not typed
        self.kind = check_kind(kind)
        self.project_ids = check_ids(project_ids, "project_ids")
        if not self.project_ids:
            raise MagicHourArgumentError("project_ids is an empty list: there is nothing to wait for")
        self.magichour_conn_id = magichour_conn_id
        self.deadline = check_seconds(deadline, "deadline")
        self.poll_interval = None if poll_interval is None else check_seconds(poll_interval, "poll_interval")
        self.tool = tool
        self.typical_seconds = usual_seconds
        self.submitted_at = submitted_at
        self.missing_ok = missing_ok

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments of this trigger; they contain no secret."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "kind": self.kind,
                "project_ids": self.project_ids,
                "magichour_conn_id": self.magichour_conn_id,
                "deadline": self.deadline,
                "poll_interval": self.poll_interval,
                "tool": self.tool,
                "usual_seconds": self.typical_seconds,
                "submitted_at": self.submitted_at,
                "missing_ok": self.missing_ok,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, close the poller if no other wait uses it, and send the event."""
        event: dict[str, Any] = {"kind": self.kind}
        started = asyncio.get_running_loop().time()
        try:
            event["outcomes"] = await wait_for_outcomes(
                WaitRequest(
                    self.kind,
                    self.project_ids,
                    self.deadline,
                    self.poll_interval,
                    tool=self.tool,
                    typical_seconds=self.typical_seconds,
                    submitted_at=self.submitted_at,
                ),
                self.magichour_conn_id,
                get_settings_async,
                missing_ok=self.missing_ok,
                logger=self.log,
            )
        except MagicHourError as error:
            event["project_ids"] = self.project_ids
            event["error"] = carry_error(error)
        if self.task_instance is not None:  # in a triggerer, with a scheduler in another process
            await asyncio.sleep(started + MIN_EVENT_SECONDS - asyncio.get_running_loop().time())
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]


class MagicHourGenerateTrigger(MagicHourProjectTrigger):
    """
    Wait like :class:`MagicHourProjectTrigger`, and delete the projects if a person kills the task.

    A person kills a deferred task by marking it, on Airflow 3.3 and newer. It is also killed by
    ``dagrun_timeout`` and ``fail_fast``. A restart of a triggerer deletes nothing, nor does a Clear, because
    the next try continues with the projects.
    """

    async def on_kill(self) -> None:
        """
        Delete the projects that are not finished, as many as possible within 10 seconds.

        Airflow also calls this in a triggerer that was too slow, after another triggerer has started the wait
        again (apache/airflow#73454), and after a Clear, when the next try may run already. The task has not
        ended then, and nothing is deleted.
        """
        try:
            state = await asyncio.to_thread(self._task_state)
            settings = await get_settings_async(self.magichour_conn_id)
        except Exception as error:  # noqa: BLE001 - Airflow raises whatever its API does
            kept = ", ".join(self.project_ids)
            self.log.warning("The task's state or connection is not known (%s); not deleted: %s", error, kept)
            return
        if state not in ENDED:
            self.log.info("This wait was stopped, but the task has not ended: nothing is deleted.")
            return
        await delete_killed(settings, self.kind, self.project_ids, self.log)

    def _task_state(self) -> str | None:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        ti: Any = self.task_instance
        states = RuntimeTaskInstance.get_task_states(
            dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
        )
        name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}_{ti.map_index}"
        found: str | None = states.get(ti.run_id, {}).get(name)
        return found


def read_event(event: object, kind: str, project_ids: Iterable[str]) -> dict[str, str]:
    """
    Return how each project ended, from the trigger's event.

    :param event: the event that the task was resumed with.
    :param kind: the kind that the task waits for.
    :param project_ids: the projects that the task waits for.
    :raises MagicHourError: if the event is not about exactly these projects; otherwise the event's error,
        with the same class and message as from a wait without a trigger.
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


def named_ids(event: object) -> list[str]:
    """Return the projects that an event names, in the order of the trigger's arguments."""
    if not isinstance(event, Mapping):
        return []
    named = event.get("project_ids") if "error" in event else event.get("outcomes")
    return [str(one) for one in named] if isinstance(named, list | Mapping) else []


def carry_error(error: MagicHourError) -> dict[str, Any]:
    """Return an error as data that Airflow can store."""
    return {"class": type(error).__name__, "args": list(error.args)}


def carried_error(carried: object) -> MagicHourError:
    """Return the error from the data of :func:`carry_error`."""
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


#: The longest time that the deletions may delay a kill, in seconds.
MAX_SECONDS = 10.0


def warn_where_unseen(logger: Any) -> None:
    """Log a warning if Airflow is too old to notify a trigger that its task was killed."""
    from airflow import __version__
    from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

    if not AIRFLOW_V_3_3_PLUS:
        logger.warning(
            "delete_on_kill needs Airflow 3.3 or newer for a deferred task; this is %s, so a task that is "
            "killed while it is deferred leaves its projects at Magic Hour. With deferrable=False they are "
            "deleted.",
            __version__,
        )


async def delete_killed(
    settings: Settings,
    kind: str,
    project_ids: Sequence[str],
    logger: Any,
    *,
    before_delete: Callable[[str], None] | None = None,
) -> None:
    """
    Delete the projects that are not finished. Complete projects were paid for, and are kept.

    :param settings: how to reach Magic Hour.
    :param kind: the kind of the projects.
    :param project_ids: the projects.
    :param logger: logs what was deleted, and what was not. Nothing is raised.
    :param before_delete: called with each project, before its last status check. An error keeps the project.
    """
    from airflow_provider_magichour._client.transport import AsyncSender

    hasty = dataclasses.replace(settings, timeout=min(settings.timeout, MAX_SECONDS / 2), max_attempts=2)

    async def delete(sender: AsyncSender, project_id: str) -> None:
        try:
            project = await sender.send(api.get_project(kind, project_id))
            if before_delete is not None and not api.is_finished(project):
                await asyncio.to_thread(before_delete, project_id)
                project = await sender.send(api.get_project(kind, project_id))
            if api.is_finished(project):
                logger.info("The task was killed: project %s is finished already.", project_id)
            else:
                await sender.send(api.delete_project(kind, project_id))
                logger.info("The task was killed: project %s is deleted.", project_id)
        except MagicHourError as error:
            logger.warning("The task was killed, but project %s was not deleted: %s", project_id, error)
        left.discard(project_id)

    left = set(project_ids)
    try:
        async with asyncio.timeout(MAX_SECONDS), AsyncSender(hasty) as sender:
            await asyncio.gather(*(delete(sender, project_id) for project_id in project_ids))
    except TimeoutError:
        logger.warning("The task was killed, but not deleted in time: %s", ", ".join(sorted(left)))

"""Wait for Magic Hour projects: in a trigger, rescheduled, or on the worker."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._validation import (
    MISSING_XCOM_HINT,
    check_delay,
    check_projects_at_parse,
    check_seconds,
    is_settled,
    optional,
    read_projects,
)
from airflow_provider_magichour.exceptions import (
    MagicHourArgumentError,
    MagicHourError,
)
from airflow_provider_magichour.links import push_links, task_links

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour._polling.wait import WaitResult
    from airflow_provider_magichour._polling.wait_request import WaitRequest
    from airflow_provider_magichour._validation import ProjectIds
    from airflow_provider_magichour.hooks import MagicHourHook
    from airflow_provider_magichour.types import KindName, ProjectRef, Templated

__all__ = ["MagicHourProjectSensor"]

#: Seconds between two starts of a rescheduled sensor, at least, where the user gives no interval.
RESCHEDULE_INTERVAL = 60.0
#: What Airflow's sensors take and this one has no use for, with the reason.
_NOT_TAKEN = {
    "exponential_backoff": "the interval grows with the project's age anyway",
    "max_wait": "the interval has an upper end anyway: set poll_interval for a fixed one",
    "silent_fail": "status checks that fail are repeated until timeout anyway",
}


class MagicHourProjectSensor(BaseSensorOperator):
    """
    Wait until a project, or all projects of a list, are finished.

    All modes check the status as often, and raise the same errors with the same words: a wrong key (401),
    plan (403) or id (404, for a minute) ends the wait; after any other failed check it goes on until
    ``timeout``. That, or ``execution_timeout`` where it is shorter, counts from the start of the task's try;
    in reschedule mode, as in Airflow, ``timeout`` counts from the first try, and ``execution_timeout`` for
    each poke.

    :param project_id: the project, or a list of them, 10,000 at most for good measure: an id, or what a task
        returned that names one (create, generate, another sensor, ``triggering_projects``). (templated)
    :param kind: ``image``, ``video`` or ``audio``; may be left out where ``project_id`` tells it. (templated)
    :param magichour_conn_id: the connection. (templated)
    :param poll_interval: seconds between status checks, one at least. Else an explicit ``poke_interval``
        is; else the interval fits the kind and grows with the project's age, and a rescheduled sensor is
        started once a minute at most. (templated)
    :param deferrable: whether a trigger waits, which holds no worker.
    :param defer_after: seconds to wait on the worker before the task defers; 0 defers at once. If None,
        projects that are likely to finish sooner than a deferral takes are waited for. (templated)
    :param fail_on_error: whether a failed, canceled or deleted project fails the task, once all projects
        of a list are finished. If False, the returned project says so.
    :param return_projects: whether to return whole projects with their ``kind``, or ``{"id", "kind",
        "status"}`` each, for long lists.
    :return: the project; for a list, the list in the same order.
    :raises MagicHourProjectFailedError: if a project failed.
    :raises MagicHourProjectCanceledError: if a person canceled one.
    :raises MagicHourNotFoundError: if there is no such project of this kind, or it was deleted.
    :raises MagicHourSensorTimeoutError: if a project was not finished in time.
    """

    template_fields: Sequence[str] = (  # pyright: ignore[reportIncompatibleVariableOverride]
        "project_id",
        "kind",
        "magichour_conn_id",
        "poll_interval",
        "defer_after",
    )
    operator_extra_links = task_links()
    ui_color = "#efe6ff"

    def __init__(
        self,
        *,
        project_id: Templated[ProjectRef | Sequence[ProjectRef]],
        kind: Templated[KindName | None] = None,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        poll_interval: Templated[timedelta | float | str | None] = None,
        poke_interval: timedelta | float | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        defer_after: Templated[timedelta | float | str | None] = None,
        fail_on_error: bool = True,
        return_projects: bool = True,
        **kwargs: Any,
    ) -> None:
        for name, reason in _NOT_TAKEN.items():
            if kwargs.get(name):
                raise MagicHourArgumentError(f"{name} is not supported: {reason}; leave it out")
        if poke_interval is not None:
            kwargs["poke_interval"] = poke_interval
        super().__init__(**kwargs)
        self.project_id: Any = project_id
        self.kind: Any = kind
        self.magichour_conn_id = magichour_conn_id
        self.poll_interval: Any = poll_interval
        self.deferrable = deferrable
        self.defer_after: Any = defer_after
        self.fail_on_error = fail_on_error
        self.return_projects = return_projects
        self._has_poke_interval = poke_interval is not None
        self._killed = False
        #: What the poke of this process found unfinished.
        self._found: WaitResult | None = None
        check_projects_at_parse(project_id, kind)
        if isinstance(project_id, list) and not project_id:
            raise _nothing_to_wait_for()
        if is_settled(poll_interval):
            self._interval()
        if is_settled(defer_after):
            optional(check_delay, defer_after, "defer_after")

    if TYPE_CHECKING:

        @property
        def output(self) -> Any:
            """What the task returns: stands for any value, as in Airflow's own plugin for mypy."""

    @property
    def hook(self) -> MagicHourHook:
        """Return the hook."""
        from airflow_provider_magichour.hooks import MagicHourHook

        return MagicHourHook(self.magichour_conn_id)

    # ------------------------------------------------------------------------------------ arguments

    def _projects(self) -> ProjectIds:
        found = read_projects(self.project_id, optional(lambda value, _: value, self.kind, "kind"))
        if not found.ids:
            raise _nothing_to_wait_for()
        return found

    def _interval(self) -> float | None:
        """Return the fixed interval that the user asked for, if any."""
        interval = optional(check_seconds, self.poll_interval, "poll_interval")
        return float(self.poke_interval) if interval is None and self._has_poke_interval else interval

    # ---------------------------------------------------------------------------------------- modes

    def execute(self, context: Context) -> Any:
        """Wait in the way that was asked for."""
        if self.reschedule and not self.deferrable:
            return self._execute_rescheduled(context)
        from airflow_provider_magichour._polling.sensor_errors import sensor_errors
        from airflow_provider_magichour.hooks.connection import get_settings

        with sensor_errors(self):
            wanted = self._projects()
            get_settings(self.magichour_conn_id)  # a mistyped connection fails here, not after a while
            push_links(context, wanted.kind, wanted.ids)
            if not self.deferrable:
                return self._wait_on_worker(wanted)
            patience = optional(check_delay, self.defer_after, "defer_after")
            found = self._wait(wanted.kind, wanted.ids, self._deadline(context), patience)
            if not found.pending:
                return self._result(wanted, found.outcomes, found.projects)
            return self._defer(context, wanted, list(dict.fromkeys(wanted.ids)), {})

    def _deadline(self, context: Mapping[str, Any]) -> float:
        from airflow_provider_magichour._polling import schedule

        return schedule.deadline(schedule.started_at(context), self.timeout, self.execution_timeout)

    def _request(self, kind: str, ids: Sequence[str], deadline: float) -> WaitRequest:
        from airflow_provider_magichour._polling.wait_request import WaitRequest

        return WaitRequest(kind, ids, deadline, self._interval(), is_killed=lambda: self._killed)

    def _wait(
        self, kind: str, ids: Sequence[str], deadline: float, seconds: float | None = 0.0
    ) -> WaitResult:
        """Check each project once, and wait for a limited time."""
        from airflow_provider_magichour._polling.wait import wait_on_worker
        from airflow_provider_magichour.hooks.connection import get_settings_async

        request = self._request(kind, ids, deadline)
        return wait_on_worker(request, self.magichour_conn_id, get_settings_async, seconds, logger=self.log)

    def _wait_on_worker(self, wanted: ProjectIds) -> Any:
        """Wait on the worker until all projects are finished."""
        from airflow_provider_magichour._polling import schedule
        from airflow_provider_magichour._polling.wait import wait_for_finished
        from airflow_provider_magichour.hooks.connection import get_settings_async

        deadline = schedule.worker_deadline(time.time(), self.timeout, self.execution_timeout)
        outcomes, projects = wait_for_finished(
            self._request(wanted.kind, wanted.ids, deadline),
            self.magichour_conn_id,
            get_settings_async,
            logger=self.log,
        )
        return self._result(wanted, outcomes, projects)

    def _execute_rescheduled(self, context: Context) -> Any:
        """Poke once; Airflow counts the time, and starts the task again."""
        from airflow_provider_magichour._polling.sensor_errors import sensor_errors

        try:
            return super().execute(context)
        except (AirflowSensorTimeout, AirflowSkipException) as error:
            if self._found is None:  # the poke itself raised this
                raise
            with sensor_errors(self):
                raise self._found.timeout() from error

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Check each project once; the projects are the value when all are finished."""
        from airflow_provider_magichour._polling.sensor_errors import sensor_errors

        self._found = None
        with sensor_errors(self):  # Airflow's own loop would skip without saying why
            wanted = self._projects()
            push_links(context, wanted.kind, wanted.ids)
            found = self._check_once(context, wanted)
            if not found.pending:
                return PokeReturnValue(True, self._result(wanted, found.outcomes, found.projects))
        self._found = found
        # Airflow starts the task again after poke_interval.
        least = RESCHEDULE_INTERVAL if self._interval() is None else 0.0
        self.poke_interval = max(found.next_in, least)
        return False

    def _check_once(self, context: Context, wanted: ProjectIds) -> WaitResult:
        """Check each project once; a connection that can't be read for a while fails the first poke only."""
        from airflow_provider_magichour._polling.airflow import is_first_poke
        from airflow_provider_magichour._polling.refreshing_sender import CANNOT_READ
        from airflow_provider_magichour._polling.wait import WaitResult
        from airflow_provider_magichour.hooks.connection import get_settings

        is_first = is_first_poke(context)
        if is_first:
            get_settings(self.magichour_conn_id)  # a mistyped connection fails here, not after a while
        try:
            return self._wait(wanted.kind, wanted.ids, time.time() + self.timeout)
        except CANNOT_READ as error:
            if is_first:
                raise
            self.log.warning("%s; trying again at the next poke", error)
            return WaitResult({}, {}, dict.fromkeys(wanted.ids), error, 0.0)

    # ------------------------------------------------------------------------------------- deferral

    def _defer(
        self, context: Context, wanted: ProjectIds, pending: list[str], outcomes: Mapping[str, str]
    ) -> None:
        """
        Defer until the first pending projects are finished, as many as one trigger can hold.

        :param pending: the projects that are not known to be finished.
        :param outcomes: how the others ended.
        """
        from airflow_provider_magichour._polling.deferral import log_deferral, split_ids
        from airflow_provider_magichour._polling.schedule import deferral_timeout
        from airflow_provider_magichour.triggers import MagicHourProjectTrigger

        until = self._deadline(context)
        log_deferral(self.log, until)
        self.defer(
            trigger=MagicHourProjectTrigger(
                wanted.kind, split_ids(pending)[0], self.magichour_conn_id, until, self._interval()
            ),
            method_name="execute_complete",
            kwargs={"pending": pending, "outcomes": dict(outcomes)},
            timeout=deferral_timeout(until),
        )

    def execute_complete(
        self,
        context: Context,
        event: Any = None,
        pending: Sequence[str] | None = None,
        outcomes: Mapping[str, str] | None = None,
    ) -> Any:
        """
        Return what the trigger waited for, raise what it found, or wait for the next projects.

        ``dag.test()``, and a task that version 0.1.0 deferred, hand over the event alone.

        :param event: the trigger's event.
        :param pending: the projects that were not known to be finished when the task deferred.
        :param outcomes: how the others ended.
        """
        from airflow_provider_magichour._polling.deferral import split_ids
        from airflow_provider_magichour._polling.sensor_errors import sensor_errors
        from airflow_provider_magichour.triggers import named_ids, read_event

        with sensor_errors(self):
            wanted = self._projects()
            if pending is None:
                named = named_ids(event)
                is_ours = named and set(named) <= set(wanted.ids)
                found = read_event(event, wanted.kind, named if is_ours else wanted.ids)
                left = [one for one in dict.fromkeys(wanted.ids) if one not in found]
                if left:
                    rest = self._wait(wanted.kind, left, self._deadline(context))
                    found, left = {**found, **rest.outcomes}, list(rest.pending)
            else:
                found = {**(outcomes or {}), **read_event(event, wanted.kind, split_ids(pending)[0])}
                left = [one for one in pending if one not in found]
            if left:
                return self._defer(context, wanted, left, found)
            return self._result(wanted, found, None)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Check once more where the deferral failed: no triggerer ended it in time, or its trigger broke."""
        from airflow_provider_magichour._polling.airflow import FAILED_DEFERRAL
        from airflow_provider_magichour._polling.sensor_errors import sensor_errors

        with sensor_errors(self):
            if next_method != FAILED_DEFERRAL:
                return getattr(self, next_method)(context, **(next_kwargs or {}))
            wanted = self._projects()
            found = self._wait(wanted.kind, wanted.ids, time.time())
            if not found.pending:
                return self._result(wanted, found.outcomes, found.projects)
            if self._deadline(context) <= time.time():
                raise found.timeout()
            try:
                return super().resume_execution(next_method, next_kwargs, context)
            except AirflowSkipException as error:
                cause = error.__cause__ or error
                raise AirflowSkipException(f"Skipping, because the deferral failed: {cause}") from cause

    # ---------------------------------------------------------------------------------------- ends

    def on_kill(self) -> None:
        """Stop waiting within a second."""
        self._killed = True

    def _result(
        self,
        wanted: ProjectIds,
        outcomes: Mapping[str, str],
        projects: Mapping[str, Mapping[str, Any]] | None,
    ) -> Any:
        """
        Return what the task returns.

        :param outcomes: how each project ended.
        :param projects: the finished projects, None where they have to be asked for.
        """
        ids = list(dict.fromkeys(wanted.ids))
        if projects is None:
            failed = [one for one in outcomes if outcomes[one] != "complete"] if self.fail_on_error else []
            again = self._wait(wanted.kind, ids if self.return_projects else failed, time.time())
            if again.pending:
                raise MagicHourError(
                    "The trigger's event says that these projects are finished, but Magic Hour says that "
                    f"they are not finished: {', '.join([*again.pending][:10])}; clear the task to wait again"
                )
            projects = again.projects
        if self.fail_on_error:
            from airflow_provider_magichour._client.api import raise_project_errors

            raise_project_errors(projects[one] for one in ids if one in projects)
        results: list[Any] = [
            {**projects[one], "kind": wanted.kind}
            if self.return_projects
            else {"id": one, "kind": wanted.kind, "status": outcomes[one]}
            for one in wanted.ids
        ]
        return results if wanted.is_list else results[0]


def _nothing_to_wait_for() -> MagicHourArgumentError:
    return MagicHourArgumentError(
        f"project_id is an empty list, so there is nothing to wait for; {MISSING_XCOM_HINT}"
    )

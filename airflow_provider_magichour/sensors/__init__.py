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
    argument_error,
    check_delay,
    check_seconds,
    is_settled,
    optional,
)
from airflow_provider_magichour._validation.at_parse import check_projects_at_parse
from airflow_provider_magichour.links import task_links

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour._polling.wait import WaitResult
    from airflow_provider_magichour.hooks import MagicHourHook
    from airflow_provider_magichour.types import KindName, ProjectRef, Templated

__all__ = ["MagicHourProjectSensor"]

#: Seconds between two starts of a rescheduled sensor, at least, if the user gives no interval.
RESCHEDULE_INTERVAL = 60.0
#: Arguments of Airflow's sensors that this one refuses, with the reason.
_NOT_TAKEN = {
    "exponential_backoff": "the interval grows with the project's age anyway",
    "max_wait": "the interval has an upper end anyway: set poll_interval for a fixed one",
    "silent_fail": "status checks that fail are repeated until timeout anyway",
}


class MagicHourProjectSensor(BaseSensorOperator):
    """
    Wait until a project, or all projects of a list, are finished.

    All modes check the status equally often, and raise the same errors. A wrong key (401), a missing
    permission (403) or an unknown id (404 for a minute) ends the wait. After any other failed check, the wait
    continues until ``timeout``, or ``execution_timeout`` if it is shorter. Both count from the start of the
    try. In reschedule mode, Airflow's rules apply: ``timeout`` counts from the first try, and
    ``execution_timeout`` applies to each poke.

    :param project_id: the project, or a list of at most about 10,000: an id, or the value that another task
        returned (create, generate, another sensor, ``triggering_projects``). (templated)
    :param kind: ``image``, ``video`` or ``audio``; may be None if ``project_id`` says it. (templated)
    :param magichour_conn_id: the connection. (templated)
    :param poll_interval: seconds between status checks, at least one. If None, an explicit ``poke_interval``
        is used. Without both, the interval depends on the kind and the age of the project, and a rescheduled
        sensor starts once a minute at most. (templated)
    :param deferrable: whether a trigger waits, so that the task uses no worker.
    :param defer_after: seconds to wait on the worker before the task defers; 0 defers at once. If None, the
        task first waits on the worker if its projects are likely to finish sooner than a deferral takes.
        (templated)
    :param fail_on_error: whether a failed, canceled or deleted project fails the task, when all projects
        of a list are finished. If False, the returned project has the status.
    :param return_projects: whether to return whole projects with their ``kind``. If False, each project is
        ``{"id", "kind", "status"}``, for long lists.
    :param catalog: whether to record how the projects end, if the connection has a ``catalog``.
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
        catalog: bool = True,
        **kwargs: Any,
    ) -> None:
        for name, reason in _NOT_TAKEN.items():
            if kwargs.get(name):
                raise argument_error(f"{name} is not supported: {reason}; leave it out")
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
        self.catalog = catalog
        self._has_poke_interval = poke_interval is not None
        self.is_killed = False
        #: The projects that a poke in this process found unfinished.
        self._found: WaitResult | None = None
        check_projects_at_parse(project_id, kind)
        if is_settled(poll_interval):
            optional(check_seconds, poll_interval, "poll_interval")
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

    @property
    def fixed_poll_interval(self) -> float | None:
        """Return the fixed interval from the arguments, if there is one."""
        interval = optional(check_seconds, self.poll_interval, "poll_interval")
        return float(self.poke_interval) if interval is None and self._has_poke_interval else interval

    def execute(self, context: Context) -> Any:
        """Wait in a trigger, rescheduled, or on the worker."""
        from airflow_provider_magichour.sensors._run import SensorRun, sensor_errors

        with sensor_errors(self, context):
            run = SensorRun(self, context)
            if run.is_empty:
                self.log.info("project_id is an empty list: there is nothing to wait for.")
                return []
            if not self.reschedule or self.deferrable:
                return run.wait()
        try:
            return super().execute(context)  # Airflow's code pokes once and reschedules the task
        except (AirflowSensorTimeout, AirflowSkipException) as error:
            if self._found is None:  # the poke raised this
                raise
            with sensor_errors(self, context):
                raise self._found.timeout() from error

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Check each project once; when all are finished, return the projects as the value."""
        from airflow_provider_magichour.sensors._run import SensorRun, sensor_errors

        self._found = None
        with sensor_errors(self, context):  # Airflow's own loop would skip without a reason
            run = SensorRun(self, context)
            found = run.check_once()
            if not found.pending:
                return PokeReturnValue(True, run.result(found.outcomes, found.projects))
        self._found = found
        # Airflow starts the task again after poke_interval. The next start has the user's value again.
        least = RESCHEDULE_INTERVAL if self.fixed_poll_interval is None else 0.0
        self.poke_interval = max(found.next_in, least)
        return False

    def execute_complete(
        self,
        context: Context,
        event: Any = None,
        pending: Sequence[str] | None = None,
        outcomes: Mapping[str, str] | None = None,
    ) -> Any:
        """
        Resume: return the projects, raise the trigger's error, or wait for the next projects.

        ``dag.test()``, and a task that version 0.1.0 deferred, pass only the event.

        :param event: the trigger's event.
        :param pending: the projects that were not known to be finished when the task deferred.
        :param outcomes: how the others ended.
        """
        from airflow_provider_magichour.sensors._run import SensorRun, sensor_errors

        with sensor_errors(self, context):
            return SensorRun(self, context).resume(event, pending, outcomes or {})

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Check once more if the deferral failed: no triggerer ended it in time, or its trigger failed."""
        from airflow_provider_magichour._polling.deferral import FAILED_DEFERRAL
        from airflow_provider_magichour.sensors._run import SensorRun, sensor_errors

        with sensor_errors(self, context):
            if next_method != FAILED_DEFERRAL:
                return getattr(self, next_method)(context, **(next_kwargs or {}))
            run = SensorRun(self, context)
            found = run.check_now()
            if not found.pending:
                return run.result(found.outcomes, found.projects)
            if run.deadline <= time.time():
                raise found.timeout()
            try:
                return super().resume_execution(next_method, next_kwargs, context)
            except AirflowSkipException as error:
                cause = error.__cause__ or error
                raise AirflowSkipException(f"Skipping, because the deferral failed: {cause}") from cause

    def on_kill(self) -> None:
        """Stop waiting within a second."""
        self.is_killed = True

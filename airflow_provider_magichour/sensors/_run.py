"""One start of the sensor's task: how it waits, defers, resumes, and ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from airflow_provider_magichour._client import stats
from airflow_provider_magichour._client.api import raise_project_errors
from airflow_provider_magichour._polling import schedule
from airflow_provider_magichour._polling.deferral import defer, split_ids
from airflow_provider_magichour._polling.refreshing_sender import CANNOT_READ
from airflow_provider_magichour._polling.wait import (
    LAST_CHECK_TRIES,
    WaitResult,
    wait_for_finished,
    wait_on_worker,
)
from airflow_provider_magichour._polling.wait_request import WaitRequest
from airflow_provider_magichour._transfer.receipts import run_of
from airflow_provider_magichour._validation import check_delay, optional
from airflow_provider_magichour._validation.projects import read_projects
from airflow_provider_magichour.exceptions import (
    MagicHourError,
    MagicHourSensorTimeoutError,
    MagicHourTimeoutError,
)
from airflow_provider_magichour.hooks.connection import get_settings, get_settings_async
from airflow_provider_magichour.links import push_links
from airflow_provider_magichour.triggers import MagicHourProjectTrigger, named_ids, read_event

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseSensorOperator


class SensorRun:
    """
    One start of the task: from the beginning, as a poke, or from a deferral.

    :param sensor: the :class:`~airflow_provider_magichour.sensors.MagicHourProjectSensor`, rendered.
    """

    def __init__(self, sensor: Any, context: Mapping[str, Any]) -> None:
        self._sensor = sensor
        self._context = context
        self._conn_id = sensor.magichour_conn_id
        self._wanted = read_projects(sensor.project_id, optional(lambda value, _: value, sensor.kind, "kind"))
        self._kind = self._wanted.kind
        self._ids = list(dict.fromkeys(self._wanted.ids))

    @property
    def is_empty(self) -> bool:
        """Return whether there is no project to wait for."""
        return not self._ids

    @cached_property
    def deadline(self) -> float:
        """Return when to stop waiting, in unix seconds."""
        sensor = self._sensor
        return schedule.deadline(schedule.started_at(self._context), sensor.timeout, sensor.execution_timeout)

    def wait(self) -> Any:
        """Wait on the worker. A deferrable sensor waits only for ``defer_after``, and then defers."""
        sensor = self._sensor
        get_settings(self._conn_id)  # a wrong connection id fails here, without a wait
        push_links(self._context, self._kind, self._ids)
        if sensor.deferrable:
            found = self._wait(
                self._ids, self.deadline, optional(check_delay, sensor.defer_after, "defer_after")
            )
            if found.pending:
                self._defer(self._ids, {})
            return self.result(found.outcomes, found.projects)
        until = schedule.worker_deadline(time.time(), sensor.timeout, sensor.execution_timeout)
        request = self._request(self._ids, until)
        return self.result(*wait_for_finished(request, self._conn_id, get_settings_async, logger=sensor.log))

    def check_once(self) -> WaitResult:
        """
        Check each project once. If the connection cannot be read now, only the first poke fails.

        In a list, checks that fail are repeated: a poke knows nothing of earlier pokes, so all checks of one
        poke must succeed.
        """
        push_links(self._context, self._kind, self._ids)
        is_first = is_first_poke(self._context)
        if is_first:
            get_settings(self._conn_id)
        try:
            tries = LAST_CHECK_TRIES if len(self._ids) > 1 else 1
            return self._wait(self._ids, time.time() + self._sensor.timeout, tries=tries)
        except CANNOT_READ as error:
            if is_first:
                raise
            self._sensor.log.warning("%s; trying again at the next poke", error)
            return WaitResult({}, {}, dict.fromkeys(self._ids), error, 0.0)

    def check_now(self) -> WaitResult:
        """Check each project once at the deadline."""
        return self._wait(self._ids, time.time())

    def _wait(
        self, ids: Sequence[str], deadline: float, seconds: float | None = 0.0, tries: int = 1
    ) -> WaitResult:
        """Check each project once, and wait for a limited time."""
        request, log = self._request(ids, deadline), self._sensor.log
        return wait_on_worker(request, self._conn_id, get_settings_async, seconds, tries=tries, logger=log)

    def _request(self, ids: Sequence[str], deadline: float) -> WaitRequest:
        sensor = self._sensor
        return WaitRequest(
            self._kind, ids, deadline, sensor.fixed_poll_interval, is_killed=lambda: sensor.is_killed
        )

    # ------------------------------------------------------------------------------------- deferral

    def _defer(self, pending: list[str], outcomes: Mapping[str, str]) -> NoReturn:
        """
        Defer until the first pending projects are finished, as many as fit into one trigger.

        :param pending: the projects that are not known to be finished.
        :param outcomes: how the others ended.
        """
        trigger = MagicHourProjectTrigger(
            self._kind, split_ids(pending)[0], self._conn_id, self.deadline, self._sensor.fixed_poll_interval
        )
        carried = {"pending": pending, "outcomes": dict(outcomes)}
        defer(self._sensor, trigger, self.deadline, carried, self._sensor.log)

    def resume(self, event: object, pending: Sequence[str] | None, outcomes: Mapping[str, str]) -> Any:
        """
        Continue after a deferral. See ``execute_complete`` of the sensor.

        :param pending: None if the event alone was handed over.
        """
        if pending is not None:
            found = {**outcomes, **read_event(event, self._kind, split_ids(pending)[0])}
            left = [one for one in pending if one not in found]
        else:
            named = named_ids(event)
            is_ours = named and set(named) <= set(self._ids)
            found = read_event(event, self._kind, named if is_ours else self._ids)
            left = [one for one in self._ids if one not in found]
            if left:
                rest = self._wait(left, self.deadline)
                found, left = {**found, **rest.outcomes}, list(rest.pending)
        if left:
            self._defer(left, found)
        return self.result(found, None)

    # ----------------------------------------------------------------------------------------- ends

    def result(self, outcomes: Mapping[str, str], projects: Mapping[str, Mapping[str, Any]] | None) -> Any:
        """
        Return the result of the task.

        :param projects: the finished projects, None if they have to be requested.
        """
        sensor = self._sensor
        stats.count_projects(self._kind, outcomes.values())
        if projects is None:
            failed = [one for one in outcomes if outcomes[one] != "complete"] if sensor.fail_on_error else []
            again = self._wait(self._ids if sensor.return_projects else failed, time.time())
            if again.pending:
                raise MagicHourError(
                    "The trigger's event says that these projects are finished, but Magic Hour says that "
                    f"they are not finished: {', '.join([*again.pending][:10])}; clear the task to wait again"
                )
            projects = again.projects
        self.record(projects)
        if sensor.fail_on_error:
            raise_project_errors(projects[one] for one in self._ids if one in projects)
        results: list[Any] = [
            {**projects[one], "kind": self._kind}
            if sensor.return_projects
            else {"id": one, "kind": self._kind, "status": outcomes[one]}
            for one in self._wanted.ids
        ]
        return results if self._wanted.is_list else results[0]

    def record(self, projects: Mapping[str, Mapping[str, Any]]) -> None:
        """
        Record in the connection's catalogue how the projects ended, or that they were not finished in time.

        :param projects: as Magic Hour gives them; what is missing is requested.
        """
        if not self._sensor.catalog:
            return
        try:
            hook = self._sensor.hook
            if hook.settings.catalog is None:
                return
            finished_at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            is_known = all(one in projects for one in self._ids)
            hook.record_ends(
                self._kind,
                {one: projects[one] for one in self._ids} if is_known else self._ids,
                facts={one: {"finished_at": finished_at} for one in self._ids},
                recorded_by=run_of(self._context),
            )
        except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
            self._sensor.log.warning("The catalogue has no record: %s: %s", type(error).__name__, error)


def is_first_poke(context: Mapping[str, Any]) -> bool:
    """Return whether a rescheduled sensor runs for the first time in this try; before Airflow 3.0, True."""
    first_date = getattr(context.get("ti"), "get_first_reschedule_date", None)
    return first_date is None or first_date(context) is None


@contextmanager
def sensor_errors(sensor: BaseSensorOperator, context: Mapping[str, Any] | None = None) -> Iterator[None]:
    """
    Raise timeouts as a sensor's, and skip instead of failing where the user requested that.

    :param sensor: its ``soft_fail``, ``never_fail`` and ``execution_timeout`` are used.
    :param context: the task's, where a timeout is to be recorded in the catalogue.
    """
    try:
        try:
            yield
        except MagicHourSensorTimeoutError:
            raise
        except MagicHourTimeoutError as error:
            stats.count_projects(getattr(sensor, "kind", None), [error])
            if context is not None:
                SensorRun(sensor, context).record({})
            raise MagicHourSensorTimeoutError(*error.args) from None
        except AirflowTaskTimeout as error:  # the last check took longer than its margin
            raise MagicHourSensorTimeoutError(
                f"Timed out after execution_timeout ({sensor.execution_timeout}). The project continues at "
                "Magic Hour: clear the task to wait again"
            ) from error
    except (AirflowFailException, AirflowSensorTimeout) as error:
        if sensor.soft_fail or sensor.never_fail:
            # The text is that of Airflow's own sensors.
            argument = "soft_fail" if sensor.soft_fail else "never_fail"
            raise AirflowSkipException(f"Skipping due to {argument} is set to True: {error}") from error
        raise
    except AirflowSkipException:
        raise
    except Exception as error:
        if sensor.never_fail:
            raise AirflowSkipException(f"Skipping due to never_fail is set to True: {error}") from error
        raise

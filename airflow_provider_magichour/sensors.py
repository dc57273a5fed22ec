"""Wait for Magic Hour projects: in a trigger, rescheduled, or on the worker."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._validation import check_seconds, check_some_ids, is_many
from airflow_provider_magichour.exceptions import (
    MagicHourError,
    MagicHourNotFoundError,
    MagicHourSensorTimeoutError,
    MagicHourTimeoutError,
)
from airflow_provider_magichour.links import MagicHourProjectLink
from airflow_provider_magichour.tools import check_kind

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour._polling.wait import CheckRound
    from airflow_provider_magichour.hooks import MagicHourHook
    from airflow_provider_magichour.types import KindName, Templated

__all__ = ["MagicHourProjectSensor"]


class MagicHourProjectSensor(BaseSensorOperator):
    """
    Wait until a project, or all projects of a list, are finished.

    The project is the XCom; of a list, the list in the same order.

    All modes look as often, judge alike and raise the same errors: a wrong key (401), plan (403) or id (404)
    ends the wait at once; anything else that goes wrong with a look is ridden out until ``timeout``. That,
    or ``execution_timeout`` where it is shorter, counts from the start of the task's try; in reschedule
    mode, as in Airflow, ``timeout`` counts from the first try and ``execution_timeout`` for each look.

    :param project_id: the project, or a list of them, 10,000 at most for good measure. (templated)
    :param kind: ``image``, ``video`` or ``audio``. (templated)
    :param magichour_conn_id: the connection. (templated)
    :param poll_interval: seconds between looks. Else an explicit ``poke_interval`` is; else the interval
        fits the kind and grows with the project's age.
    :param deferrable: whether a trigger waits, which holds no worker.
    :param fail_on_error: whether a failed, canceled or deleted project fails the task, once all projects
        of a list are finished. If False, the project tells.
    :param return_projects: whether to return whole projects, or ``{"id", "status"}`` each, for long lists.
    :raises MagicHourProjectFailedError: if a project failed.
    :raises MagicHourProjectCanceledError: if a person canceled one.
    :raises MagicHourNotFoundError: if there is no such project of this kind, or it was deleted.
    :raises MagicHourSensorTimeoutError: if a project was not finished in time.
    """

    template_fields: Sequence[str] = ("project_id", "kind", "magichour_conn_id")  # pyright: ignore[reportIncompatibleVariableOverride]
    operator_extra_links = (MagicHourProjectLink(),)
    ui_color = "#efe6ff"

    def __init__(
        self,
        *,
        project_id: Templated[str | list[str]],
        kind: Templated[KindName],
        magichour_conn_id: str = DEFAULT_CONN_ID,
        poll_interval: float | None = None,
        poke_interval: timedelta | float | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        fail_on_error: bool = True,
        return_projects: bool = True,
        **kwargs: Any,
    ) -> None:
        if poke_interval is not None:
            kwargs["poke_interval"] = poke_interval
        super().__init__(**kwargs)
        self.project_id: Any = project_id
        self.kind: Any = kind
        self.magichour_conn_id = magichour_conn_id
        self.poll_interval = poll_interval
        self.deferrable = deferrable
        self.fail_on_error = fail_on_error
        self.return_projects = return_projects
        #: The fixed interval that the user asked for, if any.
        self._interval = poll_interval if poke_interval is None else self.poke_interval
        if poll_interval is not None:
            self._interval = check_seconds(poll_interval, "poll_interval")
        self._found: CheckRound | None = None
        self._check_what_is_no_template()

    def _check_what_is_no_template(self) -> None:
        """Fail at parse time where that is possible: on what no template and no XCom can change."""
        if self.project_id is None or (isinstance(self.project_id, str) and not self.project_id.strip()):
            check_some_ids(self.project_id)
        if isinstance(self.project_id, list) and not self.project_id:
            check_some_ids(self.project_id)
        if self.kind is None or (isinstance(self.kind, str) and "{{" not in self.kind):
            check_kind(self.kind)

    if TYPE_CHECKING:

        @property
        def output(self) -> Any:
            """What the task returns: stands for any value, as in Airflow's own plugin for mypy."""

    @property
    def hook(self) -> MagicHourHook:
        """Return the hook."""
        from airflow_provider_magichour.hooks import MagicHourHook

        return MagicHourHook(self.magichour_conn_id)

    # ---------------------------------------------------------------------------------------- modes

    def execute(self, context: Context) -> Any:
        """Wait in the way that was asked for."""
        if self.reschedule and not self.deferrable:
            return self._execute_rescheduled(context)
        from airflow_provider_magichour.hooks.connection import get_settings

        with self._lenient():
            ids = self._ids()
            get_settings(self.magichour_conn_id)  # a mistyped connection fails here, not after a while
            MagicHourProjectLink.push(context, self.kind, ids[0])
            if self.deferrable:
                return self._defer(context, ids)
            return self._wait_here(ids)

    def _defer(self, context: Context, ids: list[str]) -> None:
        from airflow_provider_magichour._polling import schedule
        from airflow_provider_magichour.triggers import MagicHourProjectTrigger

        until = schedule.deadline(schedule.started_at(context), self.timeout, self.execution_timeout)
        self.defer(
            trigger=MagicHourProjectTrigger(
                self.kind, list(dict.fromkeys(ids)), self.magichour_conn_id, until, self._interval
            ),
            method_name="execute_complete",
            timeout=schedule.deferral_timeout(until),
        )

    def execute_complete(self, context: Context, event: Any = None) -> Any:
        """
        Return what the trigger waited for, or raise what it found.

        :param event: the trigger's event.
        """
        from airflow_provider_magichour.triggers import read_event

        with self._lenient():
            ids = self._ids()
            return self._result(ids, read_event(event, self.kind, ids), None)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Tell Airflow's own end of a deferral like the trigger's, where no triggerer was there to end it."""
        from airflow_provider_magichour._polling.wait import timeout_error

        with self._lenient():
            try:
                # Not the base sensor's: with soft_fail it skips whatever goes wrong, and hides what it was.
                return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)
            except (MagicHourError, AirflowSkipException):
                raise
            except AirflowException as error:
                if "timeout" in str(error):
                    ids = dict.fromkeys(self._ids())
                    raise timeout_error(ids, len(ids), time.time()) from error
                if self.soft_fail:  # the trigger itself failed: as any sensor does
                    raise AirflowSkipException(
                        f"Skipping due to soft_fail is set to True: {error}"
                    ) from error
                raise

    def _wait_here(self, ids: list[str]) -> Any:
        from airflow_provider_magichour._polling import schedule
        from airflow_provider_magichour._polling.wait import wait_for_finished
        from airflow_provider_magichour.hooks.connection import get_settings_async

        outcomes, projects = wait_for_finished(
            self.kind,
            ids,
            self.magichour_conn_id,
            functools.partial(get_settings_async, self.magichour_conn_id),
            schedule.deadline(time.time(), self.timeout, self.execution_timeout),
            poll_interval=self._interval,
            logger=self.log,
        )
        return self._result(ids, outcomes, projects)

    def _execute_rescheduled(self, context: Context) -> Any:
        try:
            return super().execute(context)
        except (AirflowSensorTimeout, AirflowSkipException) as error:
            if self._found is None:  # not the time was up, but the look found something
                raise
            with self._lenient():
                raise self._found.timeout() from error

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Look once; the projects are the value when all are finished."""
        from airflow_provider_magichour._polling.poller import WaitRequest
        from airflow_provider_magichour._polling.wait import check_once
        from airflow_provider_magichour.hooks.connection import get_settings

        self._found = None
        with self._lenient():  # Airflow's own loop would skip without saying why
            ids = self._ids()
            MagicHourProjectLink.push(context, self.kind, ids[0])
            wait = WaitRequest(self.kind, ids, time.time() + self.timeout, self._interval)
            found = check_once(wait, get_settings(self.magichour_conn_id), self.log)
            if len(found.outcomes) == len(wait.ids):
                return PokeReturnValue(True, self._result(ids, found.outcomes, found.projects))
        self._found = found
        return False

    def _get_next_poke_interval(
        self, started_at: datetime | float, run_duration: Callable[[], float], poke_count: int
    ) -> float:
        """Return the seconds until Airflow pokes again, in reschedule mode."""
        if self.exponential_backoff or self._found is None:
            return float(super()._get_next_poke_interval(started_at, run_duration, poke_count))
        return max(min(self._found.delay, self.timeout - run_duration()), 0.0)

    # ---------------------------------------------------------------------------------------- ends

    def _ids(self) -> list[str]:
        check_kind(self.kind)
        return check_some_ids(self.project_id)

    def _result(
        self, ids: list[str], outcomes: Mapping[str, str], projects: Mapping[str, Mapping[str, Any]] | None
    ) -> Any:
        """
        Return what the task returns.

        :param outcomes: how each project ended.
        :param projects: the finished projects, None where they have to be asked for.
        """
        failed = [one for one in outcomes if outcomes[one] != "complete"] if self.fail_on_error else []
        if projects is None:
            wanted = list(outcomes) if self.return_projects else failed
            projects = self._fetch(wanted, outcomes)
        if self.fail_on_error:
            from airflow_provider_magichour._client.api import raise_project_errors

            raise_project_errors(projects[one] for one in outcomes if one in projects)
        results: list[Any] = [
            projects[one] if self.return_projects else {"id": one, "status": outcomes[one]} for one in ids
        ]
        return results if is_many(self.project_id) else results[0]

    def _fetch(self, wanted: list[str], outcomes: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
        """Ask for finished projects, which must be as the event says."""
        if not wanted:
            return {}
        from airflow_provider_magichour._client import api

        answers = self.hook.send_all([api.get_project(self.kind, one) for one in wanted])
        projects: dict[str, Mapping[str, Any]] = {}
        for one, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, MagicHourNotFoundError) and outcomes[one] == "deleted":
                projects[one] = {"id": one, "status": "deleted", "enabled": False}
                continue
            if isinstance(answer, MagicHourError):
                raise answer
            if not isinstance(answer, Mapping) or not api.is_finished(answer):
                raise MagicHourError(
                    f"The event says that project {one} ended as {outcomes[one]}, but Magic Hour says that "
                    "it is not finished: clear the task to wait again"
                )
            projects[one] = answer
        return projects

    @contextmanager
    def _lenient(self) -> Iterator[None]:
        """Raise timeouts as a sensor's, and skip instead of failing where the user asked for that."""
        try:
            try:
                yield
            except MagicHourTimeoutError as error:
                raise MagicHourSensorTimeoutError(*error.args) from None
        except (AirflowFailException, AirflowSensorTimeout) as error:
            if self.soft_fail or self.never_fail:
                asked = "soft_fail" if self.soft_fail else "never_fail"
                raise AirflowSkipException(f"Skipping due to {asked} is set to True: {error}") from error
            raise
        except AirflowSkipException:
            raise
        except Exception as error:
            if self.never_fail:
                raise AirflowSkipException(f"Skipping due to never_fail is set to True: {error}") from error
            raise

"""Makes media in one task: submit, wait, download."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import conf

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._client import api
from airflow_provider_magichour._polling import schedule
from airflow_provider_magichour._transfer.lineage import openlineage_outputs
from airflow_provider_magichour._validation import check_seconds, is_many, is_settled
from airflow_provider_magichour.exceptions import (
    MagicHourArgumentError,
    MagicHourError,
    MagicHourNotFoundError,
    MagicHourProjectFailedError,
    MagicHourTimeoutError,
)
from airflow_provider_magichour.hooks.connection import get_settings_async
from airflow_provider_magichour.operators.base import run_of
from airflow_provider_magichour.operators.create import LIMIT_PATIENCE, MagicHourCreateProjectOperator
from airflow_provider_magichour.tools import tool_kind

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour.operators._submit_records import Submit, SubmitRecords
    from airflow_provider_magichour.types import KindName, Templated, ToolName

log = logging.getLogger(__name__)


class MagicHourGenerateOperator(MagicHourCreateProjectOperator):
    """
    Make media in one task: submit, wait until it is complete, and store its files.

    The worker is held for the submit and the download only, where the task is deferrable. It is paid once:
    on Airflow 3.3 and newer, a retry takes the same project up at whatever stage it is, and makes a new one
    only where that failed, was canceled or deleted. See "Paying once" in the documentation.

    Of a list of bodies, one that fails does not lose the others: they are stored, their results are the
    XCom ``results``, and a retry or a Clear submits only those that failed.

    :param tool: the path segment of the create call, such as ``text-to-video``. (templated)
    :param body: the create call's JSON object, or a list of them. What is a local path or an object-storage
        URL under ``assets`` is uploaded first. (templated)
    :param kind: ``image``, ``video`` or ``audio``; needed for a tool that this version does not know.
        (templated)
    :param destination: a folder on local disk, or what ObjectStoragePath takes; the files are stored as
        ``{destination}/{project_id}/{file name}``. None stores none. (templated)
    :param deferrable: whether a trigger waits, which holds no worker.
    :param poll_interval: seconds between looks; fitting the tool and the project's age if None.
    :param timeout: seconds to wait, two hours if None; ``execution_timeout`` counts where it is shorter.
    :param delete_on_kill: whether to delete the projects when the task is killed. Airflow cannot tell a
        person's kill from a worker's shutdown or from ``execution_timeout``, which do the same while the
        task is on a worker. Of a deferred task, from Airflow 3.3 on.
    :param durable: whether to remember the submit in Airflow's task state store.
    :param retry_uncertain_submit: whether a retry submits anew where nobody knows if an earlier try did;
        this may cost the credits twice.
    :param max_credits: what all bodies together may cost. Nothing is submitted while the account has less,
        and no further body once it could be exceeded; a warning is logged above 80 %.
    :param magichour_conn_id: the connection. (templated)
    :return: ``{"project": {...}, "files": [...]}``, for a list of bodies a list of these.
    :raises MagicHourUncertainSubmitError: if nobody knows whether the create call was accepted.
    :raises MagicHourProjectFailedError: if the project failed, and its input is to blame.
    :raises MagicHourRenderError: if the project failed for no fault of its input; a retry submits it anew.
    :raises MagicHourProjectCanceledError: if a person canceled the project.
    :raises MagicHourTimeoutError: if it was not finished in time; a retry goes on waiting for it.
    :raises MagicHourDownloadError: if a file could not be stored whole; a retry does only that.
    """

    template_fields: Sequence[str] = (*MagicHourCreateProjectOperator.template_fields, "destination")

    def __init__(
        self,
        *,
        tool: Templated[ToolName],
        body: Templated[dict[str, Any] | list[dict[str, Any]]],
        kind: Templated[KindName | None] = None,
        destination: Templated[str | None] = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | None = None,
        timeout: float | None = None,
        delete_on_kill: bool = False,
        durable: bool = True,
        retry_uncertain_submit: bool = False,
        max_credits: float | None = None,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            tool=tool,
            body=body,
            kind=kind,
            durable=durable,
            retry_uncertain_submit=retry_uncertain_submit,
            max_credits=max_credits,
            magichour_conn_id=magichour_conn_id,
            **kwargs,
        )
        self.destination: Any = destination
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.delete_on_kill = delete_on_kill
        self._under_way: list[str] = []
        self._files: list[dict[str, Any]] = []
        if is_settled(destination):
            _check_destination(destination)
        for name, value in (("poll_interval", poll_interval), ("timeout", timeout)):
            if value is not None:
                check_seconds(value, name)

    # -------------------------------------------------------------------------------------- submit, wait

    def execute(self, context: Context) -> Any:
        """Submit, or take up what an earlier try submitted; then wait and download."""
        _check_destination(self.destination)
        if self.destination is not None:  # where nothing can be stored, nothing is paid for
            from airflow_provider_magichour._transfer.storage import open_destination

            open_destination(self.destination)
        records = self._open_records(context)
        outcomes = self._submit(context, records)
        if records.succeeded and (results := _stored_results(outcomes)):
            return results if is_many(self.body) else results[0]
        self._under_way = [str(one.id) for one in outcomes if not isinstance(one, MagicHourError)]
        if not self._under_way:
            self._raise_for_failed(context, outcomes, [])
        if self._finished.issuperset(self._under_way):
            return self._finish(context, records, outcomes, None)
        if self.deferrable:
            self._defer(context, records, outcomes)
        return self._finish(context, records, outcomes, self._wait_here(context))

    def _defer(
        self, context: Mapping[str, Any], records: SubmitRecords, outcomes: Sequence[Submit | MagicHourError]
    ) -> NoReturn:
        from airflow_provider_magichour.triggers import (
            MagicHourGenerateTrigger,
            MagicHourProjectTrigger,
            carry_error,
        )

        failed = {
            position: carry_error(one)
            for position, one in enumerate(outcomes)
            if isinstance(one, MagicHourError)
        }
        records.defer(len(outcomes), failed)
        until = self._deadline(context)
        trigger = MagicHourGenerateTrigger if self.delete_on_kill else MagicHourProjectTrigger
        if self.delete_on_kill:
            from airflow_provider_magichour.triggers import warn_where_unseen

            warn_where_unseen(log)
        self.defer(
            trigger=trigger(
                tool_kind(self.tool, self.kind),
                self._under_way,
                self.magichour_conn_id,
                until,
                self.poll_interval,
                missing_ok=True,
                tool=self.tool,
                submitted_at=time.time(),
            ),
            method_name="execute_complete",
            kwargs={
                "submitted": self._under_way,
                "failed": {str(position): error for position, error in failed.items()},
            },
            timeout=schedule.deferral_timeout(until),
        )
        raise AssertionError  # defer has raised

    def _wait_here(self, context: Mapping[str, Any]) -> MagicHourTimeoutError | None:
        """Wait on the worker; return the error of a wait that took too long."""
        from airflow_provider_magichour._polling.wait import wait_for_finished

        try:
            wait_for_finished(
                tool_kind(self.tool, self.kind),
                self._under_way,
                self.magichour_conn_id,
                functools.partial(get_settings_async, self.magichour_conn_id),
                self._deadline(context),
                poll_interval=self.poll_interval,
                missing_ok=True,
                logger=self.log,
                tool=self.tool,
                submitted_at=time.time(),
            )
        except MagicHourTimeoutError as error:
            return error
        return None

    def _deadline(self, context: Mapping[str, Any]) -> float:
        """Return when to stop: after ``timeout`` from now, or ``execution_timeout`` from the task's start."""
        until = schedule.deadline(time.time(), self.timeout)
        if self.execution_timeout is None:
            return until
        started = schedule.started_at(context)
        return min(until, schedule.deadline(started, None, self.execution_timeout))

    def _limit_patience(self) -> float:
        return min(LIMIT_PATIENCE, self.timeout or schedule.DEFAULT_TIMEOUT)

    # ------------------------------------------------------------------------------------------- download

    def execute_complete(
        self,
        context: Context,
        event: Any = None,
        submitted: Sequence[str] | None = None,
        failed: Mapping[str, Any] | None = None,
    ) -> Any:
        """
        Download what the trigger waited for, or raise what it found.

        What Airflow's task state tells is taken from there. ``dag.test()`` hands over the event alone.

        :param event: the trigger's event.
        :param submitted: the projects, in the order of their bodies.
        :param failed: by position, the errors of bodies that were not submitted.
        """
        from airflow_provider_magichour.operators._submit_records import SubmitRecords
        from airflow_provider_magichour.triggers import read_event

        records = SubmitRecords.of_task(context, durable=self.durable)
        outcomes = self._resumed(records, submitted or _named_ids(event), failed or {})
        self._under_way = [str(one.id) for one in outcomes if not isinstance(one, MagicHourError)]
        timeout_error = None
        try:
            read_event(event, tool_kind(self.tool, self.kind), self._under_way)
        except MagicHourTimeoutError as error:
            timeout_error = error
        return self._finish(context, records, outcomes, timeout_error)

    def _resumed(
        self, records: SubmitRecords, submitted: Sequence[str], failed: Mapping[str, Any]
    ) -> list[Submit | MagicHourError]:
        """
        Return what :meth:`execute` submitted, and the errors of what it did not.

        :raises MagicHourError: if that cannot be told for certain.
        """
        from airflow_provider_magichour.operators._submit_records import Submit
        from airflow_provider_magichour.triggers import carried_error

        if (remembered := records.resume()) is not None:
            submits, errors = remembered
        else:
            errors = {int(position): error for position, error in failed.items()}
            count = len(list(self.body)) if is_many(self.body) else 1
            if len(submitted) + len(errors) != count:
                raise MagicHourError(
                    f"The task has {count} bodies, but was resumed with an event about {len(submitted)} "
                    "projects, which is not trusted: look at https://magichour.ai/my-library"
                )
            ids = iter(submitted)
            submits = [None if position in errors else Submit("", 0, next(ids)) for position in range(count)]
        outcomes: list[Submit | MagicHourError] = []
        for position, one in enumerate(submits):
            if one is not None and one.id is not None:
                outcomes.append(one)
            elif errors.get(position):
                outcomes.append(carried_error(errors[position]))
            else:
                outcomes.append(MagicHourError(f"body[{position}] was not submitted; the log says why"))
        return outcomes

    def _finish(
        self,
        context: Mapping[str, Any],
        records: SubmitRecords,
        outcomes: list[Submit | MagicHourError],
        timeout_error: MagicHourTimeoutError | None,
    ) -> Any:
        """Store the files of the complete projects, and return or leave the results."""
        if timeout_error is not None and not records.is_persistent:
            timeout_error = MagicHourTimeoutError(
                f"{timeout_error}. A retry would submit anew and pay again, as nothing remembers the submit: "
                "wait for it by a MagicHourProjectSensor instead",
                timeout_error.project_id,
            )
        ends = self._look(outcomes, timeout_error)
        complete = {position: one for position, one in ends.items() if not isinstance(one, MagicHourError)}
        stored = self._download(context, [str(one["id"]) for one in complete.values()])
        results: dict[int, dict[str, Any]] = {}
        for (position, project), files in zip(complete.items(), stored, strict=True):
            if isinstance(files, MagicHourError):
                ends[position] = files
            else:
                results[position] = {"project": project, "files": files}
        for position, submit in enumerate(outcomes):
            if isinstance(submit, MagicHourError):
                ends[position] = submit
            elif position in results:
                records.finish(position, submit, results[position])
            elif isinstance(ends[position], MagicHourNotFoundError) and submit.result is not None:
                log.info("Project %s was deleted after its files were stored.", submit.id)
                ends[position] = results[position] = submit.result
        in_order = [results[position] for position in sorted(results)]
        self._files = [file for result in in_order for file in result["files"]]
        self._raise_for_failed(context, [ends[position] for position in range(len(outcomes))], in_order)
        records.succeed()
        return in_order if is_many(self.body) else in_order[0]

    def _look(
        self, outcomes: Sequence[Submit | MagicHourError], timeout_error: MagicHourTimeoutError | None
    ) -> dict[int, Any]:
        """Return, by position, each submitted project that is complete, or the error that it means."""
        kind = tool_kind(self.tool, self.kind)
        submits = {
            position: one for position, one in enumerate(outcomes) if not isinstance(one, MagicHourError)
        }
        answers = self.hook.send_all([api.get_project(kind, str(one.id)) for one in submits.values()])
        ends: dict[int, Any] = {}
        for (position, submit), answer in zip(submits.items(), answers, strict=True):
            if isinstance(answer, MagicHourError):
                ends[position] = answer
            elif not api.is_finished(answer):
                ends[position] = timeout_error or MagicHourError(
                    f"Project {submit.id} was said to be finished, but Magic Hour says that it is not; "
                    "a retry waits again"
                )
            else:
                error = api.project_error(answer)
                if isinstance(error, MagicHourProjectFailedError):
                    error = api.render_error(error)
                ends[position] = {"id": submit.id, **answer} if error is None else error
        return ends

    def _download(
        self, context: Mapping[str, Any], project_ids: list[str]
    ) -> Sequence[list[dict[str, Any]] | MagicHourError]:
        if self.destination is None or not project_ids:
            return [[] for _ in project_ids]
        return self.hook.download_all(
            tool_kind(self.tool, self.kind), project_ids, self.destination, downloaded_by=run_of(context)
        )

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return the stored files as the task's output data sets."""
        return openlineage_outputs(self._files)

    # ----------------------------------------------------------------------------------------------- kill

    def on_kill(self) -> None:
        """Delete the projects that are under way, if the user asked for that; it takes 10 seconds at most."""
        if not self.delete_on_kill or not self._under_way:
            return
        from airflow_provider_magichour._client.transport import run_async
        from airflow_provider_magichour.triggers import delete_killed

        kind = tool_kind(self.tool, self.kind)
        settings = self.hook.settings
        run_async(lambda: delete_killed(settings, kind, self._under_way, log))


def _check_destination(destination: Any) -> None:
    if destination is not None and not str(destination).strip():
        raise MagicHourArgumentError(
            f"destination must be a folder or an object-storage URL, or None to store nothing, "
            f"not {destination!r}"
        )


def _stored_results(outcomes: Sequence[Submit | MagicHourError]) -> list[dict[str, Any]] | None:
    """Return the results of an earlier try, None if not all are known."""
    results = [one.result for one in outcomes if not isinstance(one, MagicHourError) and one.result]
    return results if len(results) == len(outcomes) else None


def _named_ids(event: Any) -> list[str]:
    """Return the projects that an event names, in the order in which the trigger was given them."""
    if not isinstance(event, Mapping):
        return []
    named = event.get("project_ids") if "error" in event else event.get("outcomes")
    return [str(one) for one in named] if isinstance(named, list | Mapping) else []

"""One try of a generate task, before and after a deferral: submit, wait, download."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour import triggers
from airflow_provider_magichour._client import api, stats
from airflow_provider_magichour._polling import schedule
from airflow_provider_magichour._polling.deferral import defer, split_ids
from airflow_provider_magichour._polling.progress import MISSING
from airflow_provider_magichour._polling.wait_request import WaitRequest
from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour._transfer.locations import index_root
from airflow_provider_magichour._transfer.receipts import run_of
from airflow_provider_magichour._validation import check_delay, check_seconds, is_many, optional
from airflow_provider_magichour.exceptions import (
    MagicHourError,
    MagicHourNotFoundError,
    MagicHourSubmitRecordError,
    MagicHourUnrecordedSubmitError,
)
from airflow_provider_magichour.operators import _clear_or_retry
from airflow_provider_magichour.operators._bodies import describe, fingerprints, with_names
from airflow_provider_magichour.operators._carried import (
    WaitEnd,
    outcomes_from_json,
    outcomes_of_0_1_0,
    outcomes_to_json,
    pending,
    read_wait,
    wait_here,
)
from airflow_provider_magichour.operators._catalogue import TaskRecorder
from airflow_provider_magichour.operators._create import CreateTask
from airflow_provider_magichour.operators._earlier_tries import not_found, uncertain, withdraw_report
from airflow_provider_magichour.operators._submit_record import Submitted
from airflow_provider_magichour.operators.base import on_a_thread
from airflow_provider_magichour.tools import seconds_before_deferral, typical_seconds_of

if TYPE_CHECKING:
    from airflow_provider_magichour._transfer.storage import Storage
    from airflow_provider_magichour.operators._reuse import StoredResults

log = logging.getLogger(__name__)

#: Seconds in which the projects are read once more after a timeout, plus twice their share of the rate limit.
LATE_SECONDS = 20.0
#: The longest time that the deletions may delay a kill, in seconds.
DELETE_SECONDS = 10.0


class GenerateTask(CreateTask):
    """One try of a generate task."""

    #: The files that the task returns.
    files: Sequence[Mapping[str, Any]] = ()

    # ------------------------------------------------------------------------------------- submit, wait

    def run(self) -> Any:
        """Submit, or continue with the projects of an earlier try. Then wait and download."""
        bodies = self._read_bodies()
        if not bodies:
            return []
        if self._operator.destination is not None:  # fails before anything is paid for
            open_destination(self._operator.destination)
        optional(check_seconds, self._operator.poll_interval, "poll_interval")
        optional(check_delay, self._operator.defer_after, "defer_after")
        with self._no_retry_without_records():
            outcomes = self._submit(bodies)
            if self._stored_results is not None:
                self._stored_results.set_keys(bodies, outcomes)
            if all(isinstance(one, MagicHourError) for one in outcomes):
                return self._finish(outcomes, WaitEnd({}))
            deadline = self._deadline()
            wait = self._wait(outcomes, deadline)
            if self._operator.deferrable and pending(outcomes, wait):
                self._defer(outcomes, wait, deadline)
            return self._finish(outcomes, wait)

    def resume(
        self,
        event: Any,
        *,
        outcomes: Sequence[Mapping[str, Any]] | None = None,
        ended: Mapping[str, str] | None = None,
        deadline: float | None = None,
        keys: Mapping[str, str] | None = None,
        recorded: bool | None = None,
        **of_0_1_0: Any,
    ) -> Any:
        """
        Download the finished projects, raise the trigger's error, or wait for the next projects.

        ``dag.test()`` passes only the event. Version 0.1.0 deferred with ``submitted`` and ``failed``. The
        other arguments are from :meth:`_defer`.
        """
        self._was_recorded = recorded
        self.project_ids += [one["id"] for one in outcomes or () if "id" in one]
        with self._no_retry_without_records():
            if self._stored_results is not None:
                self._stored_results.keys = {int(position): key for position, key in (keys or {}).items()}
            if outcomes is not None:
                known = outcomes_from_json(outcomes, self.records, self._stored_results)
            else:
                count = len(self._read_bodies())
                if self._is_event_about_a_part(event, count, of_0_1_0):
                    return self.run()  # as in a retry, because each project is recorded
                known = outcomes_of_0_1_0(event, count, **of_0_1_0)
            self.project_ids[:] = [one.id for one in known if not isinstance(one, MagicHourError)]
            before = WaitEnd(ended or {})
            wait = read_wait(event, self._kind, pending(known, before), before)
            if wait.timeout_error is None and deadline is not None and pending(known, wait):
                self._defer(known, wait, deadline)
            return self._finish(known, wait)

    def check_last(self) -> Any:
        """
        Check once more if Airflow itself ended the deferral, and so dropped the arguments of :meth:`_defer`.

        The task continues with the recorded projects, and submits nothing.
        """
        lost = MagicHourUnrecordedSubmitError(
            "Airflow ended the deferral, and nothing records what was submitted before it. A retry would "
            "submit again and pay again, so there is none: find the projects in this try's log and at "
            "https://magichour.ai/my-library; to pay again, clear the task"
        )
        try:
            is_persistent = self.records.is_persistent
        except MagicHourError as error:  # the connection, which may name a folder, cannot be read
            if self._context.get("task_state_store") is not None or self._records_root() is not None:
                raise
            raise lost from error
        known = self._recorded(self._read_bodies())
        self.project_ids += [one.id for one in known if not isinstance(one, MagicHourError)]
        if not self.project_ids and not is_persistent:
            raise lost
        with self._no_retry_without_records():
            request = WaitRequest(
                self._kind, pending(known, WaitEnd({})), time.time(), tool=self._operator.tool
            )
            return self._finish(known, wait_here(request, self._hook.magichour_conn_id, None, log))

    def _recorded(self, bodies: Sequence[dict[str, Any]]) -> list[Submitted | MagicHourError]:
        """Return the known project of each body, without the data from before the deferral."""
        conn_id, tool, ti = self._hook.magichour_conn_id, self._operator.tool, self._context["ti"]
        names = describe(tool, with_names(tool, bodies, self._project_name()))
        projects: dict[int, Submitted | MagicHourError] = {}
        for n, one in self.records.match(fingerprints(conn_id, tool, self._kind, bodies)).items():
            if one.id is not None:
                withdraw_report(self.records, one)  # its error from before the deferral is lost
                projects[n] = Submitted(one.id, one.credits_charged, one)
            elif not self._operator.retry_uncertain_submit:
                projects[n] = uncertain(self.records, one, names[n])
        if not projects and len(bodies) == 1:
            own = ti.xcom_pull(task_ids=ti.task_id, key="id", map_indexes=ti.map_index)
            projects = {0: Submitted(own)} if own else {}
        lost = MagicHourError("no project is recorded for this body; what became of it is in the log above")
        return [projects.get(n, lost) for n in range(len(bodies))]

    def _is_event_about_a_part(self, event: Any, count: int, of_0_1_0: Mapping[str, Any]) -> bool:
        """Return whether the task resumed only with an event that is not about all of its bodies."""
        named = triggers.named_ids(event)
        return (
            not of_0_1_0
            and 0 < len(named) < count
            and all(self.records.of_project(one, count) is not None for one in named)
        )

    def _wait(self, outcomes: Sequence[Submitted | MagicHourError], deadline: float) -> WaitEnd:
        """Wait on the worker until all projects are finished; if deferrable, only for ``defer_after``."""
        left = pending(outcomes, WaitEnd({}))
        if not left:
            return WaitEnd({})
        operator = self._operator
        interval = optional(check_seconds, operator.poll_interval, "poll_interval")
        request = WaitRequest(
            self._kind,
            left,
            deadline,
            interval,
            tool=operator.tool,
            submitted_at=time.time(),
            is_killed=operator._is_killed,
        )
        seconds = optional(check_delay, operator.defer_after, "defer_after")
        if seconds is None:
            seconds = seconds_before_deferral(typical_seconds_of(operator.tool))
        conn_id = self._hook.magichour_conn_id
        return wait_here(request, conn_id, seconds if operator.deferrable else None, log)

    def _defer(
        self, outcomes: Sequence[Submitted | MagicHourError], wait: WaitEnd, deadline: float
    ) -> NoReturn:
        """Defer until the first pending projects are finished, as many as fit into one trigger."""
        operator = self._operator
        if operator.delete_on_kill:
            triggers.warn_where_unseen(log)
        name = "MagicHourGenerateTrigger" if operator.delete_on_kill else "MagicHourProjectTrigger"
        trigger = getattr(triggers, name)(
            self._kind,
            split_ids(pending(outcomes, wait))[0],
            self._hook.magichour_conn_id,
            deadline,
            optional(check_seconds, operator.poll_interval, "poll_interval"),
            tool=operator.tool,
            missing_ok=True,
        )
        stored = self._stored_results
        left = {
            "outcomes": outcomes_to_json(outcomes),
            "ended": dict(wait.ended),
            "deadline": deadline,
            "keys": {str(n): key for n, key in stored.keys.items()} if stored else {},
            "recorded": self.records.is_persistent,
        }
        defer(operator, trigger, deadline, left, log)

    def _deadline(self) -> float:
        """Return when to stop: ``timeout`` from now, or ``execution_timeout`` from the start of the task."""
        operator = self._operator
        until = schedule.deadline(time.time(), optional(check_seconds, operator.timeout, "timeout"))
        if operator.execution_timeout is None:
            return until
        started = schedule.started_at(self._context)
        return min(until, schedule.worker_deadline(started, None, operator.execution_timeout))

    # ------------------------------------------------------------------------------------------- download

    def _finish(self, outcomes: Sequence[Submitted | MagicHourError], wait_end: WaitEnd) -> Any:
        """Store the files of the complete projects, and return or store the results."""
        operator = self._operator
        ends: dict[int, Any] = {
            n: one if isinstance(one, MagicHourError) else one.result for n, one in enumerate(outcomes)
        }
        to_read = {n: cast("Submitted", one) for n, one in enumerate(outcomes) if ends[n] is None}
        ends |= self._read_projects(to_read, wait_end)
        stats.count_projects(self._kind, [ends[n] for n in to_read], self._operator.tool)
        complete = {n: ends[n] for n in to_read if not isinstance(ends[n], MagicHourError)}
        for n, files in self._download(complete, outcomes).items():
            result = {"project": {**complete[n], "kind": self._kind}, "files": files}
            reused = {"reused": False} if operator.reuse else {}
            ends[n] = files if isinstance(files, MagicHourError) else {**result, **reused}
        in_order = [ends[n] for n in range(len(outcomes))]
        results = [None if isinstance(end, MagicHourError) else end for end in in_order]
        self.files = [file for one in results if one for file in one["files"]]
        self._report_usage(outcomes, in_order, complete)
        are_stored = operator.destination is not None and operator.download_options["receipt"]
        self._recorder.record_ends(outcomes, in_order, are_stored=are_stored)
        if not all(isinstance(one, MagicHourError) for one in outcomes):
            # last: a task that Airflow sees fail or kills, and a person clears, is none that succeeded
            stored = {str(one["project"]["id"]): one for one in results if one}
            self.records.end(succeeded=all(results) and not operator._is_killed(), results=stored)
        self._raise_for_failed(in_order, results)
        return results if is_many(operator.body) else results[0]

    def _read_projects(
        self, submitted: Mapping[int, Submitted], wait: WaitEnd
    ) -> dict[int, dict[str, Any] | MagicHourError]:
        """Return, by position, the complete projects, and the errors of the others."""
        calls = [api.get_project(self._kind, one.id) for one in submitted.values()]
        rate = self._hook.settings.requests_per_second
        time_limit = None if wait.timeout_error is None else LATE_SECONDS + 2 * len(calls) / rate
        responses = self._hook.send_all(calls, time_limit)
        ends: dict[int, dict[str, Any] | MagicHourError] = {}
        for (position, one), response in zip(submitted.items(), responses, strict=True):
            if not isinstance(response, MagicHourNotFoundError):
                ends[position] = _end_of(one, response, wait)
            elif wait.ended.get(one.id) != MISSING:
                ends[position] = MagicHourError(f"{response}. A retry asks again for project {one.id}")
            else:  # 404 was the only response for long enough
                self._mark(one, _clear_or_retry.REPORTED_MISSING, len(submitted))
                ends[position] = not_found(one.id, response)
        return ends

    def _mark(self, one: Submitted, why: str, count: int) -> bool:
        record = one.record or self.records.of_project(one.id, count)
        return record is not None and self.records.mark_reported(record, why)

    def _download(
        self, projects: Mapping[int, Mapping[str, Any]], outcomes: Sequence[Any]
    ) -> dict[int, list[dict[str, Any]] | MagicHourError]:
        operator = self._operator
        if operator.destination is None or not projects:
            return {position: [] for position in projects}
        files = self._hook.download_all(
            self._kind,
            [str(project["id"]) for project in projects.values()],
            operator.destination,
            index=self._index,
            made=[outcomes[n].id for n in projects if outcomes[n].is_new],
            facts=self._recorder.facts(outcomes, are_finished=True),
            downloaded_by=run_of(self._context),
            file_name=operator.file_name,
            open_args=operator.open_args,
            **operator.download_options,
        )
        return dict(zip(projects, files, strict=True))

    # -------------------------------------------------------------------------------------------- storage

    @functools.cached_property
    def _recorder(self) -> TaskRecorder:
        index = None if self._operator.destination is None else self._index
        keys = self._stored_results.keys if self._stored_results else {}
        return TaskRecorder(self._operator, self._context, self._kind, index, keys)

    @property
    def _index(self) -> str:
        operator = self._operator
        return index_root(operator.unrendered["destination"], operator.destination, operator.index)

    @functools.cached_property
    def _root(self) -> Storage | None:
        """The place of the catalogue and the records, None if no files are stored."""
        return None if self._operator.destination is None else open_destination(self._index)

    def _records_root(self) -> Storage | None:
        return self._root if self._operator.durable else None

    @functools.cached_property
    def _stored_results(self) -> StoredResults | None:
        """The results in the destination, None if a later task cannot find any."""
        if self._root is None or not self._operator.download_options["receipt"]:
            return None
        from airflow_provider_magichour.operators._reuse import StoredResults

        destination = open_destination(self._operator.destination)
        tool = (self._operator.tool, self._kind)
        return StoredResults(self._root, destination, tool, lambda: self._hook.account_id)

    def _submit_options(self) -> dict[str, Any]:
        reuse = self._stored_results if self._operator.reuse else None
        return {"reuse": reuse, "before_submit": self._check_destination}

    def _check_destination(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        """Raise an error if the destination cannot be written, unless writing the intent checks that."""
        if self._operator.destination is None:
            return
        from airflow_provider_magichour._transfer.file_names import check_file_name
        from airflow_provider_magichour._transfer.object_sink import check_open_args

        for count in {str(body.get("image_count")) for body in bodies}:
            check_file_name(self._operator.file_name, int(count) if count.isdecimal() else None)
        destination = open_destination(self._operator.destination)
        check_open_args(destination, self._operator.open_args)
        places = {place.url: place for place in (destination, self._root) if place is not None}
        for place in places.values():
            if not self.records.proves_writable(place):
                place.check_writable()

    # ----------------------------------------------------------------------------------------------- kill

    def stop(self) -> None:
        """Submit nothing more; delete what is not complete, if the user requested that."""
        super().stop()
        if self._operator.delete_on_kill and self.project_ids:
            on_a_thread(self._delete_unfinished, DELETE_SECONDS + 1)

    def _delete_unfinished(self) -> None:
        """Delete the unfinished projects. What may be deleted is recorded before the last status check."""
        from airflow_provider_magichour._client.transport import run_async

        ids = list(self.project_ids)

        def record(project_id: str) -> None:
            is_marked = self._mark(Submitted(project_id), _clear_or_retry.KILLED, len(ids))
            if self.records.is_persistent and not is_marked:  # otherwise, a retry would pay for it again
                raise MagicHourSubmitRecordError("that could not be written down before")

        settings = self._hook.settings
        run_async(lambda: triggers.delete_killed(settings, self._kind, ids, log, before_delete=record))


def _end_of(submitted: Submitted, response: Any, wait: WaitEnd) -> dict[str, Any] | MagicHourError:
    if isinstance(response, MagicHourError):
        is_late = submitted.id not in wait.ended and not isinstance(response, AirflowFailException)
        return wait.timeout_error if wait.timeout_error is not None and is_late else response
    if not api.is_finished(response):
        return wait.timeout_error or MagicHourError(
            f"The wait for project {submitted.id} ended, but Magic Hour says that it is not finished; a "
            "retry waits again"
        )
    error = api.task_error(response)
    return {"id": submitted.id, **response} if error is None else error

"""Makes media in one task: submit, wait, download."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, cast

from airflow.providers.common.compat.sdk import conf

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._transfer.locations import check_location, index_root
from airflow_provider_magichour._validation import check_delay, check_seconds, is_many, is_settled, optional
from airflow_provider_magichour.exceptions import MagicHourArgumentError, MagicHourError
from airflow_provider_magichour.operators.base import on_a_thread, run_of
from airflow_provider_magichour.operators.create import MagicHourCreateProjectOperator
from airflow_provider_magichour.tools import defer_after as seconds_before_deferral
from airflow_provider_magichour.tools import tool_kind

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour._transfer.storage import Storage
    from airflow_provider_magichour.operators._outcomes import WaitEnd
    from airflow_provider_magichour.operators._reuse import StoredResults
    from airflow_provider_magichour.operators._submit_records import SubmitRecords, Submitted
    from airflow_provider_magichour.types import KindName, Templated, ToolName

log = logging.getLogger(__name__)

#: The options of a download that no template changes.
_OPTIONS = ("overwrite", "receipt", "max_bytes", "parallel")
#: How long a kill may be held up by the deletions, in seconds.
DELETE_SECONDS = 10.0


class MagicHourGenerateOperator(MagicHourCreateProjectOperator):
    """
    Make media in one task: submit, wait until it is complete, and store its files.

    A deferrable task holds its worker for the submit, the download and ``defer_after`` only. It is paid for
    once: a retry goes on with the same project at whatever stage it is, and makes a new one only where that
    failed, was canceled or deleted. On Airflow before 3.3 this needs a ``destination`` in object storage, or
    the connection's ``submit_records``. See "Paying once" in the documentation.

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
    :param defer_after: seconds, or a ``timedelta``, to wait on the worker before the task defers; 0 defers
        at once. If None, as long as the tool's projects are likely to finish sooner than a deferral takes.
        (templated)
    :param poll_interval: seconds, or a ``timedelta``, between status checks; fitting the tool and the
        project's age if None. (templated)
    :param timeout: seconds, or a ``timedelta``, to wait for the projects, and to try again while Magic Hour
        responds with 429; two hours, and one, if None. ``execution_timeout`` counts where it is shorter.
        (templated)
    :param reuse: whether to return an earlier result for the same tool, body and file contents in the same
        destination instead of paying for it again. Results are stored for that by tasks with ``reuse=True``.
        Each result says so as ``"reused"``.
    :param delete_on_kill: whether to delete the projects that are not complete when the task is killed.
        Airflow cannot tell a person's kill from a worker's shutdown or from ``execution_timeout``, which do
        the same while the task is on a worker. Of a deferred task, from Airflow 3.3 on.
    :param durable: whether to record submits, so that a retry finds them.
    :param retry_uncertain_submit: whether a retry submits anew where nobody knows if an earlier try did;
        this may cost the credits twice.
    :param max_credits: what all bodies of this task instance may cost together. Nothing is submitted while
        the account has less, and no further body once it could be exceeded; a warning is logged above 80 %.
        (templated)
    :param index: the folder of the catalogue and of the submit records; the part of ``destination`` before
        its first template if None. (templated)
    :param overwrite: whether to fetch files that are there already.
    :param receipt: whether to write an entry of what is stored; without one, no clean-up deletes it.
    :param max_bytes: the largest file that is taken, None for any.
    :param parallel: files that are fetched at once.
    :param file_name: the template of the files' names, as of :class:`MagicHourDownloadOperator`. (templated)
    :param open_args: what the object store's fsspec ``open`` takes besides. (templated)
    :param magichour_conn_id: the connection. (templated)
    :return: ``{"project": {...}, "files": [...]}``, for a list of bodies a list of these.
    :raises MagicHourUncertainSubmitError: if nobody knows whether the create call was accepted.
    :raises MagicHourProjectFailedError: if the project failed, and its input is to blame.
    :raises MagicHourRenderError: if the project failed for no fault of its input; a retry submits it anew.
    :raises MagicHourProjectCanceledError: if a person canceled the project.
    :raises MagicHourTimeoutError: if it was not finished in time; a retry goes on waiting for it.
    :raises MagicHourDownloadError: if a file could not be stored whole; a retry does only that.
    """

    template_fields: Sequence[str] = (
        *MagicHourCreateProjectOperator.template_fields,
        "destination",
        "poll_interval",
        "defer_after",
        "index",
        "file_name",
        "open_args",
    )

    _records: SubmitRecords | None = None
    _reuse: StoredResults | None = None
    _files: Sequence[Mapping[str, Any]] = ()

    def __init__(
        self,
        *,
        tool: Templated[ToolName],
        body: Templated[dict[str, Any] | list[dict[str, Any]]],
        kind: Templated[KindName | None] = None,
        destination: Templated[str | None] = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        defer_after: Templated[timedelta | float | str | None] = None,
        poll_interval: Templated[timedelta | float | str | None] = None,
        timeout: Templated[timedelta | float | str | None] = None,
        reuse: bool = False,
        durable: bool = True,
        retry_uncertain_submit: bool = False,
        max_credits: Templated[float | str | None] = None,
        delete_on_kill: bool = False,
        index: Templated[str | None] = None,
        overwrite: bool = False,
        receipt: bool = True,
        max_bytes: int | None = None,
        parallel: int = 4,
        file_name: Templated[str | None] = None,
        open_args: Templated[Mapping[str, Any] | None] = None,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            tool=tool,
            body=body,
            kind=kind,
            timeout=timeout,
            durable=durable,
            retry_uncertain_submit=retry_uncertain_submit,
            max_credits=max_credits,
            magichour_conn_id=magichour_conn_id,
            **kwargs,
        )
        self.destination: Any = destination
        self.deferrable = deferrable
        self.defer_after: Any = defer_after
        self.poll_interval: Any = poll_interval
        self.reuse, self.delete_on_kill = reuse, delete_on_kill
        self.index: Any = index
        self.file_name: Any = file_name
        self.open_args: Any = open_args
        self._unrendered = destination
        self._options: dict[str, Any] = dict(
            zip(_OPTIONS, (overwrite, receipt, max_bytes, parallel), strict=True)
        )
        self._check_arguments()

    def _check_arguments(self) -> None:
        """Check what no template can change any more."""
        for name, check in (("poll_interval", check_seconds), ("defer_after", check_delay)):
            if is_settled(getattr(self, name)):
                optional(check, getattr(self, name), name)
        if is_settled(self.destination) and self.destination is not None:
            check_location(self.destination)
        if self.reuse and self.destination is None:
            raise MagicHourArgumentError("reuse=True needs a destination, where earlier results are")

    # -------------------------------------------------------------------------------------- submit, wait

    def execute(self, context: Context) -> Any:
        """Submit, or go on with what an earlier try submitted; then wait and download."""
        from airflow_provider_magichour._transfer.storage import open_destination
        from airflow_provider_magichour.operators._outcomes import pending

        bodies = self._read_bodies()
        if not bodies:
            return []
        if self.destination is not None:  # where nothing can be stored, nothing is paid for
            open_destination(self.destination).check_writable()
        records = self._records = self._open_records(context, self._records_storage())
        with self._no_retry_without_records(records):
            reuse = self._reuse = self._open_reuse({})
            outcomes = self._submit(context, records, bodies, reuse)
            if reuse is not None:
                reuse.set_keys(bodies, outcomes)
            if all(isinstance(one, MagicHourError) for one in outcomes):
                self._raise_for_failed(context, outcomes, [None] * len(outcomes))
            deadline = self._deadline(context)
            wait = self._wait(outcomes, deadline)
            if self.deferrable and pending(outcomes, wait):
                self._defer(outcomes, wait, deadline)
            return self._finish(context, records, outcomes, wait)

    def _wait(self, outcomes: Sequence[Submitted | MagicHourError], deadline: float) -> WaitEnd:
        """Wait on the worker until all projects are finished; a deferrable task for ``defer_after`` only."""
        from airflow_provider_magichour._polling.wait_request import WaitRequest
        from airflow_provider_magichour.operators._outcomes import WaitEnd, pending, wait_on_worker

        left = pending(outcomes, WaitEnd({}))
        if not left:
            return WaitEnd({})
        kind, now = tool_kind(self.tool, self.kind), time.time()
        interval = optional(check_seconds, self.poll_interval, "poll_interval")
        request = WaitRequest(
            kind, left, deadline, interval, tool=self.tool, submitted_at=now, is_killed=self._is_killed
        )
        seconds = optional(check_delay, self.defer_after, "defer_after")
        if seconds is None:
            seconds = seconds_before_deferral(self.tool)
        return wait_on_worker(request, self.magichour_conn_id, seconds if self.deferrable else None, log)

    def _defer(
        self, outcomes: Sequence[Submitted | MagicHourError], wait: WaitEnd, deadline: float
    ) -> NoReturn:
        """Defer until the first pending projects are finished, as many as one trigger can hold."""
        from airflow_provider_magichour import triggers
        from airflow_provider_magichour._polling import schedule
        from airflow_provider_magichour._polling.deferral import log_deferral, split_ids
        from airflow_provider_magichour.operators._outcomes import carry, pending

        if self.delete_on_kill:
            triggers.warn_where_unseen(log)
        log_deferral(log, deadline)
        name = "MagicHourGenerateTrigger" if self.delete_on_kill else "MagicHourProjectTrigger"
        interval = optional(check_seconds, self.poll_interval, "poll_interval")
        waited_for = split_ids(pending(outcomes, wait))[0]
        kind = tool_kind(self.tool, self.kind)
        self.defer(
            trigger=getattr(triggers, name)(
                kind, waited_for, self.magichour_conn_id, deadline, interval, tool=self.tool, missing_ok=True
            ),
            method_name="execute_complete",
            kwargs={
                "outcomes": carry(outcomes),
                "ended": dict(wait.outcomes),
                "deadline": deadline,
                "keys": {str(position): key for position, key in self._reuse.keys.items()}
                if self._reuse
                else {},
            },
            timeout=schedule.deferral_timeout(deadline),
        )
        raise AssertionError  # defer has raised

    def _deadline(self, context: Mapping[str, Any]) -> float:
        """Return when to stop: after ``timeout`` from now, or ``execution_timeout`` from the task's start."""
        from airflow_provider_magichour._polling import schedule

        until = schedule.deadline(time.time(), optional(check_seconds, self.timeout, "timeout"))
        if self.execution_timeout is None:
            return until
        started = schedule.started_at(context)
        return min(until, schedule.worker_deadline(started, None, self.execution_timeout))

    # ------------------------------------------------------------------------------------------- download

    def execute_complete(
        self,
        context: Context,
        event: Any = None,
        *,
        outcomes: Sequence[Mapping[str, Any]] | None = None,
        ended: Mapping[str, str] | None = None,
        deadline: float | None = None,
        keys: Mapping[str, str] | None = None,
        **of_0_1_0: Any,
    ) -> Any:
        """
        Download what the trigger waited for, raise what it found, or wait for the next projects.

        ``dag.test()`` hands over the event alone; version 0.1.0 deferred with ``submitted`` and ``failed``.
        The other arguments are what :meth:`_defer` has left.
        """
        from airflow_provider_magichour.operators._outcomes import (
            WaitEnd,
            carried,
            carried_by_0_1_0,
            pending,
            read_wait,
        )

        records = self._records = self._open_records(context, self._records_storage())
        self._reuse = self._open_reuse(keys or {})
        with self._no_retry_without_records(records):
            if outcomes is None:
                known = carried_by_0_1_0(event, len(self._read_bodies()), **of_0_1_0)
            else:
                known = carried(outcomes, records, self._reuse)
            self._project_ids += [one.id for one in known if not isinstance(one, MagicHourError)]
            before = WaitEnd(ended or {})
            wait = read_wait(event, tool_kind(self.tool, self.kind), pending(known, before), before)
            if wait.timeout_error is None and deadline is not None and pending(known, wait):
                self._defer(known, wait, deadline)
            return self._finish(context, records, known, wait)

    def _finish(
        self,
        context: Mapping[str, Any],
        records: SubmitRecords,
        outcomes: Sequence[Submitted | MagicHourError],
        wait: WaitEnd,
    ) -> Any:
        """Store the files of the complete projects, and return or leave the results."""
        from airflow_provider_magichour.operators._outcomes import read_projects

        kind = tool_kind(self.tool, self.kind)
        ends: dict[int, Any] = {
            n: one if isinstance(one, MagicHourError) else one.result for n, one in enumerate(outcomes)
        }
        made = {n: cast("Submitted", one) for n, one in enumerate(outcomes) if ends[n] is None}
        ends |= read_projects(self.hook, kind, records, made, wait)
        complete = {n: ends[n] for n in made if not isinstance(ends[n], MagicHourError)}
        for n, files in self._download(context, complete, outcomes).items():
            result = {"project": {**complete[n], "kind": kind}, "files": files}
            reused = {"reused": False} if self.reuse else {}
            ends[n] = files if isinstance(files, MagicHourError) else {**result, **reused}
        results: list[Any] = [
            None if isinstance(ends[n], MagicHourError) else ends[n] for n in range(len(outcomes))
        ]
        self._files = [file for one in results if one for file in one["files"]]
        for n in complete:
            if self._reuse is not None and results[n] is not None:
                self._reuse.store(n, results[n])
        records.end(
            succeeded=all(results), results={str(one["project"]["id"]): one for one in results if one}
        )
        self._raise_for_failed(context, [ends[n] for n in range(len(outcomes))], results)
        return results if is_many(self.body) else results[0]

    def _download(
        self,
        context: Mapping[str, Any],
        projects: Mapping[int, Mapping[str, Any]],
        outcomes: Sequence[Any],
    ) -> dict[int, list[dict[str, Any]] | MagicHourError]:
        if self.destination is None or not projects:
            return {position: [] for position in projects}
        files = self.hook.download_all(
            tool_kind(self.tool, self.kind),
            [str(project["id"]) for project in projects.values()],
            self.destination,
            index=index_root(self._unrendered, self.destination, self.index),
            made=[outcomes[n].id for n in projects if outcomes[n].is_new],
            facts={project["id"]: {"tool": self.tool} for project in projects.values()},
            downloaded_by=run_of(context),
            file_name=self.file_name,
            open_args=self.open_args,
            **self._options,
        )
        return dict(zip(projects, files, strict=True))

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return the stored files as the task's output data sets."""
        from airflow_provider_magichour._transfer.lineage import openlineage_outputs

        return openlineage_outputs(self._files)

    # -------------------------------------------------------------------------------------------- storage

    def _root(self) -> Storage | None:
        """Return where the catalogue and the records lie, None where nothing is stored."""
        from airflow_provider_magichour._transfer.storage import open_destination

        if self.destination is None:
            return None
        return open_destination(index_root(self._unrendered, self.destination, self.index))

    def _records_storage(self) -> Storage | None:
        return super()._records_storage() or (self._root() if self.durable else None)

    def _open_reuse(self, keys: Mapping[str, str]) -> StoredResults | None:
        root = self._root() if self.reuse else None
        if root is None:
            return None
        from airflow_provider_magichour.operators._reuse import StoredResults

        kind = tool_kind(self.tool, self.kind)
        get_project = functools.partial(self.hook.get_project, kind)
        return StoredResults(root, self.destination, (self.tool, kind), get_project, keys)

    # ----------------------------------------------------------------------------------------------- kill

    def on_kill(self) -> None:
        """Submit nothing more; delete what is not complete, if the user asked for that."""
        super().on_kill()
        if not self.delete_on_kill or not self._project_ids:
            return
        from airflow_provider_magichour.operators._outcomes import delete_unfinished

        kind, settings = tool_kind(self.tool, self.kind), self.hook.settings
        delete = functools.partial(delete_unfinished, settings, kind, self._project_ids, self._records)
        on_a_thread(delete, DELETE_SECONDS + 1)

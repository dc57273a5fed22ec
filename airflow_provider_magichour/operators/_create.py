"""One try of a task that submits, for the create and the generate operator."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout, TaskDeferred

from airflow_provider_magichour._polling.schedule import started_at
from airflow_provider_magichour._validation import check_number, check_seconds, is_many, optional
from airflow_provider_magichour._validation.bodies import check_bodies
from airflow_provider_magichour.exceptions import (
    MagicHourError,
    MagicHourProjectFailedError,
    MagicHourRenderError,
    MagicHourUnrecordedSubmitError,
    batch_error,
)
from airflow_provider_magichour.links import push_links
from airflow_provider_magichour.operators._budget import as_credits
from airflow_provider_magichour.operators._catalogue import TaskRecorder
from airflow_provider_magichour.operators._store_access import describe_error
from airflow_provider_magichour.operators._submit import SubmitOptions, Submitter
from airflow_provider_magichour.operators._submit_record import Submitted
from airflow_provider_magichour.operators._submit_records import SubmitRecords
from airflow_provider_magichour.operators.base import describe_outlets, on_a_thread
from airflow_provider_magichour.tools import tool_kind

if TYPE_CHECKING:
    from airflow_provider_magichour._transfer.storage import Storage

log = logging.getLogger(__name__)

#: How long create calls are repeated after a 429, in seconds.
LIMIT_PATIENCE = 3600.0
#: How long a kill waits for the create calls that were already sent, in seconds.
KILL_SECONDS = 5.0
#: Projects that ended in these are refunded.
_REFUNDED = (MagicHourProjectFailedError, MagicHourRenderError)
#: The most files in an asset event.
MAX_FILES_OF_EVENT = 1000


def open_records(operator: Any, context: Mapping[str, Any], root: Storage | None = None) -> SubmitRecords:
    """
    Return a task's submit records: in the connection's ``submit_records``, or else below a root.

    :param root: the place of the records if the connection has none; None if there is no such place.
    """
    from airflow_provider_magichour._transfer.destinations import open_destination

    url = operator.hook.settings.submit_records if operator.durable else None
    storage = open_destination(url, "submit_records") if url else root
    return SubmitRecords.of_task(context, durable=operator.durable, storage=storage)


class CreateTask:
    """One try of a create task."""

    def __init__(self, operator: Any, context: Mapping[str, Any]) -> None:
        self._operator = operator
        self._context = context
        self._hook = operator.hook
        self._kind = tool_kind(operator.tool, operator.kind)
        self._submitter: Submitter | None = None
        #: Each project of this task, as soon as it is known.
        self.project_ids: list[str] = []
        #: Whether a retry finds the records, according to the try before its deferral; None if it is not
        #: known.
        self._was_recorded: bool | None = None

    def run(self) -> Any:
        """Submit, or continue with the projects of an earlier try."""
        bodies = self._read_bodies()
        if not bodies:
            return []
        with self._no_retry_without_records():
            outcomes = self._submit(bodies)
            projects = [
                None
                if isinstance(one, MagicHourError)
                else {
                    "id": one.id,
                    "kind": self._kind,
                    "tool": self._operator.tool,
                    "credits_charged": one.credits_charged,
                }
                for one in outcomes
            ]
            self._report_usage(outcomes, [one or outcomes[n] for n, one in enumerate(projects)])
            TaskRecorder(self._operator, self._context, self._kind).record_submits(outcomes)
            self._raise_for_failed(outcomes, projects)
        if not self._operator._is_killed():  # a Clear of a killed task continues with its projects
            self.records.end(succeeded=True)
        return projects if is_many(self._operator.body) else projects[0]

    def stop(self) -> None:
        """Stop submitting, because the task is killed. Create calls that were already sent are recorded."""
        submitter = self._submitter
        if submitter is not None:
            on_a_thread(lambda: submitter.stop(KILL_SECONDS), KILL_SECONDS + 1)

    # --------------------------------------------------------------------------------------------- submit

    def _read_bodies(self) -> list[dict[str, Any]]:
        """Return the bodies as JSON objects."""
        operator = self._operator
        if is_many(operator.body):
            operator.body = [*operator.body]  # iterating over the XComs of mapped tasks reads them
        bodies = check_bodies(operator.body, encode=False)
        if not bodies:
            log.info("body is an empty list: there is nothing to submit.")
        return bodies

    def _records_root(self) -> Storage | None:
        """Return the place of the submit records if the connection has none."""
        return None

    @cached_property
    def records(self) -> SubmitRecords:
        """The task's submit records."""
        records = open_records(self._operator, self._context, self._records_root())
        if self._operator.durable and not records.is_persistent:
            log.warning(
                "This task cannot record its submits: Airflow keeps task state only from 3.3 on, and the "
                "connection has no folder in submit_records. Therefore an error after a submit is not "
                "retried, and if the worker dies, a retry pays again."
            )
        return records

    def _submit_options(self) -> dict[str, Any]:
        """Return the options of a submit."""
        return {}

    def _submit(self, bodies: Sequence[dict[str, Any]]) -> list[Submitted | MagicHourError]:
        """Submit all bodies; return each one's project or error."""
        operator, ti = self._operator, self._context["ti"]
        options = SubmitOptions(
            retry_uncertain_submit=operator.retry_uncertain_submit,
            max_credits=self._credits("max_credits"),
            keep_credits=self._credits("keep_credits"),
            patience=optional(check_seconds, operator.timeout, "timeout") or LIMIT_PATIENCE,
            project_name=self._project_name(),
            **self._submit_options(),
        )
        records = self.records
        self._submitter = Submitter(
            self._hook, operator.tool, self._kind, records, options, project_ids=self.project_ids
        )
        if operator._is_killed():  # before there was a submitter to stop
            self._submitter.stop(0)
        outcomes = self._submitter.submit(bodies)
        submitted = [one.id for one in outcomes if not isinstance(one, MagicHourError)]
        if submitted:
            push_links(self._context, self._kind, submitted)
            if not is_many(operator.body):
                ti.xcom_push(key="id", value=submitted[0])  # what .output["id"] gives
        return outcomes

    def _credits(self, name: str) -> float | None:
        """Return a limit of credits; a template that rendered to nothing sets none, which is logged."""
        value = getattr(self._operator, name)
        limit = optional(check_number, value, name)
        if value is not None and limit is None:
            log.warning("%s is %r, so there is no such limit.", name, value)
        return limit

    def _project_name(self) -> str | None:
        name, ti = self._operator.project_name, self._context["ti"]
        if not name:
            return None
        for field in ("dag_id", "task_id", "run_id"):
            name = name.replace(f"{{{field}}}", str(getattr(ti, field, "")))
        return f"{name} [{ti.map_index}]" if getattr(ti, "map_index", -1) >= 0 else str(name)

    @contextmanager
    def _no_retry_without_records(self) -> Iterator[None]:
        """Make an error after a submit final if a retry could not find the submit."""
        try:
            with self.records.ending(self._operator._is_killed):
                yield
        except BaseException as error:
            is_final = isinstance(error, AirflowFailException | TaskDeferred)
            uncertain = self._submitter.uncertain if self._submitter else []
            paid = [*self.project_ids, *(f"perhaps {name}" for name in uncertain)]
            if is_final or not paid or self._is_recorded() or not self._is_failure(error):
                raise
            if not isinstance(error, Exception):  # execution_timeout, and on Airflow 2 also SIGTERM
                self._operator.on_kill()  # as Airflow does
            said = str(error) if isinstance(error, MagicHourError) else describe_error(error)
            raise MagicHourUnrecordedSubmitError(
                f"{said}. A retry would submit again and pay again, because "
                f"nothing records the submit, so there is none. Paid for: {', '.join(paid)}. "
                "Wait for them with a MagicHourProjectSensor; to pay again instead, clear the task"
            ) from error

    def _is_failure(self, error: BaseException) -> bool:
        """Return whether Airflow may retry the task after this: on Airflow 2, also after SIGTERM."""
        if isinstance(error, Exception | AirflowTaskTimeout):
            return True
        if type(error).__name__ != "AirflowTaskTerminated":
            return False
        ti = self._context["ti"]
        with suppress(Exception):  # the database may be away
            ti.refresh_from_db()
        return str(getattr(ti, "state", "running")) == "running"  # otherwise a person has set another state

    def _is_recorded(self) -> bool:
        """Return whether a retry finds the submits. The connection may be unreadable for a moment."""
        return self.records.is_persistent if self._was_recorded is None else self._was_recorded

    # ---------------------------------------------------------------------------------------------- result

    def _report_usage(
        self,
        outcomes: Sequence[Submitted | MagicHourError],
        ends: Sequence[Any],
        complete: Iterable[int] = (),
    ) -> None:
        """
        Store the usage of the task in the XCom ``usage`` and in the asset events of its outlets.

        :param outcomes: by position the project, or the error of its submit.
        :param ends: by position, the result of the task for the body, or the error.
        :param complete: the positions of projects that are complete, even if their files could not be stored.
        """
        results = [{} if isinstance(end, MagicHourError) else end for end in ends]
        charges = [
            0
            if isinstance(end, _REFUNDED)
            else result.get("project", result).get("credits_charged", one.credits_charged)
            for one, end, result in zip(outcomes, ends, results, strict=True)
            if isinstance(one, Submitted) and not result.get("reused")
        ]
        with_files = [n for n, one in enumerate(results) if "project" in one and not one.get("reused")]
        files = [file for result in results for file in result.get("files", ())]
        usage = {
            "credits_charged": sum(as_credits(charge) or 0 for charge in charges),
            "projects": len(charges),
            "complete": len({*complete, *with_files}),
            "failed": sum(isinstance(end, MagicHourError) for end in ends),
            "reused": sum(bool(result.get("reused")) for result in results),
            "bytes": sum(file["bytes"] for file in files),
            "seconds": round(time.time() - started_at(self._context), 1),
        }
        self._context["ti"].xcom_push(key="usage", value=usage)
        paths = [file["path"] for file in files[:MAX_FILES_OF_EVENT]]
        describe_outlets(self._operator, self._context, {"files": paths, **usage})

    def _raise_for_failed(self, outcomes: Sequence[Any], results: Sequence[Any]) -> None:
        """
        Raise the errors among the outcomes as one.

        Before that, store the results in the XCom ``results``, because a failed task returns nothing.

        :param results: by position, None if the body failed.
        """
        failed = {f"body[{n}]": one for n, one in enumerate(outcomes) if isinstance(one, MagicHourError)}
        if not failed:
            return
        if is_many(self._operator.body):
            for name, error in failed.items():
                log.error("%s: %s", name, error)
            self._context["ti"].xcom_push(key="results", value=list(results))
        self.records.has_asked = True
        raise batch_error(failed, len(outcomes), " (the XCom 'results' has the results of the others)")

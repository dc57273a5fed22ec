"""Starts projects."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._validation import (
    check_bodies,
    check_number,
    check_seconds,
    is_many,
    is_settled,
    optional,
)
from airflow_provider_magichour.exceptions import (
    MagicHourError,
    MagicHourUnrecordedSubmitError,
    batch_error,
)
from airflow_provider_magichour.links import MagicHourProjectLink
from airflow_provider_magichour.operators.base import MagicHourOperator, on_a_thread
from airflow_provider_magichour.tools import tool_kind

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour._transfer.storage import Storage
    from airflow_provider_magichour.operators._submit import Reuse, Submitter
    from airflow_provider_magichour.operators._submit_records import SubmitRecords, Submitted
    from airflow_provider_magichour.types import KindName, Templated, ToolName

log = logging.getLogger(__name__)

#: How long create calls go on while the response is 429, in seconds.
LIMIT_PATIENCE = 3600.0
#: How long a kill waits for the create calls that are on their way, in seconds.
KILL_SECONDS = 5.0


class MagicHourCreateProjectOperator(MagicHourOperator):
    """
    Start a project, which costs credits, and return its id without waiting for it.

    It is paid for once: a retry goes on with the project that an earlier try made, on Airflow 3.3 and newer,
    or where the connection names a folder for ``submit_records``. See "Paying once" in the documentation for
    what a Clear does.

    :param tool: the path segment of the create call, such as ``text-to-video``. (templated)
    :param body: the create call's JSON object, or a list of them. What is a local path or an object-storage
        URL under ``assets`` is uploaded first. (templated)
    :param kind: ``image``, ``video`` or ``audio``; needed for a tool that this version does not know.
        (templated)
    :param timeout: for how long to try again while Magic Hour responds with 429, in seconds or as a
        ``timedelta``; an hour if None. (templated)
    :param durable: whether to record submits, so that a retry finds them.
    :param retry_uncertain_submit: whether a retry submits anew where nobody knows if an earlier try did;
        this may cost the credits twice.
    :param max_credits: what all bodies of this task instance may cost together. Nothing is submitted while
        the account has less, and no further body once it could be exceeded; a warning is logged above 80 %.
        (templated)
    :param magichour_conn_id: the connection. (templated)
    :return: ``{"id", "kind", "tool", "credits_charged"}``, for a list of bodies a list of these. The id of a
        single body is an XCom of its own too, so that ``create.output["id"]`` feeds the next task.
    :raises MagicHourUncertainSubmitError: if nobody knows whether the create call was accepted.
    :raises MagicHourBudgetError: if ``max_credits`` forbids the submit.
    """

    template_fields: Sequence[str] = (
        *MagicHourOperator.template_fields,
        "tool",
        "body",
        "kind",
        "timeout",
        "max_credits",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"body": "json"}

    def __init__(
        self,
        *,
        tool: Templated[ToolName],
        body: Templated[dict[str, Any] | list[dict[str, Any]]],
        kind: Templated[KindName | None] = None,
        timeout: Templated[timedelta | float | str | None] = None,
        durable: bool = True,
        retry_uncertain_submit: bool = False,
        max_credits: Templated[float | str | None] = None,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(magichour_conn_id=magichour_conn_id, **kwargs)
        self.tool: Any = tool
        self.body: Any = body
        self.kind: Any = kind
        self.timeout: Any = timeout
        self.durable = durable
        self.retry_uncertain_submit = retry_uncertain_submit
        self.max_credits: Any = max_credits
        self._submitter: Submitter | None = None
        #: Each project of this task, as soon as it is known.
        self._project_ids: list[str] = []
        if is_settled(tool) and is_settled(kind):
            tool_kind(tool, kind)
        if is_settled(body):
            check_bodies(body)
        if is_settled(timeout):
            optional(check_seconds, timeout, "timeout")
        if is_settled(max_credits):
            optional(check_number, max_credits, "max_credits")

    def execute(self, context: Context) -> Any:
        """Submit, or go on with what an earlier try submitted."""
        bodies = self._read_bodies()
        if not bodies:
            return []
        kind = tool_kind(self.tool, self.kind)
        records = self._open_records(context, self._records_storage())
        with self._no_retry_without_records(records):
            outcomes = self._submit(context, records, bodies)
            projects = [
                None
                if isinstance(one, MagicHourError)
                else {"id": one.id, "kind": kind, "tool": self.tool, "credits_charged": one.credits_charged}
                for one in outcomes
            ]
            self._raise_for_failed(context, outcomes, projects)
        records.succeed()
        return projects if is_many(self.body) else projects[0]

    def on_kill(self) -> None:
        """Submit nothing more; the create calls that are on their way are written down."""
        super().on_kill()
        submitter = self._submitter
        if submitter is not None:
            on_a_thread(lambda: submitter.stop(KILL_SECONDS), KILL_SECONDS + 1)

    # --------------------------------------------------------------------------------------------- submit

    def _read_bodies(self) -> list[dict[str, Any]]:
        """Return the bodies as JSON objects."""
        if is_many(self.body):
            self.body = [*self.body]  # XComs of mapped tasks are read when they are gone through
        bodies = check_bodies(self.body)
        if not bodies:
            log.info("body is an empty list: there is nothing to submit.")
        return bodies

    def _records_storage(self) -> Storage | None:
        """Return where submits are recorded besides Airflow's task state store."""
        from airflow_provider_magichour._transfer.storage import open_destination

        url = self.hook.settings.submit_records
        return open_destination(url, "submit_records") if url and self.durable else None

    def _open_records(self, context: Mapping[str, Any], storage: Storage | None) -> SubmitRecords:
        from airflow_provider_magichour.operators._submit_records import SubmitRecords

        records = SubmitRecords.of_task(context, durable=self.durable, storage=storage)
        if self.durable and not records.is_persistent:
            log.warning(
                "Nothing outlives this try that could record its submits: Airflow keeps task state from 3.3 "
                "on, and the connection names no folder for submit_records. What fails after a submit is "
                "therefore not retried, and a worker that dies makes a retry pay again."
            )
        return records

    def _submit(
        self,
        context: Mapping[str, Any],
        records: SubmitRecords,
        bodies: Sequence[dict[str, Any]],
        reuse: Reuse | None = None,
    ) -> list[Submitted | MagicHourError]:
        """Submit all bodies; return each one's project or error."""
        from airflow_provider_magichour.operators._submit import Submitter

        kind = tool_kind(self.tool, self.kind)
        self._submitter = Submitter(
            self.hook,
            self.tool,
            kind,
            records,
            retry_uncertain_submit=self.retry_uncertain_submit,
            max_credits=optional(check_number, self.max_credits, "max_credits"),
            patience=optional(check_seconds, self.timeout, "timeout") or LIMIT_PATIENCE,
            reuse=reuse,
            project_ids=self._project_ids,
        )
        outcomes = self._submitter.submit(bodies)
        first = next((one.id for one in outcomes if not isinstance(one, MagicHourError)), None)
        if first:
            MagicHourProjectLink.push(context, kind, first)
            if not is_many(self.body):
                context["ti"].xcom_push(key="id", value=first)  # what .output["id"] gives
        return outcomes

    @contextmanager
    def _no_retry_without_records(self, records: SubmitRecords) -> Iterator[None]:
        """Make what fails after a submit final where a retry could not know of it."""
        try:
            yield
        except (MagicHourError, AirflowTaskTimeout) as error:
            if records.is_persistent or not self._project_ids or isinstance(error, AirflowFailException):
                raise
            if isinstance(error, AirflowTaskTimeout):
                self.on_kill()  # as Airflow does
            raise MagicHourUnrecordedSubmitError(
                f"{str(error) or type(error).__name__}. A retry would submit anew and pay again, because "
                f"nothing records the submit, so there is none. Paid for: {', '.join(self._project_ids)}. "
                "Wait for them with a MagicHourProjectSensor; to pay again instead, clear the task"
            ) from error

    def _raise_for_failed(
        self, context: Mapping[str, Any], outcomes: Sequence[Any], results: Sequence[Any]
    ) -> None:
        """
        Raise the errors among the outcomes as one.

        Before that, leave the results as the XCom ``results``, because a failed task returns none.

        :param results: by position, None where the body failed.
        """
        failed = {f"body[{n}]": one for n, one in enumerate(outcomes) if isinstance(one, MagicHourError)}
        if not failed:
            return
        if is_many(self.body):
            for name, error in failed.items():
                log.error("%s: %s", name, error)
            context["ti"].xcom_push(key="results", value=list(results))
        raise batch_error(failed, len(outcomes), " (the XCom 'results' holds what came of the others)")

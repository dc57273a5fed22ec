"""Starts projects."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._validation import check_bodies, is_many, is_settled
from airflow_provider_magichour.exceptions import (
    MagicHourArgumentError,
    MagicHourBatchError,
    MagicHourBatchFailedError,
    MagicHourError,
)
from airflow_provider_magichour.links import MagicHourProjectLink
from airflow_provider_magichour.operators.base import MagicHourOperator
from airflow_provider_magichour.tools import tool_kind

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour.operators._submit_records import Submit, SubmitRecords
    from airflow_provider_magichour.types import KindName, Templated, ToolName

log = logging.getLogger(__name__)

#: How long a list's create calls go on while 429 says that the plan renders no more at once, in seconds.
LIMIT_PATIENCE = 3600.0


class MagicHourCreateProjectOperator(MagicHourOperator):
    """
    Start a project, which costs credits, and return its id without waiting for it.

    It is paid once: on Airflow 3.3 and newer, a retry goes on with the project that an earlier try made.
    See "Paying once" in the documentation for what a Clear does.

    :param tool: the path segment of the create call, such as ``text-to-video``. (templated)
    :param body: the create call's JSON object, or a list of them. What is a local path or an object-storage
        URL under ``assets`` is uploaded first. (templated)
    :param kind: ``image``, ``video`` or ``audio``; needed for a tool that this version does not know.
        (templated)
    :param durable: whether to remember the submit in Airflow's task state store.
    :param retry_uncertain_submit: whether a retry submits anew where nobody knows if an earlier try did;
        this may cost the credits twice.
    :param max_credits: what all bodies together may cost. Nothing is submitted while the account has less,
        and no further body once it could be exceeded; a warning is logged above 80 %.
    :param magichour_conn_id: the connection. (templated)
    :return: ``{"id", "kind", "tool", "credits_charged"}``, for a list of bodies a list of these. The id of a
        single body is an XCom of its own too, so that ``create.output["id"]`` feeds the next task.
    :raises MagicHourUncertainSubmitError: if nobody knows whether the create call was accepted.
    :raises MagicHourBudgetError: if ``max_credits`` forbids the submit.
    """

    template_fields: Sequence[str] = (*MagicHourOperator.template_fields, "tool", "body", "kind")
    template_fields_renderers: ClassVar[dict[str, str]] = {"body": "json"}

    def __init__(
        self,
        *,
        tool: Templated[ToolName],
        body: Templated[dict[str, Any] | list[dict[str, Any]]],
        kind: Templated[KindName | None] = None,
        durable: bool = True,
        retry_uncertain_submit: bool = False,
        max_credits: float | None = None,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(magichour_conn_id=magichour_conn_id, **kwargs)
        self.tool: Any = tool
        self.body: Any = body
        self.kind: Any = kind
        self.durable = durable
        self.retry_uncertain_submit = retry_uncertain_submit
        self.max_credits = max_credits
        self._finished: set[str] = set()
        if is_settled(tool) and is_settled(kind):
            tool_kind(tool, kind)
        if is_settled(body):
            check_bodies(body)
        if max_credits is not None and (
            isinstance(max_credits, bool) or not isinstance(max_credits, int | float) or not max_credits > 0
        ):
            raise MagicHourArgumentError(
                f"max_credits must be a number of credits above 0, not {max_credits!r}"
            )

    def execute(self, context: Context) -> Any:
        """Submit, or take up what an earlier try submitted."""
        records = self._open_records(context)
        kind = tool_kind(self.tool, self.kind)
        outcomes = self._submit(context, records)
        projects = [
            {
                "id": one.id,
                "kind": kind,
                "tool": self.tool,
                "credits_charged": one.credits_charged,
            }
            for one in outcomes
            if not isinstance(one, MagicHourError)
        ]
        self._raise_for_failed(context, outcomes, projects)
        if not is_many(self.body):
            ti: Any = context.get("ti")
            ti.xcom_push(key="id", value=projects[0]["id"])  # what .output["id"] gives
        records.succeed()
        return projects if is_many(self.body) else projects[0]

    def _open_records(self, context: Mapping[str, Any]) -> SubmitRecords:
        """Return what the task remembers of earlier tries."""
        from airflow_provider_magichour.operators._submit_records import SubmitRecords

        if is_many(self.body):
            self.body = [*self.body]  # XComs of mapped tasks are read when they are gone through
        records = SubmitRecords.of_task(context, durable=self.durable)
        if self.durable and not records.is_persistent:
            log.warning(
                "This Airflow keeps no task state (3.3 and newer do), so a retry of this task would submit "
                "anew and pay again. retries=0 on a MagicHourCreateProjectOperator, with a "
                "MagicHourProjectSensor behind it, avoids that."
            )
        return records

    def _submit(self, context: Mapping[str, Any], records: SubmitRecords) -> list[Submit | MagicHourError]:
        """Submit all bodies; return each one's project or error."""
        from airflow_provider_magichour.operators._submit import Submitter

        bodies = check_bodies(self.body)
        kind = tool_kind(self.tool, self.kind)
        submitter = Submitter(
            self.hook,
            self.tool,
            kind,
            records,
            retry_uncertain_submit=self.retry_uncertain_submit,
            max_credits=self.max_credits,
            patience=self._limit_patience(),
        )
        outcomes = submitter.submit(bodies)
        self._finished = submitter.needs_no_wait
        first = next((one.id for one in outcomes if not isinstance(one, MagicHourError)), None)
        if first:
            MagicHourProjectLink.push(context, kind, first)
        return outcomes

    def _limit_patience(self) -> float:
        return LIMIT_PATIENCE

    def _raise_for_failed(
        self, context: Mapping[str, Any], outcomes: Sequence[Any], results: list[Any]
    ) -> None:
        """
        Raise the errors among the outcomes as one.

        Before that, leave the results of the others as XCom ``results``: a failed task returns none.
        """
        failed = [
            (position, error) for position, error in enumerate(outcomes) if isinstance(error, MagicHourError)
        ]
        if not failed:
            return
        if not is_many(self.body):
            raise failed[0][1]
        for position, error in failed:
            log.error("body[%d]: %s", position, error)
        context["ti"].xcom_push(key="results", value=results)
        raise batch_error(failed, len(outcomes))


def batch_error(failed: Sequence[tuple[int, MagicHourError]], total: int) -> MagicHourError:
    """Return the errors of a list's bodies as one, which a retry may mend where it may mend one of them."""
    said: dict[str, list[str]] = {}
    for position, error in failed:
        said.setdefault(str(error), []).append(f"body[{position}]")
    note = f"{len(failed)} of {total} bodies failed; the XCom 'results' holds what came of the others"
    if len(said) == 1:
        first = failed[0][1]
        first.add_note(f"{note}. Failed: {', '.join(*said.values())}")
        return first
    details = "; ".join(f"{', '.join(names)}: {text}" for text, names in said.items())
    final = all(isinstance(error, AirflowFailException) for _, error in failed)
    return (MagicHourBatchFailedError if final else MagicHourBatchError)(f"{note}: {details}")

"""The create operator."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._validation import check_number, check_seconds, is_settled, optional
from airflow_provider_magichour.links import task_links
from airflow_provider_magichour.operators.base import MagicHourOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour.types import KindName, Templated, ToolName

#: The name of a project whose body has none, so that a person finds it in the library.
PROJECT_NAME = "{dag_id}.{task_id} {run_id}"


class MagicHourCreateProjectOperator(MagicHourOperator):
    """
    Start a project, which costs credits, and return its id without waiting for it.

    You pay once: a retry continues with the project of an earlier try. This needs Airflow 3.3 or newer, or
    ``submit_records`` in the connection. "Paying once" in the documentation says what a Clear does.

    :param tool: the path segment of the create call, such as ``text-to-video``. (templated)
    :param body: the create call's JSON object, or a list of them. Local paths and object-storage URLs under
        ``assets`` are uploaded first. (templated)
    :param kind: ``image``, ``video`` or ``audio``; needed for a tool that this version does not know.
        (templated)
    :param timeout: how long to try again while Magic Hour responds with 429, in seconds or as a
        ``timedelta``; one hour if None. (templated)
    :param durable: whether to record submits, so that a retry finds them.
    :param retry_uncertain_submit: whether a retry submits again if it is unknown whether an earlier try was
        accepted. This may cost the credits twice.
    :param max_credits: the most that all bodies of this task instance may cost together. Nothing is submitted
        if the account has less, or if the next body could exceed it. A warning is logged above 80 %.
        (templated)
    :param keep_credits: the credits that must stay on the account. A body that could leave less is not
        submitted, according to the balance and the charges so far. (templated)
    :param project_name: the name at Magic Hour of a project whose body has none, to find it in the library.
        It may contain ``{dag_id}``, ``{task_id}`` and ``{run_id}``. The map index and the position in a list
        are added. None for Magic Hour's own name. (templated)
    :param catalog: whether to record projects without stored files in the catalogue; see "Catalogue" in the
        documentation.
    :param catalog_prompts: whether the catalogue contains the prompts as well.
    :param magichour_conn_id: the connection. (templated)
    :return: ``{"id", "kind", "tool", "credits_charged"}``; for a list of bodies, a list of these. For one
        body, you can pass ``create.output["id"]`` to the next task.
    :raises MagicHourUncertainSubmitError: if it is unknown whether the create call was accepted.
    :raises MagicHourBudgetError: if ``max_credits`` does not allow the submit.
    """

    operator_extra_links = task_links()  # here, because only a task that pushes these XComs may have them
    template_fields: Sequence[str] = (
        *MagicHourOperator.template_fields,
        "tool",
        "body",
        "kind",
        "timeout",
        "max_credits",
        "keep_credits",
        "project_name",
    )
    #: The current try.
    _task: Any = None
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
        keep_credits: Templated[float | str | None] = None,
        project_name: Templated[str | None] = PROJECT_NAME,
        catalog: bool = True,
        catalog_prompts: bool = False,
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
        self.keep_credits: Any = keep_credits
        self.project_name: Any = project_name
        self.catalog, self.catalog_prompts = catalog, catalog_prompts
        if is_settled(tool) and is_settled(kind):
            from airflow_provider_magichour.tools import tool_kind

            tool_kind(tool, kind)
        if is_settled(body):
            from airflow_provider_magichour._validation.bodies import check_bodies

            check_bodies(body)
        if is_settled(timeout):
            optional(check_seconds, timeout, "timeout")
        for name, value in (("max_credits", max_credits), ("keep_credits", keep_credits)):
            if is_settled(value):
                optional(check_number, value, name)

    def execute(self, context: Context) -> Any:
        """Submit, or continue with the projects of an earlier try."""
        from airflow_provider_magichour.operators._create import CreateTask

        self._task = CreateTask(self, context)
        return self._task.run()

    def on_kill(self) -> None:
        """Stop submitting; create calls that were already sent are recorded."""
        super().on_kill()
        if self._task is not None:
            self._task.stop()

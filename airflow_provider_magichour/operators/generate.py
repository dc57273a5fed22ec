"""Create media in one task: submit, wait, download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._validation import (
    argument_error,
    check_count,
    check_delay,
    check_seconds,
    is_settled,
    optional,
)
from airflow_provider_magichour.operators.create import PROJECT_NAME, MagicHourCreateProjectOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour.operators._generate import GenerateTask
    from airflow_provider_magichour.types import KindName, Templated, ToolName

#: The options of a download that are not templates.
_DOWNLOAD_OPTIONS = ("overwrite", "receipt", "max_bytes", "parallel")


class MagicHourGenerateOperator(MagicHourCreateProjectOperator):
    """
    Create media in one task: submit, wait until the project is complete, and store its files.

    A deferrable task uses its worker only for the submit, for ``defer_after``, and for the download.

    You pay once: a retry continues with the same project, and submits again only if that project failed, was
    canceled or was deleted. On Airflow before 3.3, this needs a ``destination`` in object storage, or
    ``submit_records`` in the connection. See "Paying once" in the documentation.

    If some bodies of a list fail, the others are stored, and their results are in the XCom ``results``. A
    retry or a Clear submits only the bodies that failed.

    :param tool: the path segment of the create call, such as ``text-to-video``. (templated)
    :param body: the create call's JSON object, or a list of them. Local paths and object-storage URLs under
        ``assets`` are uploaded first. (templated)
    :param kind: ``image``, ``video`` or ``audio``; needed for a tool that this version does not know.
        (templated)
    :param destination: a folder on local disk, or a URL for ObjectStoragePath. The files are stored as
        ``{destination}/{project_id}/{file name}``. If None, no files are stored. (templated)
    :param deferrable: whether a trigger waits, so that the task uses no worker.
    :param defer_after: seconds, or a ``timedelta``, to wait on the worker before the task defers; 0 defers
        at once. If None, the task first waits on the worker if its projects are likely to finish sooner than
        a deferral takes. (templated)
    :param poll_interval: seconds, or a ``timedelta``, between status checks. If None, the interval depends on
        the tool and the age of the project. (templated)
    :param timeout: seconds, or a ``timedelta``, to wait for the projects, and to try again while Magic Hour
        responds with 429. If None: two hours for the wait, one hour for 429. ``execution_timeout`` applies if
        it is shorter. (templated)
    :param reuse: whether to return an earlier result instead of paying again. It must have the same tool,
        body, file contents and destination, and come from a generate task with ``receipt=True``. The results
        then have the key ``"reused"``.
    :param delete_on_kill: whether to delete the projects that are not complete if the task is killed. While
        the task is on a worker, a shutdown of the worker and ``execution_timeout`` count as a kill, because
        Airflow does not distinguish them. A deferred task counts as killed, on Airflow 3.3 or newer, if a
        person marks it, or ``dagrun_timeout`` or ``fail_fast`` ends it.
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
    :param index: the folder of the catalogue and of the submit records. If None, it is the part of
        ``destination`` before its first template. (templated)
    :param overwrite: whether to download files again that are already stored.
    :param receipt: whether to write an entry for the stored files. Without one, no clean-up deletes the
        project.
    :param max_bytes: the largest allowed file; None for no limit.
    :param parallel: how many files are downloaded at once.
    :param file_name: the template of the file names, as in :class:`MagicHourDownloadOperator`. (templated)
    :param open_args: further arguments for the object store's fsspec ``open``. (templated)
    :param catalog: whether to record projects without stored files in the catalogue; see "Catalogue" in the
        documentation.
    :param catalog_prompts: whether the catalogue contains the prompts as well.
    :param magichour_conn_id: the connection. (templated)
    :return: ``{"project": {...}, "files": [...]}``; for a list of bodies, a list of these.
    :raises MagicHourUncertainSubmitError: if it is unknown whether the create call was accepted.
    :raises MagicHourProjectFailedError: if the project failed because of its input.
    :raises MagicHourRenderError: if the project failed, but not because of its input; a retry submits again.
    :raises MagicHourProjectCanceledError: if a person canceled the project.
    :raises MagicHourTimeoutError: if it was not finished in time; a retry continues to wait.
    :raises MagicHourDownloadError: if a file could not be stored completely; a retry only downloads.
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

    destination: Any
    defer_after: Any
    poll_interval: Any
    index: Any
    file_name: Any
    open_args: Any

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
        keep_credits: Templated[float | str | None] = None,
        project_name: Templated[str | None] = PROJECT_NAME,
        catalog: bool = True,
        catalog_prompts: bool = False,
        delete_on_kill: bool = False,
        index: Templated[str | None] = None,
        overwrite: bool = False,
        receipt: bool = True,
        max_bytes: int | None = None,
        parallel: int = 8,
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
            keep_credits=keep_credits,
            project_name=project_name,
            magichour_conn_id=magichour_conn_id,
            **kwargs,
        )
        self.reuse, self.catalog, self.catalog_prompts = reuse, catalog, catalog_prompts
        self.destination, self.index, self.poll_interval = destination, index, poll_interval
        self.unrendered = {"destination": destination, "index": index}
        self.deferrable, self.delete_on_kill, self.defer_after = deferrable, delete_on_kill, defer_after
        self.file_name, self.open_args, more = file_name, open_args, (overwrite, receipt, max_bytes, parallel)
        self.download_options = dict(zip(_DOWNLOAD_OPTIONS, more, strict=True))
        self._check_arguments()

    def _check_arguments(self) -> None:
        """Check the arguments that contain no template."""
        for name, check in (("poll_interval", check_seconds), ("defer_after", check_delay)):
            if is_settled(getattr(self, name)):
                optional(check, getattr(self, name), name)
        if (max_bytes := self.download_options["max_bytes"]) is not None:
            check_count(max_bytes, "max_bytes")
        check_count(self.download_options["parallel"], "parallel")
        if is_settled(self.destination) and self.destination is not None:
            from airflow_provider_magichour._transfer.locations import check_location

            check_location(self.destination)
        if self.reuse and (self.destination is None or not self.download_options["receipt"]):
            raise argument_error("reuse=True needs a destination and receipt=True")

    def execute(self, context: Context) -> Any:
        """Submit, or continue with the projects of an earlier try; then wait and download."""
        return self._start(context).run()

    def execute_complete(self, context: Context, event: Any = None, **carried: Any) -> Any:
        """Download the finished projects, raise the trigger's error, or wait for the next projects."""
        return self._start(context).resume(event, **carried)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Check once more if the deferral failed: no triggerer ended it in time, or its trigger failed."""
        from airflow_provider_magichour._polling.deferral import FAILED_DEFERRAL

        if next_method != FAILED_DEFERRAL:
            return super().resume_execution(next_method, next_kwargs, context)
        self.log.warning("Airflow ended the deferral itself: %s", (next_kwargs or {}).get("error"))
        return self._start(context).check_last()

    def _start(self, context: Context) -> GenerateTask:
        from airflow_provider_magichour.operators._generate import GenerateTask

        self.check_places()
        self._task = task = GenerateTask(self, context)
        return task

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return the stored files as the task's output data sets."""
        from airflow_provider_magichour._transfer.lineage import openlineage_outputs

        return openlineage_outputs(self._task.files if self._task else ())

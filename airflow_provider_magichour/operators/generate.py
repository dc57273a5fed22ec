"""Makes media in one task: submit, wait, download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._transfer.locations import check_location
from airflow_provider_magichour._validation import check_delay, check_seconds, is_settled, optional
from airflow_provider_magichour.exceptions import MagicHourArgumentError
from airflow_provider_magichour.operators.create import PROJECT_NAME, MagicHourCreateProjectOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour.operators._generate import GenerateTask
    from airflow_provider_magichour.types import KindName, Templated, ToolName

#: The options of a download that no template changes.
_DOWNLOAD_OPTIONS = ("overwrite", "receipt", "max_bytes", "parallel")


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
        responds with 429. If None: two hours for the wait, one hour for 429. ``execution_timeout`` counts
        where it is shorter.
        (templated)
    :param reuse: whether to return an earlier result for the same tool, body and file contents in the same
        destination instead of paying for it again: of any generate task with ``receipt=True``. Each result
        says so as ``"reused"``.
    :param delete_on_kill: whether to delete the projects that are not complete when the task is killed.
        Airflow cannot tell a person's kill from a worker's shutdown or from ``execution_timeout``, which do
        the same while the task is on a worker. Of a deferred task, from Airflow 3.3 on.
    :param durable: whether to record submits, so that a retry finds them.
    :param retry_uncertain_submit: whether a retry submits anew where nobody knows if an earlier try did;
        this may cost the credits twice.
    :param max_credits: what all bodies of this task instance may cost together. Nothing is submitted while
        the account has less, and no further body once it could be exceeded; a warning is logged above 80 %.
        (templated)
    :param keep_credits: what has to stay on the account: no body is submitted that could leave less, as far
        as the balance and the charges so far tell. (templated)
    :param project_name: the name at Magic Hour of a project whose body has none, by which a person finds it
        in the library; it may hold ``{dag_id}``, ``{task_id}`` and ``{run_id}``, and the map index and the
        position in a list are added. None for Magic Hour's own. (templated)
    :param index: the folder of the catalogue and of the submit records; the part of ``destination`` before
        its first template if None. (templated)
    :param overwrite: whether to fetch files that are there already.
    :param receipt: whether to write an entry of what is stored; without one, no clean-up deletes it.
    :param max_bytes: the largest file that is taken, None for any.
    :param parallel: files that are fetched at once.
    :param file_name: the template of the files' names, as of :class:`MagicHourDownloadOperator`. (templated)
    :param open_args: what the object store's fsspec ``open`` takes besides. (templated)
    :param catalog: whether to record in the catalogue what is not stored: see "Catalogue" in the
        documentation.
    :param catalog_prompts: whether the catalogue has the prompts, too.
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
            keep_credits=keep_credits,
            project_name=project_name,
            magichour_conn_id=magichour_conn_id,
            **kwargs,
        )
        self.reuse, self.catalog, self.catalog_prompts = reuse, catalog, catalog_prompts
        self.destination = self.unrendered_destination = destination
        self.deferrable, self.delete_on_kill, self.defer_after = deferrable, delete_on_kill, defer_after
        self.poll_interval, self.index, self.file_name = poll_interval, index, file_name
        self.open_args, given = open_args, (overwrite, receipt, max_bytes, parallel)
        self.download_options = dict(zip(_DOWNLOAD_OPTIONS, given, strict=True))
        self._check_arguments()

    def _check_arguments(self) -> None:
        """Check what no template can change any more."""
        for name, check in (("poll_interval", check_seconds), ("defer_after", check_delay)):
            if is_settled(getattr(self, name)):
                optional(check, getattr(self, name), name)
        if is_settled(self.destination) and self.destination is not None:
            check_location(self.destination)
        if self.reuse and (self.destination is None or not self.download_options["receipt"]):
            raise MagicHourArgumentError("reuse=True needs a destination and receipt=True")

    def execute(self, context: Context) -> Any:
        """Submit, or go on with what an earlier try submitted; then wait and download."""
        return self._start(context).run()

    def execute_complete(self, context: Context, event: Any = None, **carried: Any) -> Any:
        """Download what the trigger waited for, raise what it found, or wait for the next projects."""
        return self._start(context).resume(event, **carried)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Check once more where the deferral failed: no triggerer ended it in time, or its trigger broke."""
        from airflow_provider_magichour._polling.airflow import FAILED_DEFERRAL

        if next_method != FAILED_DEFERRAL:
            return super().resume_execution(next_method, next_kwargs, context)
        self.log.warning("Airflow ended the deferral itself: %s", (next_kwargs or {}).get("error"))
        return self._start(context).check_last()

    def _start(self, context: Context) -> GenerateTask:
        from airflow_provider_magichour.operators._generate import GenerateTask

        self._task = task = GenerateTask(self, context)
        return task

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return the stored files as the task's output data sets."""
        from airflow_provider_magichour._transfer.lineage import openlineage_outputs

        return openlineage_outputs(self._task.files if self._task else ())

"""The download operator."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._transfer.locations import check_location, index_root
from airflow_provider_magichour._validation import check_count, is_settled
from airflow_provider_magichour._validation.at_parse import check_projects_at_parse
from airflow_provider_magichour.operators.base import MagicHourOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour.types import KindName, ProjectRef, Templated

log = logging.getLogger(__name__)


class MagicHourDownloadOperator(MagicHourOperator):
    """
    Store the files of complete projects as ``{destination}/{project_id}/{file name}``, verified.

    Returns ``path``, ``bytes``, ``sha256`` and ``content_type`` of each file; for a list of projects, one
    such list for each, in the same order. Complete files are not downloaded again. Each project gets an entry
    in the catalogue, which :class:`MagicHourCleanupOperator` uses to delete the project at Magic Hour later.

    :param project_id: the project, or a list of them: an id, or what a task before it returned. (templated)
    :param kind: ``image``, ``video`` or ``audio``; may be None if ``project_id`` says it. (templated)
    :param destination: a folder on local disk, or a URL for ObjectStoragePath, such as
        ``s3://aws_default@bucket/media``. (templated)
    :param overwrite: whether to download complete files again.
    :param index: the folder of the catalogue. If None, it is the part of ``destination`` before its first
        template. (templated)
    :param receipt: whether to write an entry for the stored files. Without one, no clean-up deletes the
        project.
    :param file_name: the template of the file names, such as ``"{project_id}-{index}{ext}"``. It may contain
        ``{index}`` (from 1), ``{ext}``, ``{stem}``, ``{project_id}``, ``{name}``, ``{tool}`` and ``{kind}``.
        None for Magic Hour's own names. (templated)
    :param open_args: further arguments for the object store's fsspec ``open``; for S3 the arguments of
        PutObject, such as ``{"ServerSideEncryption": "aws:kms", "StorageClass": "STANDARD_IA"}``. (templated)
    :param max_bytes: the largest allowed file; None for no limit.
    :param parallel: how many files are downloaded at once.
    :param magichour_conn_id: the connection. (templated)
    :raises MagicHourDownloadError: if a file could not be downloaded or stored completely. For a list, all
        projects are tried first.
    """

    template_fields: Sequence[str] = (
        "project_id",
        "kind",
        "destination",
        "index",
        "file_name",
        "open_args",
        *MagicHourOperator.template_fields,
    )

    def __init__(
        self,
        *,
        project_id: Templated[ProjectRef | Sequence[ProjectRef]],
        kind: Templated[KindName | None] = None,
        destination: Templated[str],
        overwrite: bool = False,
        index: Templated[str | None] = None,
        receipt: bool = True,
        file_name: Templated[str | None] = None,
        open_args: Templated[Mapping[str, Any] | None] = None,
        max_bytes: int | None = None,
        parallel: int = 8,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(magichour_conn_id=magichour_conn_id, **kwargs)
        self.project_id: Any = project_id
        self.kind: Any = kind
        self.destination: Any = destination
        self.overwrite = overwrite
        self.index: Any = index
        self.unrendered = {"destination": destination, "index": index}
        self.receipt = receipt
        self.file_name: Any = file_name
        self.open_args: Any = open_args
        self.max_bytes = max_bytes
        self.parallel = parallel
        check_projects_at_parse(project_id, kind)
        if is_settled(destination):
            check_location(destination)
        if max_bytes is not None:
            check_count(max_bytes, "max_bytes")
        check_count(parallel, "parallel")
        self._files: list[dict[str, Any]] = []

    def execute(self, context: Context) -> Any:
        """Store the files."""
        from airflow_provider_magichour._transfer.receipts import run_of
        from airflow_provider_magichour._validation.projects import read_projects
        from airflow_provider_magichour.links import push_media_link

        self.check_places()
        projects = read_projects(self.project_id, self.kind)
        destination = check_location(self.destination)
        if not projects.ids:
            log.info("project_id is an empty list: nothing to download")
            return []
        push_media_link(context, projects.ids)
        index = index_root(self.unrendered["destination"], destination, self.index) if self.receipt else None
        stored: list[Any] = self.hook.download_project(
            projects.kind,
            projects.ids,
            destination,
            self.overwrite,
            index=index,
            receipt=self.receipt,
            file_name=self.file_name,
            open_args=self.open_args,
            downloaded_by=run_of(context),
            max_bytes=self.max_bytes,
            parallel=self.parallel,
        )
        self._files = [file for files in stored for file in files]
        return stored if projects.is_list else stored[0]

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return the stored files as the task's output data sets."""
        from airflow_provider_magichour._transfer.lineage import openlineage_outputs

        return openlineage_outputs(self._files)

"""Stores the files of complete projects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._transfer.locations import check_location
from airflow_provider_magichour._validation import check_count, is_settled
from airflow_provider_magichour.operators.base import MagicHourOperator, run_of
from airflow_provider_magichour.tools import check_kind

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour.types import KindName, Templated


class MagicHourDownloadOperator(MagicHourOperator):
    """
    Store the files of complete projects as ``{destination}/{project_id}/{file name}``, verified.

    Returns ``path``, ``bytes``, ``sha256`` and ``content_type`` of each file; for a list of projects, one
    such list for each, in order. What is there and whole is not fetched again. Each project leaves a receipt
    beside its files, by which :class:`MagicHourCleanupOperator` can delete it at Magic Hour later.

    :param project_id: the project, or a list of them. (templated)
    :param kind: ``image``, ``video`` or ``audio``. (templated)
    :param destination: a folder on local disk, or what ObjectStoragePath takes, such as
        ``s3://aws_default@bucket/media``. (templated)
    :param overwrite: whether to fetch what is there and whole already.
    :param max_bytes: the largest file that is taken, None for any.
    :param parallel: files that are fetched at once.
    :param magichour_conn_id: the connection. (templated)
    :raises MagicHourDownloadError: if a file could not be fetched or stored whole. Of a list, all projects
        are tried first.
    """

    template_fields: Sequence[str] = (
        "project_id",
        "kind",
        "destination",
        *MagicHourOperator.template_fields,
    )

    def __init__(
        self,
        *,
        project_id: Templated[str | list[str]],
        kind: Templated[KindName],
        destination: Templated[str],
        overwrite: bool = False,
        max_bytes: int | None = None,
        parallel: int = 4,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(magichour_conn_id=magichour_conn_id, **kwargs)
        self.project_id: Any = project_id
        self.kind: Any = kind
        self.destination: Any = destination
        self.overwrite = overwrite
        self.max_bytes = max_bytes
        self.parallel = parallel
        if is_settled(kind):
            check_kind(kind)
        if is_settled(destination):
            check_location(destination)
        if max_bytes is not None:
            check_count(max_bytes, "max_bytes")
        check_count(parallel, "parallel")
        self._files: list[dict[str, Any]] = []

    def execute(self, context: Context) -> Any:
        """Store the files."""
        stored = self.hook.download_project(
            self.kind,
            self.project_id,
            self.destination,
            self.overwrite,
            downloaded_by=run_of(context),
            max_bytes=self.max_bytes,
            parallel=self.parallel,
        )
        self._files = [file for one in stored for file in (one if isinstance(one, list) else [one])]
        return stored

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return the stored files as the task's output data sets."""
        from airflow_provider_magichour._transfer.lineage import openlineage_outputs

        return openlineage_outputs(self._files)

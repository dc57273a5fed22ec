"""Downloads and uploads of the hook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from airflow_provider_magichour._transfer.catalogue import Catalogue
from airflow_provider_magichour._transfer.lineage import record_outputs
from airflow_provider_magichour._validation import check_count
from airflow_provider_magichour._validation.projects import check_id, check_ids, read_projects
from airflow_provider_magichour.exceptions import MagicHourArgumentError, MagicHourError
from airflow_provider_magichour.hooks.base import MagicHourBaseHook, all_or_error
from airflow_provider_magichour.tools import check_kind

if TYPE_CHECKING:
    from airflow_provider_magichour._transfer.recorder import Recorder
    from airflow_provider_magichour._transfer.upload import Source
    from airflow_provider_magichour.types import KindName, ProjectRef


class MagicHourFilesHook(MagicHourBaseHook):
    """
    Store the files of projects, and upload files for projects.

    :param magichour_conn_id: the connection.
    """

    if TYPE_CHECKING:

        def get_project(self, kind: Any, project_id: Any) -> Any:
            """Return a project's details."""

    @overload
    def download_project(
        self,
        kind: KindName | None,
        project_id: ProjectRef,
        destination: str,
        overwrite: bool = False,
        **options: Any,
    ) -> list[dict[str, Any]]: ...
    @overload
    def download_project(
        self,
        kind: KindName | None,
        project_id: list[Any],
        destination: str,
        overwrite: bool = False,
        **options: Any,
    ) -> list[list[dict[str, Any]]]: ...
    def download_project(
        self,
        kind: KindName | None,
        project_id: Any,
        destination: str,
        overwrite: bool = False,
        **options: Any,
    ) -> Any:
        """
        Store a complete project's files as ``{destination}/{project_id}/{file name}``, verified.

        For a list of projects, all are tried before an error is raised.

        :param kind: ``image``, ``video`` or ``audio``; may be None if ``project_id`` says it.
        :param project_id: the project, or a list of them.
        :param destination: a folder on local disk, or a URL for ObjectStoragePath.
        :param overwrite: whether to download complete files again.
        :param options: the further arguments of :meth:`download_all`.
        :return: ``path``, ``bytes``, ``sha256`` and ``content_type`` of each file; for a list of projects,
            one such list for each, in the same order.
        :raises MagicHourDownloadError: if a file could not be downloaded or stored completely.
        """
        projects = read_projects(project_id, kind)
        files = self.download_all(projects.kind, projects.ids, destination, overwrite, **options)
        return all_or_error(projects.ids, files, projects.is_list)

    def download_all(
        self,
        kind: str,
        project_ids: Sequence[str],
        destination: str,
        overwrite: bool = False,
        *,
        index: str | None = None,
        receipt: bool = True,
        made: Iterable[str] = (),
        facts: Mapping[str, Mapping[str, Any]] | None = None,
        downloaded_by: Mapping[str, Any] | None = None,
        max_bytes: int | None = None,
        parallel: int = 8,
        file_name: str | None = None,
        open_args: Mapping[str, Any] | None = None,
    ) -> list[list[dict[str, Any]] | MagicHourError]:
        """
        Store the files of projects, as :meth:`download_project` does; a failure does not stop the others.

        ``overwrite``, ``receipt``, ``max_bytes``, ``parallel``, ``file_name`` and ``open_args`` are those of
        :class:`~airflow_provider_magichour.operators.MagicHourDownloadOperator`.

        :param index: the folder of the catalogue; None for the destination. Use the same in each run.
        :param made: projects that this try of the task has created, so that they cannot be stored already.
        :param facts: by project, further facts to record: ``tool``, ``finished_at``, ``body_fingerprint``.
        :param downloaded_by: the Airflow task to record: ``dag_id``, ``run_id`` and so on.
        :return: in the same order, the files of each project, or the :class:`MagicHourError`.
        """
        from airflow_provider_magichour._transfer.download import Downloads
        from airflow_provider_magichour._transfer.file_names import check_file_name
        from airflow_provider_magichour._transfer.receipts import Writer

        ids = check_ids(project_ids, "project_ids")
        results = Downloads(
            catalogue=Catalogue.open(destination, index=index),
            writer=Writer(self.magichour_conn_id, lambda: self.account_id, downloaded_by, facts or {}),
            settings=self.settings,
            get_project=lambda project_id: self.get_project(kind, project_id),
            kind=check_kind(kind),
            write_receipts=receipt,
            made=frozenset(made),
            overwrite=overwrite,
            max_bytes=check_count(max_bytes, "max_bytes") if max_bytes is not None else None,
            parallel=check_count(parallel, "parallel"),
            file_name=check_file_name(file_name),
            open_args=open_args or {},
        ).run(ids)
        record_outputs(self, [file for files in results if isinstance(files, list) for file in files])
        return results

    def record_ends(
        self,
        kind: str,
        projects: Mapping[str, Mapping[str, Any]] | Sequence[str],
        *,
        index: str | None = None,
        facts: Mapping[str, Mapping[str, Any]] | None = None,
        recorded_by: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Write catalogue entries for projects without stored files. This never fails a task.

        Finished projects get an entry, others the event ``timed_out``. Without a folder for the catalogue,
        nothing is read and nothing is written.

        :param projects: by id, the API's response for each; or the ids, which are then read from Magic Hour.
        :param index: the folder of the catalogue; None for the connection's ``catalog``.
        :param facts: as in :meth:`download_all`.
        :param recorded_by: the Airflow task.
        """
        from airflow_provider_magichour._client import api

        recorder = self.open_recorder(kind, index, facts, recorded_by) if projects else None
        if recorder is None:
            return
        if not isinstance(projects, Mapping):
            ids = list(dict.fromkeys(projects))
            responses = self.send_all([api.get_project(kind, one) for one in ids])
            projects = dict(zip(ids, responses, strict=True))
        recorder.add_ends(projects)

    def open_recorder(
        self,
        kind: str,
        index: str | None = None,
        facts: Mapping[str, Mapping[str, Any]] | None = None,
        recorded_by: Mapping[str, Any] | None = None,
    ) -> Recorder | None:
        """Return the recorder for :meth:`record_ends`; None without a folder for the catalogue."""
        if (place := index or self.settings.catalog) is None:
            return None
        from airflow_provider_magichour._transfer.receipts import Writer
        from airflow_provider_magichour._transfer.recorder import Recorder

        writer = Writer(self.magichour_conn_id, lambda: self.account_id, recorded_by, facts or {})
        return Recorder(place, check_kind(kind), writer)

    def acknowledge_moved(
        self,
        destination: str,
        project_id: str,
        moved_to: Mapping[str, str],
        *,
        index: str | None = None,
    ) -> None:
        """
        Record that downloaded files were moved on purpose, so that a clean-up does not search for them.

        :param destination: the destination of the download.
        :param project_id: the project of the files.
        :param moved_to: by file name, the new place of each file; only for people to read.
        :param index: the folder of the catalogue; None for the destination.
        :raises MagicHourArgumentError: if the project has no receipt there, or the receipt has no such file.
        """
        from airflow_provider_magichour._transfer.receipts import ReceiptError

        try:
            Catalogue.open(destination, index=index).add_moved(check_id(project_id), moved_to)
        except ReceiptError as error:
            raise MagicHourArgumentError(f"moved_to of project {project_id}: {error}") from error

    @overload
    def upload_file(self, path: Source) -> str: ...
    @overload
    def upload_file(self, path: list[Source]) -> list[str]: ...
    def upload_file(self, path: Any) -> Any:
        """
        Upload a file and return its path for create calls: ``api-assets/...``.

        :param path: a local path, an object-storage URL such as ``s3://bucket/face.png``, a path object or
            an open binary file that has a name; or a list of them, which are uploaded in parallel. Sources
            that Magic Hour can read itself (``https://...``, ``api-assets/...``) are returned unchanged.
        :raises MagicHourArgumentError: if there is no such file, or it is empty or of an unknown type.
        :raises MagicHourUploadError: if it could not be uploaded; a later try may succeed.
        """
        from airflow_provider_magichour._transfer.upload import upload_all

        is_list = isinstance(path, list | tuple)
        sources = list(path) if is_list else [path]
        results = upload_all(self.settings, [(source, "") for source in sources])
        return all_or_error([str(source) for source in sources], results, is_list)

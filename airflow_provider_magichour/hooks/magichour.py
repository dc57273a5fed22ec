"""A verb for each thing that the API of Magic Hour can do."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast, overload

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour._client import api
from airflow_provider_magichour._client.api import raise_project_errors
from airflow_provider_magichour._transfer.lineage import record_outputs
from airflow_provider_magichour._validation import (
    check_count,
    check_id,
    check_ids,
    check_seconds,
    is_many,
    optional,
    read_projects,
)
from airflow_provider_magichour.exceptions import (
    MagicHourArgumentError,
    MagicHourBatchFailedError,
    MagicHourError,
    MagicHourNotFoundError,
    MagicHourWrongKindError,
    batch_error,
)
from airflow_provider_magichour.hooks.base import MagicHourBaseHook
from airflow_provider_magichour.hooks.connection import get_settings, get_settings_async
from airflow_provider_magichour.tools import check_kind

if TYPE_CHECKING:
    from airflow_provider_magichour._transfer.upload import Source
    from airflow_provider_magichour.types import KindName, Project, ProjectRef


class MagicHourHook(MagicHourBaseHook):
    """
    Talk to Magic Hour over an Airflow connection.

    The connection's password is the API key; its host, scheme and port are the base URL, empty for
    ``https://api.magichour.ai``. Its extra may hold ``timeout`` (seconds for one try), ``max_attempts``,
    ``requests_per_second``, ``max_connections``, ``webhook_secret``, ``allow_private_hosts`` and
    ``submit_records``.

    :param magichour_conn_id: the connection.
    """

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Describe the connection form for Airflow 2.11 to 3.1; newer ones read the provider's metadata."""
        # Here, and not in the base class, because they look for it in this very class.
        from airflow_provider_magichour import get_provider_info

        behaviour = get_provider_info()["connection-types"][0]["ui-field-behaviour"]
        return {
            "hidden_fields": behaviour["hidden-fields"],
            "relabeling": behaviour["relabeling"],
            "placeholders": behaviour["placeholders"],
        }

    @overload
    def create_project(self, tool: str, body: dict[str, Any], kind: str | None = None) -> dict[str, Any]: ...
    @overload
    def create_project(
        self, tool: str, body: list[dict[str, Any]], kind: str | None = None
    ) -> list[dict[str, Any]]: ...
    def create_project(self, tool: str, body: Any, kind: str | None = None) -> Any:
        """
        Start a project, which costs credits; a list of bodies starts one for each, one after the other.

        :param tool: the path segment of the create call, such as ``text-to-video``.
        :param body: the create call's JSON object, or a list of them.
        :param kind: the kind of project, needed for a tool that this version does not know.
        :return: ``id`` and ``credits_charged``, an estimate.
        :raises MagicHourUncertainSubmitError: if nobody knows whether the call was accepted; it is not
            sent again. Of a list, the error's notes name the projects that were started before it.
        """
        if not is_many(body):
            return self._send(api.create_project(tool, body, kind))
        calls = [
            api.create_project(tool, one, kind, f"body[{position}]") for position, one in enumerate(body)
        ]
        created: list[dict[str, Any]] = []
        for call in calls:
            try:
                created.append(self._send(call))
            except MagicHourError as error:
                if not created:
                    raise
                started = f"started before this: {', '.join(one['id'] for one in created)}"
                if isinstance(error, AirflowFailException):
                    error.add_note(started)
                    raise
                # A retry would begin anew, and pay for those again.
                raise MagicHourBatchFailedError(
                    f"{error}. It is final because of what was {started}"
                ) from error
        return created

    @overload
    def get_project(self, kind: KindName | None, project_id: ProjectRef) -> Project: ...
    @overload
    def get_project(self, kind: KindName | None, project_id: list[Any]) -> list[Project]: ...
    def get_project(self, kind: KindName | None, project_id: Any) -> Any:
        """
        Return a project's details, with fresh download URLs where it is complete.

        :param kind: ``image``, ``video`` or ``audio``; None where ``project_id`` names it.
        :param project_id: the project: its id, or what a task returned about it; or a list of them, which are
            asked for side by side.
        :raises MagicHourNotFoundError: if there is no such project of this kind; it says so where it is of
            another kind.
        """
        projects = read_projects(project_id, kind)
        results = self._send_for_each(api.get_project, projects)
        return _all_or_error(projects.ids, results, projects.is_list)

    @overload
    def wait_for_project(
        self,
        kind: KindName | None,
        project_id: ProjectRef,
        timeout: float | timedelta,
        poll_interval: float | timedelta | None = None,
    ) -> Project: ...
    @overload
    def wait_for_project(
        self,
        kind: KindName | None,
        project_id: list[Any],
        timeout: float | timedelta,
        poll_interval: float | timedelta | None = None,
    ) -> list[Project]: ...
    def wait_for_project(
        self,
        kind: KindName | None,
        project_id: Any,
        timeout: float | timedelta,
        poll_interval: float | timedelta | None = None,
    ) -> Any:
        """
        Wait on this thread until a project is complete, and return it.

        Failed status checks (no connection, 5xx, 429) do not end the wait before the timeout.

        :param kind: ``image``, ``video`` or ``audio``; None where ``project_id`` names it.
        :param project_id: the project, or a list of them: the error of one is raised when all are finished.
        :param timeout: seconds to wait at most, or a ``timedelta``.
        :param poll_interval: seconds between status checks, or a ``timedelta``; adaptive if None.
        :raises MagicHourProjectFailedError: if the project failed.
        :raises MagicHourProjectCanceledError: if a person canceled it.
        :raises MagicHourNotFoundError: if there is no such project of this kind, or it was deleted.
        :raises MagicHourTimeoutError: if it was not finished in time.
        """
        from airflow_provider_magichour._polling.wait import wait_for_finished

        projects = read_projects(project_id, kind)
        deadline = time.time() + check_seconds(timeout, "timeout")
        interval = optional(check_seconds, poll_interval, "poll_interval")
        get_settings(self.magichour_conn_id)  # a mistyped connection fails here, not after a while
        if not projects.ids:
            return []
        _, finished = wait_for_finished(
            projects.kind,
            projects.ids,
            self.magichour_conn_id,
            functools.partial(get_settings_async, self.magichour_conn_id),
            deadline,
            poll_interval=interval,
            logger=self.log,
        )
        in_order = [finished[one] for one in projects.ids]
        raise_project_errors(in_order)
        return in_order if projects.is_list else in_order[0]

    @overload
    def delete_project(
        self, kind: KindName | None, project_id: ProjectRef, missing_ok: bool = True
    ) -> bool: ...
    @overload
    def delete_project(
        self, kind: KindName | None, project_id: list[Any], missing_ok: bool = True
    ) -> list[bool]: ...
    def delete_project(self, kind: KindName | None, project_id: Any, missing_ok: bool = True) -> Any:
        """
        Delete a project and its files at Magic Hour, for good.

        :param kind: ``image``, ``video`` or ``audio``; None where ``project_id`` names it.
        :param project_id: the project, or a list of them: all are tried before an error is raised.
        :param missing_ok: whether a project that is gone already is no error.
        :return: True, or False where it was gone already.
        :raises MagicHourWrongKindError: if the project is of another kind, also with ``missing_ok``.
        """
        projects = read_projects(project_id, kind)
        results = self._send_for_each(api.delete_project, projects)
        deleted = [_deleted(result, missing_ok) for result in results]
        return _all_or_error(projects.ids, deleted, projects.is_list)

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

        Of a list of projects, all are tried before an error is raised.

        :param kind: ``image``, ``video`` or ``audio``; None where ``project_id`` names it.
        :param project_id: the project, or a list of them.
        :param destination: a folder on local disk, or what ObjectStoragePath takes.
        :param overwrite: whether to fetch what is there and whole already.
        :param options: as :meth:`download_all` takes them.
        :return: ``path``, ``bytes``, ``sha256`` and ``content_type`` of each file; of a list of projects,
            one such list for each, in order.
        :raises MagicHourDownloadError: if a file could not be fetched or stored whole.
        """
        projects = read_projects(project_id, kind)
        files = self.download_all(projects.kind, projects.ids, destination, overwrite, **options)
        return _all_or_error(projects.ids, files, projects.is_list)

    def download_all(
        self,
        kind: str,
        project_ids: Sequence[str],
        destination: str,
        overwrite: bool = False,
        *,
        downloaded_by: Mapping[str, Any] | None = None,
        max_bytes: int | None = None,
        parallel: int = 4,
        file_name: str | None = None,
        open_args: Mapping[str, Any] | None = None,
    ) -> list[list[dict[str, Any]] | MagicHourError]:
        """
        Store the files of projects, as :meth:`download_project` does; no failure keeps the others back.

        :param downloaded_by: the Airflow task, for the receipts: ``dag_id``, ``run_id`` and so on.
        :param max_bytes: the largest file that is taken, None for any.
        :param parallel: files that are fetched at once.
        :param file_name: the template of the files' names, such as ``"{project_id}-{index}{ext}"``; it may
            hold ``{index}`` (from 1), ``{ext}``, ``{stem}``, ``{project_id}``, ``{name}``, ``{tool}`` and
            ``{kind}``. None for the names that Magic Hour gives.
        :param open_args: what the object store's fsspec ``open`` takes besides; for S3 the arguments of its
            PutObject, such as ``{"ServerSideEncryption": "aws:kms", "StorageClass": "STANDARD_IA"}``.
        :return: in order, the files of each project, or the :class:`MagicHourError`.
        """
        from airflow_provider_magichour._transfer.download import Downloads
        from airflow_provider_magichour._transfer.file_names import check_file_name
        from airflow_provider_magichour._transfer.storage import open_destination

        results = Downloads(
            storage=open_destination(destination),
            settings=self.settings,
            get_project=lambda project_id: self.get_project(kind, project_id),
            kind=check_kind(kind),
            conn_id=self.magichour_conn_id,
            overwrite=overwrite,
            downloaded_by=downloaded_by,
            max_bytes=check_count(max_bytes, "max_bytes") if max_bytes is not None else None,
            parallel=check_count(parallel, "parallel"),
            file_name=check_file_name(file_name),
            open_args=open_args or {},
        ).run(check_ids(project_ids, "project_ids"))
        for files in results:
            if not isinstance(files, MagicHourError):
                record_outputs(self, files)
        return results

    def acknowledge_moved(self, destination: str, project_id: str, moved_to: Mapping[str, str]) -> None:
        """
        Record that downloaded files were moved away on purpose, so that a clean-up does not look for them.

        :param destination: where they were downloaded to.
        :param project_id: their project.
        :param moved_to: where each file went, by its name; for people to read.
        :raises MagicHourArgumentError: if the project has no receipt there, or it lists no such file.
        """
        from airflow_provider_magichour._transfer import receipts
        from airflow_provider_magichour._transfer.storage import open_destination

        try:
            receipts.acknowledge_moved(open_destination(destination), check_id(project_id), moved_to)
        except receipts.ReceiptError as error:
            raise MagicHourArgumentError(f"moved_to of project {project_id}: {error}") from error

    def check_result(
        self,
        kind: KindName | None,
        project_id: ProjectRef,
        wait_for_completion: bool,
        download_outputs: bool,
        download_directory: str | None = None,
        *,
        timeout: float | timedelta = 24 * 3600,
    ) -> dict[str, Any]:
        """
        Return a project as it is, or once it is complete, and store its files.

        :param kind: ``image``, ``video`` or ``audio``; None where ``project_id`` names it.
        :param project_id: the project.
        :param wait_for_completion: whether to wait until the project is finished.
        :param download_outputs: whether to store the files of a complete project.
        :param download_directory: where to, as in :meth:`download_project`; None for the working directory.
        :param timeout: seconds to wait at most, or a ``timedelta``.
        :return: the project, with the stored files' ``downloaded_paths``, None where none were stored.
        :raises MagicHourProjectFailedError: if it failed while it was waited for.
        :raises MagicHourTimeoutError: if it was not finished in time.
        """
        if wait_for_completion:
            project = self.wait_for_project(kind, project_id, timeout)
        else:
            project = self.get_project(kind, project_id)
        paths = None
        if download_outputs and project.get("status") == "complete":
            files = self.download_project(kind, project_id, download_directory or ".")
            paths = [file["path"] for file in files]
        return {**project, "downloaded_paths": paths}

    @overload
    def upload_file(self, path: Source) -> str: ...
    @overload
    def upload_file(self, path: list[Source]) -> list[str]: ...
    def upload_file(self, path: Any) -> Any:
        """
        Upload a file and return what create calls take: ``api-assets/...``.

        :param path: a local path, an object-storage URL such as ``s3://bucket/face.png``, a path object or
            an open binary file that has a name; or a list of them, which are uploaded side by side. What
            Magic Hour can read by itself (``https://...``, ``api-assets/...``) is returned as it is.
        :raises MagicHourArgumentError: if there is no such file, or it is empty or of an unknown type.
        :raises MagicHourUploadError: if it could not be uploaded; a later try may pass.
        """
        from airflow_provider_magichour._transfer.upload import upload_all

        is_list = isinstance(path, list | tuple)
        sources = list(path) if is_list else [path]
        results = upload_all(self.settings, [(source, "") for source in sources])
        return _all_or_error([str(source) for source in sources], results, is_list)

    def detect_faces(self, body: dict[str, Any]) -> dict[str, Any]:
        """
        Start a face detection.

        :param body: ``{"assets": {"target_file_path": ...}, "confidence_score": 0.5}``.
        :return: ``id`` and ``credits_charged``.
        """
        return cast("dict[str, Any]", self._send(api.detect_faces(body)))

    def get_face_detection(self, id: str) -> dict[str, Any]:  # noqa: A002 - the API's own name
        """
        Return a face detection: ``id``, ``status``, ``credits_charged`` and ``faces``.

        :param id: the id that :meth:`detect_faces` returned.
        """
        return cast("dict[str, Any]", self._send(api.get_face_detection(id)))


def _deleted(result: Any, missing_ok: bool) -> Any:
    """Turn what came of a delete into whether it deleted something; leave errors."""
    if missing_ok and isinstance(result, MagicHourNotFoundError):
        return result if isinstance(result, MagicHourWrongKindError) else False
    return result if isinstance(result, MagicHourError) else True


def _all_or_error(names: Sequence[str], results: list[Any], is_list: bool) -> Any:
    """Return the results, one by itself unless it was a list, or raise the errors among them as one."""
    failed = {
        name: result
        for name, result in zip(names, results, strict=True)
        if isinstance(result, MagicHourError)
    }
    if failed:
        raise batch_error(failed, len(names))
    return results if is_list else results[0]

"""The hook with a method for each call of Magic Hour's API."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast, overload

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour._client import api
from airflow_provider_magichour._client.api import raise_project_errors
from airflow_provider_magichour._client.kinds import not_gone_reason
from airflow_provider_magichour._validation import check_seconds, is_many, optional
from airflow_provider_magichour._validation.projects import read_projects
from airflow_provider_magichour.exceptions import (
    MagicHourBatchFailedError,
    MagicHourError,
    MagicHourNotFoundError,
    MagicHourWrongKindError,
)
from airflow_provider_magichour.hooks.base import all_or_error
from airflow_provider_magichour.hooks.connection import get_settings, get_settings_async
from airflow_provider_magichour.hooks.files import MagicHourFilesHook

if TYPE_CHECKING:
    from airflow_provider_magichour._validation.projects import ProjectIds
    from airflow_provider_magichour.types import KindName, Project, ProjectRef, Seconds


class MagicHourHook(MagicHourFilesHook):
    """
    Call the API of Magic Hour over an Airflow connection.

    The connection's password is the API key. Its host, scheme and port are the base URL; leave them empty for
    ``https://api.magichour.ai``. Its extra may contain ``timeout`` (seconds for one try), ``max_attempts``,
    ``requests_per_second``, ``max_connections``, ``webhook_secret``, ``allow_private_hosts``,
    ``submit_records`` and ``catalog``.

    :param magichour_conn_id: the connection.
    """

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Describe the connection form for Airflow 2.11 to 3.1; newer ones read the provider's metadata."""
        # Here, because these versions do not search base classes for it.
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
        Start a project, which costs credits. For a list of bodies, start one project after the other.

        :param tool: the path segment of the create call, such as ``text-to-video``.
        :param body: the create call's JSON object, or a list of them.
        :param kind: the kind of project, needed for a tool that this version does not know.
        :return: ``id`` and ``credits_charged``, an estimate.
        :raises MagicHourUncertainSubmitError: if it is unknown whether the call was accepted; it is not
            sent again. For a list, the error's notes name the projects that were started before.
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
                # A retry would start again, and pay for those again.
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
        Return a project's details, with fresh download URLs if it is complete.

        :param kind: ``image``, ``video`` or ``audio``; may be None if ``project_id`` says it.
        :param project_id: the project: its id, or the value that a task returned; or a list of them, which
            are read in parallel.
        :raises MagicHourNotFoundError: if there is no such project of this kind. The message says if it is of
            another kind.
        """
        projects = read_projects(project_id, kind)
        results = self._send_for_each(api.get_project, projects)
        return all_or_error(projects.ids, results, projects.is_list)

    @overload
    def wait_for_project(
        self,
        kind: KindName | None,
        project_id: ProjectRef,
        timeout: Seconds,
        poll_interval: Seconds | None = None,
    ) -> Project: ...
    @overload
    def wait_for_project(
        self,
        kind: KindName | None,
        project_id: list[Any],
        timeout: Seconds,
        poll_interval: Seconds | None = None,
    ) -> list[Project]: ...
    def wait_for_project(
        self, kind: KindName | None, project_id: Any, timeout: Seconds, poll_interval: Seconds | None = None
    ) -> Any:
        """
        Wait on this thread until a project is complete, and return it.

        Failed status checks (no connection, 5xx, 429) do not end the wait before the timeout.

        :param kind: ``image``, ``video`` or ``audio``; may be None if ``project_id`` says it.
        :param project_id: the project, or a list of them; an error is then raised when all are finished.
        :param timeout: the most seconds to wait, or a ``timedelta``.
        :param poll_interval: seconds between status checks, or a ``timedelta``. If None, the interval depends
            on the kind and the age of the project.
        :raises MagicHourProjectFailedError: if the project failed.
        :raises MagicHourProjectCanceledError: if a person canceled it.
        :raises MagicHourNotFoundError: if there is no such project of this kind, or it was deleted.
        :raises MagicHourTimeoutError: if it was not finished in time.
        """
        from airflow_provider_magichour._polling.wait import wait_for_finished
        from airflow_provider_magichour._polling.wait_request import WaitRequest

        projects = read_projects(project_id, kind)
        deadline = time.time() + check_seconds(timeout, "timeout")
        interval = optional(check_seconds, poll_interval, "poll_interval")
        get_settings(self.magichour_conn_id)  # a wrong connection id fails here, without a wait
        if not projects.ids:
            return []
        _, finished = wait_for_finished(
            WaitRequest(projects.kind, projects.ids, deadline, interval),
            self.magichour_conn_id,
            get_settings_async,
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
        Delete a project and its files at Magic Hour. This cannot be undone.

        :param kind: ``image``, ``video`` or ``audio``; may be None if ``project_id`` says it.
        :param project_id: the project, or a list of them; all are tried before an error is raised.
        :param missing_ok: whether a project that was already deleted is not an error.
        :return: True, or False if it was already deleted.
        :raises MagicHourWrongKindError: if the project is of another kind, even with ``missing_ok``.
        """
        projects = read_projects(project_id, kind)
        return all_or_error(projects.ids, self.delete_all(projects, missing_ok), projects.is_list)

    def delete_all(self, projects: ProjectIds, missing_ok: bool = True) -> list[bool | MagicHourError]:
        """
        Delete projects, as :meth:`delete_project` does; a failure does not stop the others.

        :param projects: the result of :func:`read_projects`.
        :param missing_ok: whether a project that was already deleted is not an error.
        :return: in the same order, whether each one existed, or the error.
        """
        results = self._send_for_each(api.delete_project, projects)
        missing = [
            project_id
            for project_id, result in zip(projects.ids, results, strict=True)
            if isinstance(result, MagicHourNotFoundError) and not isinstance(result, MagicHourWrongKindError)
        ]
        found = self.send_all([api.get_project(projects.kind, one) for one in missing])
        reasons = {
            project_id: MagicHourError(f"project {project_id} is not deleted: {reason}")
            for project_id, response in zip(missing, found, strict=True)
            if (reason := not_gone_reason(response))
        }
        return [
            reasons.get(project_id) or _deleted(result, missing_ok)
            for project_id, result in zip(projects.ids, results, strict=True)
        ]

    def check_result(
        self,
        kind: KindName | None,
        project_id: ProjectRef,
        wait_for_completion: bool,
        download_outputs: bool,
        download_directory: str | None = None,
        *,
        timeout: Seconds = 24 * 3600,
    ) -> dict[str, Any]:
        """
        Return a project, after waiting for it if you want, and store its files.

        :param kind: ``image``, ``video`` or ``audio``; may be None if ``project_id`` says it.
        :param project_id: the project.
        :param wait_for_completion: whether to wait until the project is finished.
        :param download_outputs: whether to store the files of a complete project.
        :param download_directory: the destination, as in :meth:`download_project`; None for the working
            directory.
        :param timeout: the most seconds to wait, or a ``timedelta``.
        :return: the project, with the paths of the stored files as ``downloaded_paths``, or None for them.
        :raises MagicHourProjectFailedError: if the project failed during the wait.
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
    """Turn the response to a delete into whether it deleted something. Errors stay errors."""
    if missing_ok and isinstance(result, MagicHourNotFoundError):
        return result if isinstance(result, MagicHourWrongKindError) else False
    return result if isinstance(result, MagicHourError) else True

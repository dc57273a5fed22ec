"""One status check: what a response means for a wait, the same in every mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airflow_provider_magichour._client import api
from airflow_provider_magichour.exceptions import (
    MagicHourApiError,
    MagicHourAuthenticationError,
    MagicHourConnectionError,
    MagicHourError,
    MagicHourNotFoundError,
    MagicHourPermissionError,
)

#: The kind that stands for a face detection, which is not a project.
FACE_DETECTION = "face detection"
#: Errors that no further check will change. A proxy's web page is of another class.
FINAL_ERRORS = (MagicHourAuthenticationError, MagicHourPermissionError, MagicHourNotFoundError)


@dataclass(frozen=True, slots=True)
class StatusCheck:
    """
    The result of one status check. At most one of ``outcome``, ``error`` and ``transient_error`` is set.

    :param outcome: how the project ended: ``complete``, ``error``, ``canceled`` or ``deleted``.
    :param project: the project, if the response contained one.
    :param error: the error that ends the wait: a 401, 403 or 404 of Magic Hour itself.
    :param transient_error: the error of this check, if a later check may succeed.
    :param retry_after: seconds that the response asked to wait.
    :param next_in: seconds until the next check.
    """

    outcome: str | None = None
    project: Mapping[str, Any] | None = None
    error: MagicHourApiError | None = None
    transient_error: MagicHourError | None = None
    retry_after: float | None = None
    next_in: float | None = None


def status_request(kind: str, project_id: str) -> api.Request:
    """Return the call that requests the status of a project or a face detection."""
    if kind == FACE_DETECTION:
        return api.get_face_detection(project_id)
    return api.get_project(kind, project_id)


def classify_response(request: api.Request, response: api.Response | MagicHourConnectionError) -> StatusCheck:
    """
    Decide what a response to :func:`status_request` means for a wait.

    :param response: the response or the error of one try.
    """
    if isinstance(response, MagicHourConnectionError):
        return StatusCheck(transient_error=response)
    try:
        project = api.result(request, response)
    except MagicHourError as error:
        if isinstance(error, FINAL_ERRORS):
            return StatusCheck(error=error)
        return StatusCheck(
            transient_error=error, retry_after=api.retry_after_seconds(response, datetime.now(UTC))
        )
    if "status" not in project:
        message = f"without a status: {api.quoted_message(response)!r}"
        return StatusCheck(transient_error=MagicHourApiError(response.status, message, str(request)))
    outcome = project["status"] if api.is_finished(project) else None
    return StatusCheck("deleted" if project.get("enabled") is False else outcome, project)

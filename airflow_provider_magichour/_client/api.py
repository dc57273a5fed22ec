"""
Magic Hour as data: its routes, statuses and answers.

A call is a :class:`Request`; its answer, a :class:`Response`, becomes a result or an error. Everything
here is a constant or a pure function, so the synchronous and the asynchronous sender cannot drift apart.

Source of the facts: Magic Hour's OpenAPI specification of August 2026 and its documentation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._client.sanitize import one_line, parse_json
from airflow_provider_magichour._validation import (
    check_body,
    check_id,
    check_json,
)
from airflow_provider_magichour.exceptions import (
    MagicHourApiError,
    MagicHourArgumentError,
)
from airflow_provider_magichour.tools import check_kind, tool_kind

#: The statuses that the API documents. Newer ones may come; they are waited on.
STATUSES = frozenset({"draft", "queued", "rendering", "complete", "error", "canceled"})
TERMINAL_STATUSES = frozenset({"complete", "error", "canceled"})
#: The longest status, in characters; it is put into messages.
MAX_STATUS = 100

#: Error codes of a failed project that are no fault of its input: the same input may pass next time.
TRANSIENT_ERROR_CODES = frozenset({"processing_timeout", "unknown_error"})


_CUSTOM_PATH = re.compile(r"(/[A-Za-z0-9_~:@%.-]+)+/?", re.ASCII)


# --------------------------------------------------------------------------------------------- requests


@dataclass(frozen=True)
class Request:
    """
    One call of the API, ready to be sent.

    :param method: the HTTP method.
    :param path: the path below the base URL, already quoted.
    :param json: the body, None for none.
    :param params: the query.
    :param repeatable: whether sending it twice does no more than sending it once. False for calls that
        may cost credits: they are sent again only when they were certainly not accepted.
    :param needs_id: whether an answer without an id leaves it open what was made.
    :param about: the id of what is asked for; an answer about another is none.
    """

    method: str
    path: str
    json: Any = None
    params: Mapping[str, str | int | float] = field(default_factory=dict)
    repeatable: bool = True
    needs_id: bool = False
    about: str | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def get_project(kind: str, project_id: str) -> Request:
    """Ask for a project's details."""
    return Request("GET", f"/v1/{check_kind(kind)}-projects/{check_id(project_id)}", about=project_id)


def delete_project(kind: str, project_id: str) -> Request:
    """Delete a project and its files at Magic Hour, for good."""
    return Request("DELETE", f"/v1/{check_kind(kind)}-projects/{check_id(project_id)}")


def create_project(tool: str, body: dict[str, Any], kind: str | None = None) -> Request:
    """Start a project, which costs credits."""
    tool_kind(tool, kind)
    return Request("POST", f"/v1/{tool}", json=check_body(body), repeatable=False, needs_id=True)


def upload_urls(items: Sequence[tuple[str, str]]) -> Request:
    """Ask for a presigned URL for each ``(type, extension)``. Costs nothing, so it may be repeated."""
    body = {"items": [{"type": kind, "extension": extension} for kind, extension in items]}
    return Request("POST", "/v1/files/upload-urls", json=body)


def detect_faces(body: dict[str, Any]) -> Request:
    """Start a face detection. It may cost credits one day, so it is not repeated."""
    return Request("POST", "/v1/face-detection", json=check_body(body), repeatable=False, needs_id=True)


def get_face_detection(detection_id: str) -> Request:
    """Ask for a face detection's status and faces."""
    path = f"/v1/face-detection/{check_id(detection_id, 'detection_id')}"
    return Request("GET", path, about=detection_id)


def get_account() -> Request:
    """Ask for the account's credits and plan."""
    return Request("GET", "/v1/account")


def custom(
    method: str,
    path: str,
    json: Any = None,
    params: Mapping[str, str | int | float] | None = None,
) -> Request:
    """
    Describe any other call; only GET, HEAD, PUT and DELETE are repeated.

    :raises MagicHourArgumentError: if the path is not a plain path below the base URL, the body not JSON, or
        the query not a dict.
    """
    verb = method.upper() if isinstance(method, str) else ""
    if verb not in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}:
        raise MagicHourArgumentError(f"method must be an HTTP method such as 'GET', not {method!r}")
    check_json(json)
    if params is not None and not (
        isinstance(params, Mapping) and all(isinstance(name, str) for name in params)
    ):
        raise MagicHourArgumentError(f"params must be a dict such as {{'limit': 10}}, not {params!r}")
    if not isinstance(path, str) or not _CUSTOM_PATH.fullmatch(path) or _has_dot_segment(path):
        raise MagicHourArgumentError(
            f"path must be a path of the API such as '/v1/saved-items', not {path!r}; "
            "a query goes into params"
        )
    return Request(verb, path, json=json, params=params or {}, repeatable=verb not in {"POST", "PATCH"})


def _has_dot_segment(path: str) -> bool:
    return bool({".", ".."} & set(re.sub("%2e", ".", path, flags=re.IGNORECASE).split("/")))


# -------------------------------------------------------------------------------------------- responses


@dataclass(frozen=True)
class Response:
    """
    An answer of the API.

    :param status: the HTTP status.
    :param headers: the headers, their names in lower case.
    :param body: the decoded bytes, as many as the sender was willing to read.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


_ERROR_CLASSES: Mapping[int, type[MagicHourApiError]] = {
    400: errors.MagicHourInvalidRequestError,
    401: errors.MagicHourAuthenticationError,
    402: errors.MagicHourPaymentRequiredError,
    403: errors.MagicHourPermissionError,
    404: errors.MagicHourNotFoundError,
    422: errors.MagicHourInvalidRequestError,
    429: errors.MagicHourRateLimitError,
}


def may_send_again(request: Request, response: Response) -> bool:
    """
    Tell whether a call may be sent again after this answer.

    What costs credits, only where it was certainly not accepted: 429, and 502 or 503 without an id.
    """
    if request.repeatable:
        return response.status == 429 or response.status >= 500
    return response.status in {429, 502, 503} and _read_id(response) is None


def result(request: Request, response: Response) -> Any:
    """
    Return what the API answered, parsed; None for an answer without a body.

    :raises MagicHourApiError: the subclass of the answer's status, quoting the API's own message.
    :raises MagicHourUncertainSubmitError: if a call that may cost credits was answered with something that
        proves neither that it was accepted nor that it was refused.
    """
    status = response.status
    accepted = 200 <= status < 300
    refused = (400 <= status < 500 and status != 429) or may_send_again(request, response)
    if not request.repeatable and not (accepted or refused):
        raise uncertain_submit(request, f"it was answered {status}: {quoted_message(response)}")
    if not accepted:
        raise _error(request, response)
    made = _read_id(response) if request.needs_id else None
    if request.needs_id and made is None:
        raise uncertain_submit(
            request, f"it was answered {status}, but without an id: {quoted_message(response)}"
        )
    try:
        answer = parse_json(response.body) if response.body.strip() else None
    except ValueError:
        if made is not None:  # paid for: whatever else the answer holds, its id is what counts
            return {"id": made}
        what = f"not JSON, but {quoted_message(response)!r} (is the connection's host the API?)"
        if not request.repeatable:
            raise uncertain_submit(request, f"it was answered {status}, {what}") from None
        raise MagicHourApiError(status, what, str(request)) from None
    if request.about is not None and not _is_about(answer, request.about):
        raise MagicHourApiError(
            status,
            f"not as what is asked for ({request.about}), but {quoted_message(response)!r}",
            str(request),
        )
    return answer


def _is_about(answer: Any, asked_for: str) -> bool:
    if not isinstance(answer, Mapping) or answer.get("id", asked_for) != asked_for:
        return False
    status = answer.get("status", "")  # a word; newer ones may come
    return isinstance(status, str) and len(status) <= MAX_STATUS and status.isprintable()


def uncertain_submit(request: Request, what_happened: str) -> errors.MagicHourUncertainSubmitError:
    """Build the error of a create call whose outcome nobody knows."""
    return errors.MagicHourUncertainSubmitError(
        f"{request} may or may not have been accepted: {what_happened}. It was not sent again, because that "
        "could cost the credits twice. Look for a new project at https://magichour.ai/my-library: if it is "
        "there, use its id; if it is not, clear the task, which then submits anew"
    )


def _error(request: Request, response: Response) -> MagicHourApiError:
    status = response.status
    message = quoted_message(response)
    if 300 <= status < 400:
        message = (
            f"a redirect to {response.headers.get('location', 'nowhere')[:200]!r}, where the API gives none"
        )
    found = _ERROR_CLASSES.get(status, errors.MagicHourServerError if status >= 500 else MagicHourApiError)
    error = found(status, message, str(request))
    error.is_own = _is_own(response)
    return error


def _is_own(response: Response) -> bool:
    try:
        return not response.body.strip() or isinstance(json.loads(response.body), Mapping)
    except (ValueError, RecursionError):
        return False


def _read_id(response: Response) -> str | None:
    try:
        return check_id(json.loads(response.body)["id"], "id")
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def quoted_message(response: Response) -> str:
    """Return the API's own message in one bounded line, whatever the body is: JSON, HTML, empty or huge."""
    text = response.body[: 64 * 1024].decode("utf-8", "replace")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, Mapping) and isinstance(parsed.get("message"), str):
        text = parsed["message"]
    elif re.match(r"\s*<", text):
        text = re.sub(r"(?is)<(script|style)\b.*?(</\1\s*>|$)|<[^>]*>?", " ", text)
    return one_line(text) or "(no message)"


def retry_after_seconds(response: Response, now: datetime) -> float | None:
    """
    Return how many seconds the answer asks to wait, None where it does not say.

    :param now: the present, with its time zone; ``Retry-After`` may be an HTTP date.
    """
    value = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value, re.ASCII):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    try:
        return max((when - now) / timedelta(seconds=1), 0.0)
    except OverflowError:
        return None


# --------------------------------------------------------------------------------------------- projects


def is_finished(project: Mapping[str, Any]) -> bool:
    """Tell whether a project will not change any more: a terminal status, or deleted."""
    return project.get("status") in TERMINAL_STATUSES or project.get("enabled") is False


def project_error(project: Mapping[str, Any]) -> errors.MagicHourError | None:
    """Return the error that a finished project means for who needs its files, None if it is complete."""
    project_id = str(project.get("id"))
    if project.get("enabled") is False:
        return errors.MagicHourNotFoundError(404, f"project {project_id} was deleted (enabled is false)")
    if project.get("status") == "canceled":
        return errors.MagicHourProjectCanceledError(project_id)
    if project.get("status") == "error":
        details = project.get("error")
        details = details if isinstance(details, Mapping) else {}
        code, message = (
            one_line(value) if isinstance(value, str) else None
            for value in map(details.get, ("code", "message"))
        )
        return errors.MagicHourProjectFailedError(project_id, code, message)
    return None


def render_error(error: errors.MagicHourProjectFailedError) -> errors.MagicHourError:
    """Return the failure as one that a retry may mend, if the input was not to blame for it."""
    if error.code is None or error.code in TRANSIENT_ERROR_CODES:
        return errors.MagicHourRenderError(error.project_id, error.code, error.message)
    return error


def raise_project_errors(projects: Iterable[Mapping[str, Any]]) -> None:
    """
    Raise the error of the first finished project that is not complete; its notes tell of the others.

    :param projects: finished projects.
    """
    failed = {
        str(project.get("id")): error for project in projects if (error := project_error(project)) is not None
    }
    if not failed:
        return
    first, *others = failed.values()
    for error in others[:10]:
        first.add_note(f"Also: {error}")
    if len(others) > 10:
        first.add_note(f"and {len(others) - 10} more")
    raise first

"""
Magic Hour as data: its routes, statuses and responses.

A call is a :class:`Request`, and its :class:`Response` becomes a result or an error. Everything here is a
constant or a pure function, so the synchronous and the asynchronous sender always do the same.

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
from airflow_provider_magichour._client.sanitize import one_line, parse_json, without_query
from airflow_provider_magichour._validation.bodies import check_body, encode_json
from airflow_provider_magichour._validation.projects import check_id
from airflow_provider_magichour.exceptions import (
    MagicHourApiError,
    MagicHourArgumentError,
)
from airflow_provider_magichour.tools import check_kind, tool_kind

#: The statuses that the API documents. A wait continues if it meets another one.
STATUSES = frozenset({"draft", "queued", "rendering", "complete", "error", "canceled"})
TERMINAL_STATUSES = frozenset({"complete", "error", "canceled"})
#: The longest status, in characters, because messages contain it.
MAX_STATUS = 100

#: Error codes of failed projects whose input is not the cause: the same input may succeed next time.
TRANSIENT_ERROR_CODES = frozenset({"processing_timeout", "unknown_error"})


#: How Magic Hour's validation words a value of the wrong type.
_WRONG_TYPE = re.compile(
    r"(must be|expected) (an? )?(string|number|integer|boolean|array|object)", re.IGNORECASE
)
WRONG_TYPE_ADVICE = (
    "a value has the wrong type, which often comes from a template: it renders numbers and lists as text "
    "unless the DAG has render_template_as_native_obj=True, and then a text that looks like a number "
    "becomes one (write it as \"'{{ ... }}'\")"
)

_CUSTOM_PATH = re.compile(r"(/[A-Za-z0-9_~:@%.-]+)+/?", re.ASCII)


# --------------------------------------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True)
class Request:
    """
    One call of the API, ready to be sent.

    :param path: the path below the base URL, already quoted.
    :param body: the body, encoded as JSON; None for none.
    :param repeatable: whether sending it twice does no more than sending it once. False for calls that
        may cost credits: they are sent again only when they were certainly not accepted.
    :param needs_id: whether a response without an id is incomplete, because it does not say what was created.
    :param about: the requested id. A response about another id is not valid.
    """

    method: str
    path: str
    body: bytes | None = None
    params: Mapping[str, str | int | float] = field(default_factory=dict)
    repeatable: bool = True
    needs_id: bool = False
    about: str | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def get_project(kind: str, project_id: str) -> Request:
    """Request a project's details."""
    return Request("GET", f"/v1/{check_kind(kind)}-projects/{check_id(project_id)}", about=project_id)


def delete_project(kind: str, project_id: str) -> Request:
    """Delete a project and its files at Magic Hour, permanently."""
    return Request("DELETE", f"/v1/{check_kind(kind)}-projects/{check_id(project_id)}")


def create_project(tool: str, body: dict[str, Any], kind: str | None = None, name: str = "body") -> Request:
    """Start a project, which costs credits. Messages use ``name`` for the body."""
    tool_kind(tool, kind)
    content = encode_json(check_body(body, name), name)
    return Request("POST", f"/v1/{tool}", content, repeatable=False, needs_id=True)


def upload_urls(items: Sequence[tuple[str, str]]) -> Request:
    """Request a presigned URL for each ``(type, extension)``. Costs nothing, so it may be repeated."""
    body = {"items": [{"type": kind, "extension": extension} for kind, extension in items]}
    return Request("POST", "/v1/files/upload-urls", body=encode_json(body))


def detect_faces(body: dict[str, Any]) -> Request:
    """Start a face detection. It may cost credits one day, so it is not repeated."""
    content = encode_json(check_body(body), "body")
    return Request("POST", "/v1/face-detection", content, repeatable=False, needs_id=True)


def get_face_detection(detection_id: str) -> Request:
    """Request a face detection's status and faces."""
    path = f"/v1/face-detection/{check_id(detection_id, 'detection_id')}"
    return Request("GET", path, about=detection_id)


def get_account() -> Request:
    """Request the account's credits and plan."""
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
    body = None if json is None else encode_json(json)
    if params is not None and not (
        isinstance(params, Mapping) and all(isinstance(name, str) for name in params)
    ):
        raise MagicHourArgumentError(f"params must be a dict such as {{'limit': 10}}, not {params!r}")
    if not isinstance(path, str) or not _CUSTOM_PATH.fullmatch(path) or _has_dot_segment(path):
        raise MagicHourArgumentError(
            f"path must be a path of the API such as '/v1/saved-items', not {path!r}; "
            "a query goes into params"
        )
    return Request(verb, path, body, params=params or {}, repeatable=verb not in {"POST", "PATCH"})


def _has_dot_segment(path: str) -> bool:
    return bool({".", ".."} & set(re.sub("%2e", ".", path, flags=re.IGNORECASE).split("/")))


# -------------------------------------------------------------------------------------------- responses


@dataclass(frozen=True)
class Response:
    """
    A response of the API, or of a proxy or gateway in front of it.

    :param headers: the headers, their names in lower case.
    :param body: the decoded bytes, up to the limit of the sender.
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
    Return whether a call may be sent again after this response.

    A call that costs credits may be sent again only if it was certainly not accepted. That is so after a 429,
    and after a 502 or 503 in Magic Hour's own form, both without an id. A gateway may return 502 or 503
    although the API accepted the call.
    """
    status = response.status
    if request.repeatable:
        return status in {408, 429} or status >= 500
    refused = status == 429 or (status in {502, 503} and _error_fields(response)[1] is not None)
    return refused and not _names_id(response)


def result(request: Request, response: Response) -> Any:
    """
    Return the parsed response, or None if it has no body.

    :raises MagicHourApiError: the subclass of the response's status, quoting the API's own message.
    :raises MagicHourUncertainSubmitError: if a call that may cost credits got a response that proves neither
        that it was accepted nor that it was refused.
    """
    if not 200 <= response.status < 300:
        if not request.repeatable and not _is_refusal(request, response):
            raise _unproven(request, response, f"it returned {response.status}: {_error_message(response)}")
        raise _error(request, response)
    made = _read_id(response) if request.needs_id else None
    if request.needs_id and made is None:
        what = f"it returned {response.status}, but without an id: {quoted_message(response)}"
        raise _unproven(request, response, what)
    try:
        value = parse_json(response.body) if response.body.strip() else None
    except ValueError:
        if made is not None:  # paid for: only the id matters, whatever else the response contains
            return {"id": made}
        what = f"not JSON, but {quoted_message(response)!r} (is the connection's host the API?)"
        if not request.repeatable:
            raise _unproven(request, response, f"it returned {response.status}, {what}") from None
        raise MagicHourApiError(response.status, what, str(request)) from None
    if request.about is not None and not _is_about(value, request.about):
        what = f"not as what is asked for ({request.about}), but {quoted_message(response)!r}"
        raise MagicHourApiError(response.status, what, str(request))
    return value


def _is_refusal(request: Request, response: Response) -> bool:
    """Return whether a call that costs credits was certainly not accepted: any 4xx, even of a gateway."""
    if response.status in {408, 499}:  # the sender of such a status does not know the outcome
        return False
    return may_send_again(request, response) or (400 <= response.status < 500 and response.status != 429)


def _is_about(value: Any, asked_for: str) -> bool:
    if not isinstance(value, Mapping) or value.get("id", asked_for) != asked_for:
        return False
    status = value.get("status", "")  # a word; newer ones may come
    return isinstance(status, str) and len(status) <= MAX_STATUS and status.isprintable()


def uncertain_submit(request: Request, what_happened: str) -> errors.MagicHourUncertainSubmitError:
    """Return the error of a create call with an unknown outcome."""
    return errors.MagicHourUncertainSubmitError(
        f"{request} may or may not have been accepted: {what_happened}. It was not sent again, because that "
        "could cost the credits twice. Look for a new project at https://magichour.ai/my-library: if it is "
        "there, use its id; if it is not, clear the task, which then submits again"
    )


def _unproven(request: Request, response: Response, what: str) -> errors.MagicHourUncertainSubmitError:
    error = uncertain_submit(request, what)
    error.from_gateway = _error_fields(response)[1] is None  # gateways give a message alone, too
    return error


def _error(request: Request, response: Response) -> MagicHourApiError:
    status = response.status
    message, code = _error_message(response), _error_fields(response)[1]
    found = _ERROR_CLASSES.get(status, errors.MagicHourServerError if status >= 500 else MagicHourApiError)
    if 400 <= status < 500 and status != 429 and not is_own(response):
        found = errors.MagicHourGatewayError
    error = found(status, message, str(request), code)
    if isinstance(error, errors.MagicHourInvalidRequestError) and _WRONG_TYPE.search(message):
        error.advice = WRONG_TYPE_ADVICE
    return error


def _error_message(response: Response) -> str:
    if not 300 <= response.status < 400:
        return quoted_message(response)
    target = without_query(response.headers.get("location", "nowhere"))[:200]
    return f"a redirect to {target!r}, where the API gives none"


def is_own(response: Response) -> bool:
    """Return whether an error is in Magic Hour's own form: a JSON object with a ``message``."""
    return _error_fields(response)[0] is not None


def _error_fields(response: Response) -> tuple[str | None, str | None]:
    """Return the message and the code of an error. Older responses have no code."""
    body = _json_object(response)
    message, code = body.get("message"), body.get("code")
    if not isinstance(message, str):
        return None, None
    return message, one_line(code)[:MAX_STATUS] if isinstance(code, str) and code.strip() else None


def _json_object(response: Response) -> Mapping[str, Any]:
    try:
        body = json.loads(response.body)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, Mapping) else {}


def _names_id(response: Response) -> bool:
    return _json_object(response).get("id") is not None


def _read_id(response: Response) -> str | None:
    try:
        return check_id(_json_object(response).get("id"), "id")
    except MagicHourArgumentError:
        return None


def quoted_message(response: Response) -> str:
    """Return the API's own message in one bounded line, whatever the body is: JSON, HTML, empty or huge."""
    text = _error_fields(response)[0]
    if text is None:
        text = response.body[: 64 * 1024].decode("utf-8", "replace")
    if re.match(r"\s*<", text):
        text = re.sub(r"(?is)<(script|style)\b.*?(</\1\s*>|$)|<[^>]*>?", " ", text)
    return one_line(text) or "(no message)"


def retry_after_seconds(response: Response, now: datetime) -> float | None:
    """
    Return how many seconds to wait according to the response, or None.

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
    """Return whether a project will not change any more: a terminal status, or deleted."""
    return project.get("status") in TERMINAL_STATUSES or project.get("enabled") is False


def project_error(project: Mapping[str, Any]) -> errors.MagicHourError | None:
    """Return the error of a finished project that is not complete, or None if it is complete."""
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


def task_error(project: Mapping[str, Any]) -> errors.MagicHourError | None:
    """Return the error of a project. A retry may succeed if the input was not the cause."""
    error = project_error(project)
    if not isinstance(error, errors.MagicHourProjectFailedError):
        return error
    if error.code is None or error.code in TRANSIENT_ERROR_CODES:
        return errors.MagicHourRenderError(error.project_id, error.code, error.message)
    return error


def raise_project_errors(projects: Iterable[Mapping[str, Any]]) -> None:
    """Raise the error of the first finished project that is not complete; its notes name the others."""
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

"""
All errors of this provider, each with what to do about it.

An error that a retry cannot solve is also an ``AirflowFailException``: the task fails at once instead of
using its retries for a wrong key, an empty account or a rejected input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSensorTimeout,
)

__all__ = [
    "MagicHourApiError",
    "MagicHourArgumentError",
    "MagicHourAuthenticationError",
    "MagicHourBatchError",
    "MagicHourBatchFailedError",
    "MagicHourBudgetError",
    "MagicHourConnectionError",
    "MagicHourConnectionNotFoundError",
    "MagicHourDownloadError",
    "MagicHourError",
    "MagicHourGatewayError",
    "MagicHourInvalidRequestError",
    "MagicHourNotFoundError",
    "MagicHourPaymentRequiredError",
    "MagicHourPermissionError",
    "MagicHourProjectCanceledError",
    "MagicHourProjectFailedError",
    "MagicHourRateLimitError",
    "MagicHourRenderError",
    "MagicHourSensorTimeoutError",
    "MagicHourServerError",
    "MagicHourSubmitRecordError",
    "MagicHourTimeoutError",
    "MagicHourUncertainSubmitError",
    "MagicHourUnrecordedSubmitError",
    "MagicHourUploadError",
    "MagicHourWrongKindError",
]


class MagicHourError(AirflowException):
    """The base class of all errors of this provider."""

    def serialize(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """Give Airflow the constructor's own arguments, so that the error survives a round trip."""
        return f"{type(self).__module__}.{type(self).__name__}", self.args, {}


class MagicHourArgumentError(MagicHourError, AirflowFailException, ValueError):
    """An argument is wrong. The message names it and says what to do. Nothing was sent."""


class MagicHourConnectionNotFoundError(MagicHourError, AirflowNotFoundException):
    """Airflow has no such connection. A retry may find it, if a secrets backend could not be reached."""


class MagicHourConnectionError(MagicHourError):
    """Magic Hour could not be reached, or the connection failed before the response was complete."""


class MagicHourApiError(MagicHourError):
    """
    Magic Hour returned an error.

    :param status_code: the HTTP status.
    :param message: the API's own message.
    :param call: the call that failed, such as ``GET /v1/image-projects/abc``.
    :param code: Magic Hour's machine-readable code, such as ``insufficient_credits``, or None.
    """

    #: What to do about it.
    advice = ""
    #: The seconds of the response's ``Retry-After``, or None.
    retry_after: float | None = None
    _advice_by_code: ClassVar[Mapping[str | None, str]] = {}

    def __init__(
        self, status_code: int, message: str, call: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(status_code, message, call, code)
        self.status_code = status_code  # type: ignore[assignment]  # Airflow's is an HTTPStatus, 599 is none
        self.message = message
        self.call = call
        self.code = code
        self.advice = self._advice_by_code.get(code, self.advice)

    def __str__(self) -> str:
        code = f" ({self.code})" if self.code else ""
        said = f"{self.call or 'Magic Hour'} returned {self.status_code}{code}: {self.message}"
        return f"{said} - {self.advice}" if self.advice else said


class MagicHourGatewayError(MagicHourApiError):
    """
    A 4xx that is not in Magic Hour's own form: it comes from a gateway between Airflow and Magic Hour.

    It says nothing about the project, the key or the plan, so a later try may succeed.
    """

    advice = (
        "this response is not from Magic Hour: it comes from a proxy, a firewall or another gateway, or the "
        "connection's host is not the API; check those. A later try may succeed"
    )


class MagicHourAuthenticationError(MagicHourApiError, AirflowFailException):
    """401: the API key is wrong, revoked or missing."""

    advice = (
        "check the API key in the connection's password; "
        "create a key at https://magichour.ai/developer?tab=api-keys"
    )


class MagicHourPaymentRequiredError(MagicHourApiError, AirflowFailException):
    """402: not enough credits, or the plan does not include this; ``code`` says which of the two."""

    _UPGRADE = (
        "the account's plan does not include this; choose another model, resolution or feature, "
        "or upgrade at https://magichour.ai/pricing"
    )
    advice = (
        "the account does not have enough credits, or its plan does not include this; "
        "see https://magichour.ai/pricing"
    )
    _advice_by_code: ClassVar[Mapping[str | None, str]] = {
        "insufficient_credits": "buy more credits at https://magichour.ai/pricing",
        "plan_upgrade_required": _UPGRADE,
        "subscription_required": _UPGRADE,
    }

    @property
    def is_about_plan(self) -> bool:
        """Return whether the plan is the cause, which concerns only this input, and not the credits."""
        return self.advice == self._UPGRADE


class MagicHourPermissionError(MagicHourApiError, AirflowFailException):
    """403: the key is valid, but the plan does not include this model, resolution or feature."""

    advice = (
        "the key is valid, but the account's plan does not include this model, resolution or "
        "feature; choose another or upgrade at https://magichour.ai/pricing"
    )


class MagicHourNotFoundError(MagicHourApiError, AirflowFailException):
    """404: this account has no such project, or it was deleted."""

    advice = (
        "check the id, the kind, and that the connection's key belongs to the account "
        "that created the project; it may also have been deleted"
    )


class MagicHourWrongKindError(MagicHourNotFoundError):
    """
    The project exists, but it is of another kind.

    :param project_id: the project.
    :param kind: the given kind.
    :param found: the real kind of the project.
    """

    def __init__(self, project_id: str, kind: str, found: str) -> None:
        super().__init__(404, f"project {project_id} is of kind {found!r}, not {kind!r}")
        self.args = (project_id, kind, found)

    def __str__(self) -> str:
        project_id, kind, found = self.args
        return (
            f"Project {project_id} is {_a(found)}, not {_a(kind)} - pass kind={found!r} together with its "
            "id. Only if a create or generate task failed with this error: that task pays again if you "
            "change its kind. Keep it, and download the project with "
            f"MagicHourDownloadOperator(project_id={project_id!r}, kind={found!r}, ...)"
        )


class MagicHourInvalidRequestError(MagicHourApiError, AirflowFailException):
    """400 or 422: the input was rejected."""

    advice = "correct the input; the same input will fail again"


class MagicHourRateLimitError(MagicHourApiError):
    """429: too many requests, or too many projects rendering at once for the plan."""

    advice = (
        "lower requests_per_second in the connection's extra, or run fewer tasks at once "
        "(an Airflow pool); a later try may succeed"
    )


class MagicHourServerError(MagicHourApiError):
    """5xx: Magic Hour, or a gateway in front of it, failed."""

    advice = "Magic Hour, or a gateway in front of it, is unavailable; a later try may succeed"


class _FailedProjectError(MagicHourError):
    """
    A project ended in ``error``.

    :param project_id: the project.
    :param code: Magic Hour's error code, such as ``no_source_face``, or None.
    :param message: Magic Hour's own message, or None.
    """

    advice: ClassVar[str]

    def __init__(self, project_id: str, code: str | None = None, message: str | None = None) -> None:
        super().__init__(project_id, code, message)
        self.project_id = project_id
        self.code = code
        self.message = message

    def __str__(self) -> str:
        said = self.message or "no message given"
        return f"Project {self.project_id} failed ({self.code or 'no code'}): {said} - {self.advice}"


class MagicHourProjectFailedError(_FailedProjectError, AirflowFailException):
    """A project ended in ``error``. Magic Hour refunds its credits."""

    advice = "its credits are refunded; correct the input and submit it again"


class MagicHourRenderError(_FailedProjectError):
    """A render failed, but not because of its input, so a retry may succeed."""

    advice = "the input is not the cause, and the credits are refunded; a retry of the task submits it again"


class MagicHourProjectCanceledError(MagicHourError, AirflowFailException):
    """
    A person canceled the project in the web app.

    :param project_id: the project.
    """

    def __init__(self, project_id: str) -> None:
        super().__init__(project_id)
        self.project_id = project_id

    def __str__(self) -> str:
        return (
            f"Project {self.project_id} was canceled in the Magic Hour web app - "
            "clear the task to submit it again"
        )


class _MessageError(MagicHourError):
    """An error that its raiser describes, with the project that it is about, if there is only one."""

    def __init__(self, message: str, project_id: str | None = None) -> None:
        super().__init__(message, project_id)
        self.project_id = project_id

    def __str__(self) -> str:
        return str(self.args[0])


class MagicHourTimeoutError(_MessageError):
    """
    A wait reached its deadline; the project continues at Magic Hour.

    :param message: the projects, the time, and what to do.
    :param project_id: the project, if there is only one.
    """


class MagicHourSensorTimeoutError(MagicHourTimeoutError, AirflowSensorTimeout):
    """A sensor's wait reached its deadline, in any mode."""


class MagicHourDownloadError(_MessageError):
    """
    A file could not be downloaded or stored completely. No incomplete file has its final name.

    :param message: which file, what happened, and what to do.
    :param project_id: the project, if it is known.
    """


class MagicHourUploadError(MagicHourError):
    """A file could not be uploaded. Nothing was paid for, and a later try may succeed."""


class MagicHourBudgetError(MagicHourError, AirflowFailException):
    """A create call was not sent, because it might cost more than ``max_credits`` or the account allows."""


class MagicHourBatchError(MagicHourError):
    """Several bodies or projects of a list failed. A retry handles only those, and may succeed for some."""


class MagicHourBatchFailedError(MagicHourBatchError, AirflowFailException):
    """Several bodies or projects of a list failed, and a retry cannot succeed for any of them."""


def batch_error(failed: Mapping[str, MagicHourError], total: int, note: str = "") -> MagicHourError:
    """
    Combine the errors of a list into one. A retry is allowed if it may succeed for at least one of them.

    :param failed: the errors by what failed: an id, or a body's position.
    :param total: how many there were in all.
    :param note: said of all of them.
    """
    names: dict[str, list[str]] = {}
    for name, error in failed.items():
        names.setdefault(str(error), []).append(name)
    summary = f"{len(failed)} of {total} failed{note}"
    if len(names) == 1:
        first = next(iter(failed.values()))
        if total > 1:
            first.add_note(f"{summary}: {_some(list(failed))}")
        return first
    details = [f"{_some(who)}: {text}" for text, who in names.items()]
    final = all(isinstance(error, AirflowFailException) for error in failed.values())
    return (MagicHourBatchFailedError if final else MagicHourBatchError)(f"{summary}: {_some(details, '; ')}")


def _some(parts: list[str], separator: str = ", ", most: int = 20) -> str:
    more = f"{separator}and {len(parts) - most} more" if len(parts) > most else ""
    return separator.join(parts[:most]) + more


def _a(kind: str) -> str:
    return f"{'a' if kind == 'video' else 'an'} {kind}"


class MagicHourSubmitRecordError(MagicHourError):
    """The task's submit records could not be read or written, so nothing was submitted."""


class MagicHourUnrecordedSubmitError(MagicHourError, AirflowFailException):
    """
    Something failed after a submit without a record, so a retry would pay again.

    The message names the projects that were paid for.
    """


class MagicHourUncertainSubmitError(MagicHourError, AirflowFailException):
    """
    It is unknown whether a create call was accepted, so it was not sent a second time.

    Look for the project in the library at https://magichour.ai/my-library. If it is there, use its id. If it
    is not there, clear the task, which then submits again.
    """

    #: Whether the response came from a gateway, so that the next create call would get it as well.
    from_gateway = False

"""
Everything that can go wrong at Magic Hour, each with what to do about it.

What a retry cannot cure is also an ``AirflowFailException``: the task fails at once instead of using
up its retries on a bad key, an empty account or a rejected input.
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
    """The base of everything this provider raises."""

    def serialize(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """Give Airflow the constructor's own arguments, so that the error survives a round trip."""
        return f"{type(self).__module__}.{type(self).__name__}", self.args, {}


class MagicHourArgumentError(MagicHourError, AirflowFailException, ValueError):
    """An argument is wrong; the message names it and the cure. Nothing was sent."""


class MagicHourConnectionNotFoundError(MagicHourError, AirflowNotFoundException):
    """Airflow has no such connection; a retry may find it, where a secrets backend was out of reach."""


class MagicHourConnectionError(MagicHourError):
    """Magic Hour could not be reached, or the connection broke before a whole response arrived."""


class MagicHourApiError(MagicHourError):
    """
    Magic Hour returned an error.

    :param status_code: the HTTP status.
    :param message: what the API said, in its own words.
    :param call: the call that failed, such as ``GET /v1/image-projects/abc``.
    :param code: Magic Hour's machine-readable code, such as ``insufficient_credits``, None if it gave none.
    """

    #: What to do about it.
    advice = ""
    #: The seconds after which the response asked to try again, where it did.
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
    A 4xx that is not in Magic Hour's own form: something on the way to it returned it.

    It says nothing about the project, the key or the plan, so a later try may pass.
    """

    advice = (
        "this is no response of Magic Hour's own: a proxy, a firewall or another gateway on the way returned "
        "it, or the connection's host is not the API; check those. A later try may pass"
    )


class MagicHourAuthenticationError(MagicHourApiError, AirflowFailException):
    """401: the API key is wrong, revoked or missing."""

    advice = (
        "check the API key in the connection's password; "
        "keys are made at https://magichour.ai/developer?tab=api-keys"
    )


class MagicHourPaymentRequiredError(MagicHourApiError, AirflowFailException):
    """402: not enough credits, or the plan does not include what was asked for; ``code`` tells which."""

    _UPGRADE = (
        "the account's plan does not include this; choose another model, resolution or feature, "
        "or upgrade at https://magichour.ai/pricing"
    )
    advice = (
        "the account has not enough credits, or its plan does not include this; "
        "see https://magichour.ai/pricing"
    )
    _advice_by_code: ClassVar[Mapping[str | None, str]] = {
        "insufficient_credits": "buy more credits at https://magichour.ai/pricing",
        "plan_upgrade_required": _UPGRADE,
        "subscription_required": _UPGRADE,
    }

    @property
    def is_about_plan(self) -> bool:
        """Return whether the plan is what is missing, which concerns this input alone, not the credits."""
        return self.advice == self._UPGRADE


class MagicHourPermissionError(MagicHourApiError, AirflowFailException):
    """403: the key is valid, but the plan does not include what was asked for."""

    advice = (
        "the key is valid, but the account's plan does not include this model, resolution or "
        "feature; choose another or upgrade at https://magichour.ai/pricing"
    )


class MagicHourNotFoundError(MagicHourApiError, AirflowFailException):
    """404: no such thing for this account, or it was deleted."""

    advice = (
        "check the id, that the kind fits it, and that the connection's key belongs to the account "
        "that made it; it may also have been deleted"
    )


class MagicHourWrongKindError(MagicHourNotFoundError):
    """
    The id is of a project of another kind than was given.

    :param project_id: the project.
    :param kind: the kind under which it was not found.
    :param found: the kind that it is of.
    """

    def __init__(self, project_id: str, kind: str, found: str) -> None:
        super().__init__(404, f"project {project_id} is of kind {found!r}, not {kind!r}")
        self.args = (project_id, kind, found)

    def __str__(self) -> str:
        project_id, kind, found = self.args
        return f"Project {project_id} is {_a(found)}, not {_a(kind)} - pass kind={found!r}"


class MagicHourInvalidRequestError(MagicHourApiError, AirflowFailException):
    """400 or 422: the input was rejected."""

    advice = "correct the input; sending the same again will not help"


class MagicHourRateLimitError(MagicHourApiError):
    """429: too many requests, or too many projects rendering at once for the plan."""

    advice = (
        "lower requests_per_second in the connection's extra, or run fewer tasks at once "
        "(an Airflow pool); a later try may pass"
    )


class MagicHourServerError(MagicHourApiError):
    """5xx: Magic Hour, or a gateway on the way to it, failed."""

    advice = "Magic Hour, or a gateway on the way to it, is unavailable; a later try may pass"


class _FailedProjectError(MagicHourError):
    """
    A project ended in ``error``.

    :param project_id: the project.
    :param code: Magic Hour's error code, such as ``no_source_face``, or None.
    :param message: Magic Hour's own words, or None.
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
    """A render failed for no fault of the input, so Airflow's ``retries`` may cure it."""

    advice = "the input is not to blame and its credits are refunded; a retry of the task submits it again"


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


class MagicHourTimeoutError(MagicHourError):
    """
    A wait reached its deadline; the project goes on at Magic Hour.

    :param message: what was waited for, how long, and what to do.
    :param project_id: the project, where it was one.
    """

    def __init__(self, message: str, project_id: str | None = None) -> None:
        super().__init__(message, project_id)
        self.project_id = project_id

    def __str__(self) -> str:
        return str(self.args[0])


class MagicHourSensorTimeoutError(MagicHourTimeoutError, AirflowSensorTimeout):
    """A sensor's wait reached its deadline, in any mode."""


class MagicHourDownloadError(MagicHourError):
    """
    A file could not be fetched or stored whole; nothing broken was left under its final name.

    :param message: which file, what happened, and what to do.
    :param project_id: the project, where it is known.
    """

    def __init__(self, message: str, project_id: str | None = None) -> None:
        super().__init__(message, project_id)
        self.project_id = project_id

    def __str__(self) -> str:
        return str(self.args[0])


class MagicHourUploadError(MagicHourError):
    """A file could not be uploaded; nothing was paid for, and a later try may pass."""


class MagicHourBudgetError(MagicHourError, AirflowFailException):
    """A create call was not made, because it might cost more than ``max_credits`` or the account allows."""


class MagicHourBatchError(MagicHourError):
    """Several of a list's bodies or projects failed; a retry works on those alone, and may cure some."""


class MagicHourBatchFailedError(MagicHourBatchError, AirflowFailException):
    """Several of a list's bodies or projects failed, and a retry would cure none of them."""


def batch_error(failed: Mapping[str, MagicHourError], total: int, note: str = "") -> MagicHourError:
    """
    Return the errors of a list as one, which a retry may cure where it may cure one of them.

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
    Something failed after a submit of which nothing was recorded, so a retry would pay again.

    The message names the projects that were paid for.
    """


class MagicHourUncertainSubmitError(MagicHourError, AirflowFailException):
    """
    Nobody knows whether a create call was accepted, so it was not sent a second time.

    Look into the library at https://magichour.ai/my-library: where the project is there, use its id;
    where it is not, clear the task, which submits again.
    """

    #: Whether a gateway on the way returned what proves nothing: the next create call would meet it, too.
    from_gateway = False

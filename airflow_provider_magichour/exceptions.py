"""
Everything that can go wrong at Magic Hour, each with what to do about it.

What a retry cannot mend is also an ``AirflowFailException``: the task fails at once instead of using
up its retries on a bad key, an empty account or a rejected input.
"""

from __future__ import annotations

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
    "MagicHourTimeoutError",
    "MagicHourUncertainSubmitError",
    "MagicHourUploadError",
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
    """Magic Hour could not be reached, or the connection broke before a whole answer arrived."""


class MagicHourApiError(MagicHourError):
    """
    Magic Hour answered with an error.

    :param status_code: the HTTP status.
    :param message: what the API said, in its own words.
    :param call: the call that was answered, such as ``GET /v1/image-projects/abc``.
    """

    advice: ClassVar[str] = ""
    #: Whether the answer was in Magic Hour's own form; a web page is of something on the way to it.
    is_own = True

    def __init__(self, status_code: int, message: str, call: str | None = None) -> None:
        super().__init__(status_code, message, call)
        self.status_code = status_code  # type: ignore[assignment]  # Airflow's is an HTTPStatus, 599 is none
        self.message = message
        self.call = call

    def __str__(self) -> str:
        said = f"{self.call or 'Magic Hour'} answered {self.status_code}: {self.message}"
        return f"{said} - {self.advice}" if self.advice else said


class MagicHourAuthenticationError(MagicHourApiError, AirflowFailException):
    """401: the API key is wrong, revoked or missing."""

    advice = (
        "check the API key in the connection's password; "
        "keys are made at https://magichour.ai/developer?tab=api-keys"
    )


class MagicHourPaymentRequiredError(MagicHourApiError, AirflowFailException):
    """402: not enough credits."""

    advice = "the account has not enough credits; buy more at https://magichour.ai/pricing"


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
    """5xx: Magic Hour is in trouble."""

    advice = "Magic Hour is in trouble; a later try may pass"


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

    advice = "its credits are refunded; correct the input and submit it anew"


class MagicHourRenderError(_FailedProjectError):
    """A render failed for no fault of the input, so Airflow's ``retries`` may mend it."""

    advice = "the input is not to blame and its credits are refunded; a retry of the task submits it anew"


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
            "clear the task to submit it anew"
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
    """Several of a list's bodies or projects failed; a retry works on those alone, and may mend some."""


class MagicHourBatchFailedError(MagicHourBatchError, AirflowFailException):
    """Several of a list's bodies or projects failed, and a retry would mend none of them."""


class MagicHourUncertainSubmitError(MagicHourError, AirflowFailException):
    """
    Nobody knows whether a create call was accepted, so it was not sent a second time.

    Look into the library at https://magichour.ai/my-library: where the project is there, use its id;
    where it is not, clear the task, which submits anew.
    """

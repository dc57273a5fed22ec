from __future__ import annotations

import pickle

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
)

from airflow_provider_magichour import exceptions as errors

EXAMPLES = [
    errors.MagicHourError("x"),
    errors.MagicHourApiError(418, "teapot", "GET /v1/account"),
    errors.MagicHourAuthenticationError(401, "Unauthorized"),
    errors.MagicHourPaymentRequiredError(402, "Payment required"),
    errors.MagicHourPermissionError(403, "not in your plan"),
    errors.MagicHourNotFoundError(404, "Not Found"),
    errors.MagicHourInvalidRequestError(422, "style.prompt is required"),
    errors.MagicHourGatewayError(403, "<html>", "GET /v1/account"),
    errors.MagicHourWrongKindError("abc", "video", "image"),
    errors.MagicHourRateLimitError(429, "slow down"),
    errors.MagicHourServerError(503, "busy"),
    errors.MagicHourConnectionError("no route"),
    errors.MagicHourConnectionNotFoundError("no such connection"),
    errors.MagicHourProjectFailedError("abc", "no_source_face", "no face"),
    errors.MagicHourProjectCanceledError("abc"),
    errors.MagicHourRenderError("abc", "unknown_error", None),
    errors.MagicHourTimeoutError("took too long", "abc"),
    errors.MagicHourSensorTimeoutError("took too long", "abc"),
    errors.MagicHourDownloadError("disk full", "abc"),
    errors.MagicHourUncertainSubmitError("unknown"),
    errors.MagicHourUnrecordedSubmitError("paid for: p1"),
    errors.MagicHourSubmitRecordError("not written"),
    errors.MagicHourArgumentError("kind"),
    errors.MagicHourUploadError("storage away"),
    errors.MagicHourBudgetError("too expensive"),
    errors.MagicHourBatchError("2 of 3 failed"),
    errors.MagicHourBatchFailedError("2 of 3 failed"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
class TestEveryError:
    def test_every_error_is_an_airflow_exception(self, error):
        assert isinstance(error, errors.MagicHourError)
        assert isinstance(error, AirflowException)

    def test_errors_survive_serialization(self, error):
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
        _, args, kwargs = error.serialize()
        assert str(type(error)(*args, **kwargs)) == str(error)


def test_every_public_error_has_an_example():
    assert {type(error).__name__ for error in EXAMPLES} == set(errors.__all__)


def test_permanent_errors_fail_the_task_at_once():
    final = {type(error).__name__ for error in EXAMPLES if isinstance(error, AirflowFailException)}
    assert final == {
        "MagicHourArgumentError",
        "MagicHourAuthenticationError",
        "MagicHourBatchFailedError",
        "MagicHourBudgetError",
        "MagicHourInvalidRequestError",
        "MagicHourNotFoundError",
        "MagicHourPaymentRequiredError",
        "MagicHourPermissionError",
        "MagicHourProjectCanceledError",
        "MagicHourProjectFailedError",
        "MagicHourUncertainSubmitError",
        "MagicHourUnrecordedSubmitError",
        "MagicHourWrongKindError",
    }


def test_sensor_timeout_is_both_airflows_and_ours():
    error = errors.MagicHourSensorTimeoutError("took too long", "abc")
    assert isinstance(error, AirflowSensorTimeout)
    assert isinstance(error, errors.MagicHourTimeoutError)


def test_api_error_names_call_status_message_and_cure():
    error = errors.MagicHourPaymentRequiredError(402, "Payment required", "POST /v1/text-to-video")
    assert str(error).startswith("POST /v1/text-to-video returned 402: Payment required - ")
    assert "credits" in str(error)


def test_failed_project_error_names_id_code_and_message():
    text = str(errors.MagicHourProjectFailedError("abc", "no_source_face", "Use an image with a face"))
    assert "abc" in text
    assert "no_source_face" in text
    assert "Use an image with a face" in text

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._client import api, sanitize
from airflow_provider_magichour.tools import KINDS, TOOLS

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
GET = api.get_project("image", "abc")
CREATE = api.create_project("text-to-video", {"end_seconds": 5})


def failed_project(code):
    return {"id": "abc", "status": "error", "error": {"code": code, "message": "x"}}


def make_response(status=200, body=b"", **headers):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return api.Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


class TestRequests:
    @pytest.mark.parametrize("kind", KINDS)
    def test_projects_are_read_and_deleted_by_kind(self, kind):
        assert str(api.get_project(kind, "abc")) == f"GET /v1/{kind}-projects/abc"
        assert str(api.delete_project(kind, "abc")) == f"DELETE /v1/{kind}-projects/abc"

    @pytest.mark.parametrize("tool", TOOLS)
    def test_every_tool_is_created_by_its_own_route_and_never_repeated(self, tool):
        request = api.create_project(tool, {"a": 1})
        assert (str(request), request.body, request.repeatable) == (f"POST /v1/{tool}", b'{"a": 1}', False)

    def test_upload_urls_cost_nothing_and_are_repeated(self):
        request = api.upload_urls([("image", "png")])
        assert json.loads(request.body) == {"items": [{"type": "image", "extension": "png"}]}
        assert request.repeatable

    def test_face_detections_are_a_resource_of_their_own(self):
        assert str(api.detect_faces({"assets": {}})) == "POST /v1/face-detection"
        assert not api.detect_faces({"assets": {}}).repeatable
        assert str(api.get_face_detection("abc")) == "GET /v1/face-detection/abc"
        with pytest.raises(errors.MagicHourArgumentError, match="detection_id"):
            api.get_face_detection("../account")

    @pytest.mark.parametrize("method", ["GET", "head", "PUT", "DELETE"])
    def test_idempotent_custom_call_is_retried(self, method):
        assert api.custom(method, "/v1/saved-items", params={"limit": 5}).repeatable

    @pytest.mark.parametrize("method", ["POST", "patch"])
    def test_custom_call_that_may_cost_is_not_retried(self, method):
        assert not api.custom(method, "/v1/new-tool", json={}).repeatable

    @pytest.mark.parametrize(
        "path",
        ["v1/x", "//evil.example/x", "/v1/../x", "/v1/%2e%2E/x", "/v1/x?a", "/v1/a b", "/v1\\x", "", None],
    )
    def test_custom_path_stays_within_the_api(self, path):
        with pytest.raises(errors.MagicHourArgumentError, match="path"):
            api.custom("GET", path)

    def test_custom_body_must_be_json(self):
        with pytest.raises(errors.MagicHourArgumentError, match="JSON"):
            api.custom("POST", "/v1/new-tool", json={"when": NOW})

    def test_unknown_method_is_refused(self):
        with pytest.raises(errors.MagicHourArgumentError, match="method"):
            api.custom("FETCH", "/v1/account")


class TestResult:
    def test_response_keeps_unknown_fields(self):
        assert api.result(GET, make_response(200, {"id": "abc", "news": [1]})) == {"id": "abc", "news": [1]}
        assert api.result(api.delete_project("image", "abc"), make_response(204)) is None

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (400, errors.MagicHourInvalidRequestError),
            (401, errors.MagicHourAuthenticationError),
            (402, errors.MagicHourPaymentRequiredError),
            (403, errors.MagicHourPermissionError),
            (404, errors.MagicHourNotFoundError),
            (409, errors.MagicHourApiError),
            (422, errors.MagicHourInvalidRequestError),
            (429, errors.MagicHourRateLimitError),
            (500, errors.MagicHourServerError),
            (599, errors.MagicHourServerError),
        ],
    )
    def test_each_status_has_its_error_with_the_apis_own_words(self, status, error):
        with pytest.raises(errors.MagicHourApiError, match="in its own words") as caught:
            api.result(GET, make_response(status, {"message": "in its own words"}))
        assert type(caught.value) is error
        assert caught.value.status_code == status
        assert caught.value.message == "in its own words"

    @pytest.mark.parametrize(
        ("code", "cure", "is_about_plan"),
        [
            ("insufficient_credits", "buy more credits", False),
            ("plan_upgrade_required", "plan does not include", True),
            ("subscription_required", "plan does not include", True),
            (None, "enough credits, or its plan", False),
            ("brand_new", "enough credits, or its plan", False),
        ],
    )
    def test_cure_of_a_402_follows_its_code(self, code, cure, is_about_plan):
        body = {"message": "Payment required", **({"code": code} if code else {})}
        with pytest.raises(errors.MagicHourPaymentRequiredError, match=cure) as caught:
            api.result(CREATE, make_response(402, body))
        assert (caught.value.code, caught.value.is_about_plan) == (code, is_about_plan)

    def test_every_error_carries_the_code(self):
        with pytest.raises(
            errors.MagicHourNotFoundError, match=r"returned 404 \(not_found\): gone"
        ) as caught:
            api.result(GET, make_response(404, {"code": "not_found", "message": "gone"}))
        assert caught.value.code == "not_found"

    @pytest.mark.parametrize(
        ("message", "hint"),
        [
            ("style.prompt must be a string", True),
            ("end_seconds must be a number", True),
            ("Expected string, received number", True),
            ("style.prompt is required", False),
        ],
    )
    def test_value_of_the_wrong_type_gets_the_template_hint(self, message, hint):
        with pytest.raises(errors.MagicHourInvalidRequestError) as caught:
            api.result(CREATE, make_response(400, {"message": message}))
        assert ("render_template_as_native_obj" in str(caught.value)) is hint

    def test_redirect_is_an_error(self):
        with pytest.raises(errors.MagicHourApiError, match="redirect to 'https://elsewhere"):
            api.result(GET, make_response(302, location="https://elsewhere.example/"))

    @pytest.mark.parametrize("body", [b"<html>welcome</html>", b"\xff", b"[" * 100_000, b"9" * 10_000])
    def test_success_that_is_not_json_names_the_host_as_the_likely_cause(self, body):
        with pytest.raises(errors.MagicHourApiError, match="host"):
            api.result(GET, make_response(200, body))

    @pytest.mark.parametrize(
        "body",
        [b"", b"[]", b"null", b'"abc"', b'{"id": "other", "status": "error"}', b'{"status": ["complete"]}'],
    )
    def test_response_about_another_project_is_an_error(self, body):
        with pytest.raises(errors.MagicHourApiError, match="asked for"):
            api.result(GET, make_response(200, body))


class TestMoney:
    """A create call is sent again only when it was certainly not accepted."""

    @pytest.mark.parametrize("status", [502, 503])
    def test_create_call_that_magic_hour_itself_refused_is_sent_again(self, status):
        assert api.may_send_again(CREATE, make_response(status, {"code": "unavailable", "message": "later"}))

    @pytest.mark.parametrize("body", [b"<html>", b"", b'{"message": "slow down"}'])
    def test_rate_limited_create_call_is_sent_again_whoever_says_so(self, body):
        assert api.may_send_again(CREATE, make_response(429, body))

    @pytest.mark.parametrize("status", [502, 503])
    @pytest.mark.parametrize(
        "body",
        [
            b"<html>Bad gateway</html>",
            b"",
            b"[]",
            b"\xff",
            b'{"message": "An invalid response was received from the upstream server"}',  # Kong
            b'{"message": "Internal server error", "code": null}',
            b'{"error": "upstream", "code": "502"}',
            b'{"code": "unavailable", "message": {"text": "later"}}',
            b'{"code": "unavailable", "message": "later", "id": "abc"}',
            b'{"code": "unavailable", "message": "later", "id": 7}',
        ],
    )
    def test_gateway_error_proves_nothing_about_a_create_call(self, status, body):
        response = make_response(status, body)
        assert not api.may_send_again(CREATE, response)
        with pytest.raises(errors.MagicHourUncertainSubmitError, match="my-library"):
            api.result(CREATE, response)
        assert api.may_send_again(GET, response)

    @pytest.mark.parametrize(
        ("body", "from_gateway"),
        [
            (b"<html>", True),
            (b'{"message": "An invalid response was received"}', True),
            (b'{"code": "internal_server_error", "message": "oh"}', False),
        ],
    )
    def test_uncertain_submit_says_whether_a_gateway_is_the_cause(self, body, from_gateway):
        with pytest.raises(errors.MagicHourUncertainSubmitError) as caught:
            api.result(CREATE, make_response(504, body))
        assert caught.value.from_gateway is from_gateway

    @pytest.mark.parametrize("status", [200, 302, 400, 401, 402, 403, 404, 408, 422, 499, 500, 501, 504, 520])
    def test_other_create_call_is_not_sent_again(self, status):
        assert not api.may_send_again(CREATE, make_response(status))

    @pytest.mark.parametrize("status", [429, 502, 503])
    def test_refusal_with_an_id_counts_as_accepted(self, status):
        response = make_response(status, {"id": "abc"})
        assert not api.may_send_again(CREATE, response)
        with pytest.raises(errors.MagicHourUncertainSubmitError):
            api.result(CREATE, response)

    @pytest.mark.parametrize("status", [101, 302, 408, 499, 500, 501, 504, 520])
    def test_ambiguous_response_is_uncertain(self, status):
        with pytest.raises(errors.MagicHourUncertainSubmitError, match=r"text-to-video.*my-library"):
            api.result(CREATE, make_response(status, {"message": "oh"}))

    @pytest.mark.parametrize(
        "body",
        [b"", b"{}", b"[]", b"null", b"<html>", b"\xff", b'{"id": null}', b'{"id": ""}', b'{"id": "../x"}'],
    )
    def test_success_without_a_readable_id_is_uncertain(self, body):
        with pytest.raises(errors.MagicHourUncertainSubmitError, match="without an id"):
            api.result(CREATE, make_response(200, body))

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
    def test_id_is_read_in_every_json_encoding(self, encoding):
        response = make_response(200, '{"id": "abc"}'.encode(encoding))
        assert api.result(CREATE, response) == {"id": "abc"}

    def test_any_post_whose_success_cannot_be_read_is_uncertain(self):
        with pytest.raises(errors.MagicHourUncertainSubmitError, match="not JSON"):
            api.result(api.custom("POST", "/v1/new-tool"), make_response(200, b"<html>"))

    @pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422])
    @pytest.mark.parametrize("body", [b'{"message": "no"}', b"<html>no", b""])
    def test_refusal_is_certain_whoever_gives_it(self, status, body):
        with pytest.raises(errors.MagicHourApiError):
            api.result(CREATE, make_response(status, body))

    @pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
    @pytest.mark.parametrize("body", [b"<html>Access denied</html>", b"", b"[]", b'{"error": "denied"}'])
    def test_page_of_a_firewall_blames_neither_plan_nor_input(self, status, body):
        for request in (GET, CREATE):
            with pytest.raises(errors.MagicHourGatewayError, match="firewall") as caught:
                api.result(request, make_response(status, body))
            assert not isinstance(caught.value, AirflowFailException)

    def test_custom_post_may_return_no_id(self):
        assert api.result(api.custom("POST", "/v1/x"), make_response(200, {"ok": True})) == {"ok": True}

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 520])
    def test_call_without_cost_is_retried_on_transient_errors(self, status):
        assert api.may_send_again(GET, make_response(status))
        assert api.may_send_again(api.delete_project("video", "abc"), make_response(status))

    @pytest.mark.parametrize("status", [200, 204, 400, 401, 402, 403, 404, 422])
    def test_permanent_errors_are_not_retried(self, status):
        assert not api.may_send_again(GET, make_response(status))


class TestQuotedMessage:
    @given(st.binary(max_size=2000))
    def test_any_body_gives_one_bounded_printable_line(self, body):
        line = api.quoted_message(make_response(500, body))
        assert 0 < len(line) <= sanitize.MAX_QUOTED + 3
        assert line.isprintable()

    @pytest.mark.parametrize(
        ("body", "line"),
        [
            (b"", "(no message)"),
            (b'{"message": "Missing request body"}', "Missing request body"),
            (b'{"message": "a\\n[ERROR] forged\\u202e"}', "a [ERROR] forged"),
            (b"<html><style>b{}</style><title>502</title><p>Bad  gateway</html>", "502 Bad gateway"),
            (b"[" * 100_000, "[" * sanitize.MAX_QUOTED + "..."),
        ],
    )
    def test_message_is_the_apis_own_where_there_is_one(self, body, line):
        assert api.quoted_message(make_response(500, body)) == line


class TestRetryAfter:
    @given(st.integers(0, 10**8))
    def test_retry_after_reads_seconds(self, seconds):
        assert api.retry_after_seconds(make_response(429, retry_after=str(seconds)), NOW) == seconds

    @given(st.integers(-(10**6), 10**6))
    def test_retry_after_reads_a_date(self, seconds):
        when = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
        assert api.retry_after_seconds(make_response(429, retry_after=when), NOW) == max(seconds, 0)

    @given(st.text())
    def test_malformed_retry_after_is_ignored(self, text):
        seconds = api.retry_after_seconds(make_response(429, retry_after=text), NOW)
        assert seconds is None or seconds >= 0

    @pytest.mark.parametrize("text", ["", "soon", "-5", "nan", "inf", "1e9", "٣"])
    def test_retry_after_that_is_no_number_is_ignored(self, text):
        assert api.retry_after_seconds(make_response(429, retry_after=text), NOW) is None


class TestProjects:
    @pytest.mark.parametrize("status", ["complete", "error", "canceled"])
    def test_terminal_statuses_finish(self, status):
        assert api.is_finished({"status": status, "enabled": True})

    @pytest.mark.parametrize("status", ["draft", "queued", "rendering", "brand-new", None])
    def test_other_statuses_are_waited_on(self, status):
        assert not api.is_finished({"status": status})

    def test_deleted_project_is_finished_and_not_found(self):
        project = {"id": "abc", "status": "complete", "enabled": False}
        assert api.is_finished(project)
        assert isinstance(api.project_error(project), errors.MagicHourNotFoundError)

    def test_complete_project_is_no_error(self):
        assert api.project_error({"id": "abc", "status": "complete", "enabled": True}) is None

    def test_failed_project_error_quotes_code_and_message(self):
        error = api.project_error(
            {"id": "abc", "status": "error", "error": {"code": "no_source_face", "message": "no face"}}
        )
        assert isinstance(error, errors.MagicHourProjectFailedError)
        assert (error.project_id, error.code, error.message) == ("abc", "no_source_face", "no face")

    @pytest.mark.parametrize("details", [None, "text", {}, [], {"code": ["x"], "message": {}}])
    def test_failed_project_error_without_details_names_the_id(self, details):
        error = api.project_error({"id": "abc", "status": "error", "error": details})
        assert isinstance(error, errors.MagicHourProjectFailedError)
        assert (error.project_id, error.code) == ("abc", None)

    def test_canceled_project_raises_the_canceled_error(self):
        error = api.project_error({"id": "abc", "status": "canceled"})
        assert isinstance(error, errors.MagicHourProjectCanceledError)

    @pytest.mark.parametrize("code", ["processing_timeout", "unknown_error", None])
    def test_failed_render_is_retryable_where_the_input_is_valid(self, code):
        error = api.task_error(failed_project(code))
        assert isinstance(error, errors.MagicHourRenderError)
        assert (error.project_id, error.code, error.message) == ("abc", code, "x")

    def test_failed_render_is_final_where_the_input_is_invalid(self):
        error = api.task_error(failed_project("no_source_face"))
        assert type(error) is errors.MagicHourProjectFailedError

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import ClassVar

import pytest
import requests
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._client import retry
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.simulator import Simulator
from tests.support.scripted_server import Reply, scripted_server

KEY = "mhk_live_very_secret"
ACCOUNT = Reply(body={"id": "account-1", "credits": 100})
GONE = Reply(404, {"code": "not_found", "message": "gone"})


@pytest.fixture
def hook(server, monkeypatch):
    monkeypatch.setattr(retry.random, "random", lambda: 0.0)
    extra = {"timeout": 5, "max_attempts": 2}
    connection = {"conn_type": "magichour", "password": KEY, "host": server.url, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", json.dumps(connection))
    return MagicHourHook()


def replace_key(sim):
    old = sim.api_key
    sim.add_api_key("mhk_live_the_new_one")
    sim.revoke_api_key(old)


def routes(server):
    return sorted(f"{seen.method} {seen.path}" for seen in server.seen)


class TestProjects:
    def test_one_project_is_read(self, server, hook):
        server.script(Reply(body={"id": "a", "status": "brand-new"}))
        assert hook.get_project("image", "a") == {"id": "a", "status": "brand-new"}

    def test_list_is_read_in_order(self, server, hook):
        server.answer = lambda seen: Reply(body={"id": seen.path[-1]})
        assert [project["id"] for project in hook.get_project("image", ["c", "a", "c"])] == ["c", "a", "c"]

    def test_missing_project_of_a_list_is_named(self, server, hook):
        server.answer = lambda seen: GONE if seen.path.endswith("b") else Reply(body={})
        with pytest.raises(errors.MagicHourNotFoundError, match="image-projects/b") as caught:
            hook.get_project("image", ["a", "b"])
        assert caught.value.__notes__ == ["1 of 2 failed: b"]

    def test_several_failures_are_raised_as_one_error(self, server, hook):
        server.script(Reply(404, {"message": "gone"}))
        with pytest.raises(errors.MagicHourError, match=r"2 of 2.*a:.*gone.*b:.*gone"):
            hook.get_project("image", ["a", "b"])

    @pytest.mark.parametrize("project_id", [None, "", "../account", ["a", ""], "a?b"])
    def test_bad_id_is_refused_before_any_request(self, server, hook, project_id):
        for verb in (hook.get_project, hook.delete_project):
            with pytest.raises(errors.MagicHourArgumentError, match="project_id"):
                verb("image", project_id)
        assert server.seen == []

    def test_bad_kind_is_refused_before_any_request(self, server, hook):
        for verb in (hook.get_project, hook.delete_project):
            with pytest.raises(errors.MagicHourArgumentError, match="kind"):
                verb("picture", "a")
        assert server.seen == []


class TestDelete:
    def test_deleted_and_missing_projects_are_distinguished(self, server, hook):
        server.answer = lambda seen: GONE if seen.path.endswith("b") else Reply(204)
        assert hook.delete_project("video", "a") is True
        assert hook.delete_project("video", "b") is False
        assert hook.delete_project("video", ["a", "b"]) == [True, False]

    def test_missing_ok_false_raises_not_found(self, server, hook):
        server.script(GONE)
        with pytest.raises(errors.MagicHourNotFoundError):
            hook.delete_project("video", "a", missing_ok=False)

    def test_all_projects_are_tried_before_the_error(self, server, hook):
        server.answer = lambda seen: (
            Reply(422, {"message": "template"}) if seen.path.endswith("a") else Reply(204)
        )
        with pytest.raises(errors.MagicHourInvalidRequestError, match="template"):
            hook.delete_project("video", ["a", "b", "c"])
        assert routes(server) == [f"DELETE /v1/video-projects/{project_id}" for project_id in "abc"]

    @pytest.mark.parametrize(("second", "final"), [(422, True), (404, True), (501, False)])
    def test_several_failures_are_final_only_if_all_are(self, server, hook, second, final):
        server.answer = lambda seen: Reply(422 if seen.path.endswith("a") else second, {"message": "no"})
        with pytest.raises(errors.MagicHourBatchError, match=r"2 of 2 failed: a: .* b: ") as caught:
            hook.delete_project("video", ["a", "b"], missing_ok=False)
        assert isinstance(caught.value, AirflowFailException) is final


class TestCreate:
    def test_one(self, server, hook):
        server.script(ACCOUNT, Reply(body={"id": "a", "credits_charged": 5}))
        assert hook.create_project("text-to-video", {"end_seconds": 5}) == {"id": "a", "credits_charged": 5}
        assert routes(server) == ["GET /v1/account", "POST /v1/text-to-video"]

    def test_list_is_checked_before_the_first_submit(self, server, hook):
        with pytest.raises(errors.MagicHourArgumentError, match=r"body\[1\]"):
            hook.create_project("text-to-video", [{}, None])
        assert server.seen == []

    def test_failed_list_names_the_started_projects(self, server, hook):
        server.script(
            ACCOUNT, Reply(body={"id": "first", "credits_charged": 5}), Reply(402, {"message": "no credits"})
        )
        with pytest.raises(errors.MagicHourPaymentRequiredError) as caught:
            hook.create_project("text-to-video", [{}, {}])
        assert "first" in " ".join(caught.value.__notes__)

    def test_list_that_a_retry_would_pay_for_again_fails_for_good(self, server, hook):
        busy = Reply(503, {"code": "unavailable", "message": "busy"})
        server.script(ACCOUNT, Reply(body={"id": "first", "credits_charged": 5}), busy)
        with pytest.raises(errors.MagicHourBatchFailedError, match=r"busy.*started before this: first"):
            hook.create_project("text-to-video", [{}, {}])
        server.script(busy)
        with pytest.raises(errors.MagicHourServerError):  # nothing was started: a retry is free
            hook.create_project("text-to-video", [{}, {}])

    def test_unknown_tool_needs_a_kind(self, server, hook):
        with pytest.raises(errors.MagicHourArgumentError, match="kind="):
            hook.create_project("brand-new", {})
        server.script(Reply(body={"id": "a"}))
        assert hook.create_project("brand-new", {}, kind="audio") == {"id": "a"}


class TestCheckAccount:
    """Before the first create call, Magic Hour itself must be seen to respond."""

    BODY: ClassVar = {"end_seconds": 5}

    def posts(self, server):
        return [seen for seen in server.seen if seen.method == "POST"]

    @pytest.mark.parametrize(
        "account",
        [
            ACCOUNT,
            GONE,
            Reply(404, {"message": "Not Found"}),
            Reply(403, {"code": "forbidden", "message": "no"}),
            Reply(body={"credits": 7}),
        ],
    )
    def test_any_response_of_magic_hours_own_will_do(self, server, hook, account):
        server.answer = lambda seen: account if seen.method == "GET" else Reply(body={"id": "a"})
        assert hook.create_project("text-to-video", self.BODY) == {"id": "a"}
        assert hook.create_project("text-to-video", self.BODY) == {"id": "a"}
        assert routes(server) == ["GET /v1/account", "POST /v1/text-to-video", "POST /v1/text-to-video"]

    @pytest.mark.parametrize(
        "account",
        [
            Reply(200, b"<html>Sign in to the network</html>"),
            Reply(200, b""),
            Reply(200, {"status": "ok"}),
            Reply(200, []),
            Reply(302, headers={"Location": "https://login.example"}),
            Reply(403, b"<html>Access denied</html>"),
            Reply(404, b""),
            Reply(502, b"<html>Bad gateway</html>"),
            Reply(503, {"code": "unavailable", "message": "busy"}),
            Reply(429, {"message": "slow down"}),
            Reply(drop=True),
        ],
    )
    def test_nothing_is_sent_where_something_else_responds_and_a_retry_may_pass(self, server, hook, account):
        server.answer = lambda seen: account if seen.method == "GET" else Reply(body={"id": "a"})
        for call in (
            lambda: hook.create_project("text-to-video", self.BODY),
            lambda: hook.create_project("text-to-video", [self.BODY]),
            lambda: hook.detect_faces({"assets": {}}),
            lambda: hook.request("POST", "/v1/new-tool", {}),
        ):
            with pytest.raises(errors.MagicHourError) as caught:
                call()
            assert not isinstance(caught.value, AirflowFailException)
        assert self.posts(server) == []
        server.answer = lambda seen: ACCOUNT if seen.method == "GET" else Reply(body={"id": "a"})
        assert hook.create_project("text-to-video", self.BODY) == {"id": "a"}

    def test_unknown_key_is_final(self, server, hook):
        server.script(Reply(401, {"message": "Unauthorized"}))
        with pytest.raises(errors.MagicHourAuthenticationError):
            hook.create_project("text-to-video", self.BODY)
        assert self.posts(server) == []

    def test_threads_ask_once(self, server, hook):
        server.answer = lambda seen: ACCOUNT if seen.method == "GET" else Reply(body={"id": "a"})
        with ThreadPoolExecutor(8) as executor:
            list(executor.map(lambda _: hook.create_project("text-to-video", self.BODY), range(8)))
        assert routes(server).count("GET /v1/account") == 1

    def test_account_id_is_read_once_and_none_where_it_cannot_be_read(self, server, hook, caplog):
        server.script(Reply(503, {"code": "unavailable", "message": "busy"}))
        assert hook.account_id is None
        assert "busy" in caplog.text
        server.script(ACCOUNT)
        assert [hook.account_id, hook.account_id] == ["account-1", "account-1"]
        assert routes(server) == ["GET /v1/account"]

    def test_account_id_follows_a_replaced_key(self, connect):
        with Simulator(duration=0) as sim:
            connect(sim.url, sim.api_key)
            hook = MagicHourHook()
            first = hook.account_id
            other = sim.add_account("mhk_live_of_another_account")
            sim.revoke_api_key(sim.api_key)
            connect(sim.url, "mhk_live_of_another_account")
            hook.get_account()
            assert (hook.account_id, other) == (other, hook.account_id)
            assert other != first


class TestBehindAGateway:
    """A fake gateway that returns errors also after the API took the call; accepted POSTs are counted."""

    def create_through(self, connect, page, body=None):
        with scripted_server() as api_server, scripted_server() as gateway:
            api_server.answer = lambda seen: ACCOUNT if seen.method == "GET" else Reply(body={"id": "a"})

            def forward(seen):
                url = api_server.url + seen.path
                made = requests.request(seen.method, url, data=seen.body, headers={}, timeout=5)
                return page if seen.method == "POST" else Reply(made.status_code, made.content)

            gateway.answer = forward
            connect(gateway.url, KEY, max_attempts=5)
            try:
                return MagicHourHook().create_project("text-to-video", body or {"end_seconds": 5})
            finally:
                self.accepted = len([seen for seen in api_server.seen if seen.method == "POST"])

    @pytest.mark.parametrize("status", [408, 499, 500, 502, 503, 504])
    @pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"", b'{"message": "upstream"}'])
    def test_one_try_pays_once(self, connect, status, body):
        with pytest.raises(errors.MagicHourUncertainSubmitError) as caught:
            self.create_through(connect, Reply(status, body))
        assert self.accepted == 1
        assert isinstance(caught.value, AirflowFailException)  # Airflow does not retry

    def test_gateway_error_stops_the_rest_of_a_list(self, connect):
        with pytest.raises(errors.MagicHourUncertainSubmitError):
            self.create_through(connect, Reply(502, b"<html>"), [{}, {}, {}])
        assert self.accepted == 1


class TestPassingOnWhatATaskReturned:
    CREATED: ClassVar = {"id": "a", "kind": "video", "tool": "face-swap", "credits_charged": 5}

    def test_kind_comes_from_the_value(self, server, hook):
        server.script(Reply(body={"id": "a", "status": "complete"}))
        generated = {"project": {"id": "a", "kind": "video"}, "files": []}
        assert hook.get_project(None, self.CREATED)["id"] == "a"
        assert [one["id"] for one in hook.get_project(None, [self.CREATED, generated])] == ["a", "a"]
        assert hook.wait_for_project(None, generated, timedelta(seconds=30))["id"] == "a"
        assert hook.check_result(None, self.CREATED, False, False)["id"] == "a"
        assert hook.delete_project(None, self.CREATED) is True
        assert hook.delete_project(None, [generated]) == [True]
        assert {seen.path for seen in server.seen} == {"/v1/video-projects/a"}

    def test_contradicting_kind_never_leaves(self, server, hook):
        for method in (hook.get_project, hook.delete_project):
            with pytest.raises(errors.MagicHourArgumentError, match="video project a"):
                method("image", self.CREATED)
        with pytest.raises(errors.MagicHourArgumentError, match="video project a"):
            hook.wait_for_project("image", self.CREATED, 5)
        with pytest.raises(errors.MagicHourArgumentError, match="kind must be given"):
            hook.get_project(None, "a")
        assert server.seen == []

    def test_empty_list_is_nothing_to_do(self, server, hook, tmp_path):
        assert hook.get_project("image", []) == []
        assert hook.wait_for_project(None, [], 5) == []
        assert hook.delete_project(None, []) == []
        assert server.seen == []


class TestWrongKind:
    @pytest.fixture
    def image(self, connect):
        with Simulator(duration=0) as sim:
            connect(sim.url, sim.api_key)
            hook = MagicHourHook()
            made = hook.create_project("ai-image-generator", {"image_count": 1, "style": {"prompt": "a"}})
            yield sim, hook, made["id"]

    def test_error_says_which_kind_it_is(self, image):
        _, hook, project_id = image
        for kind in ("video", "audio"):
            with pytest.raises(
                errors.MagicHourWrongKindError, match=rf"{project_id} is an image, not an? {kind}"
            ):
                hook.get_project(kind, project_id)
        with pytest.raises(errors.MagicHourWrongKindError, match="is an image, not a video"):
            hook.get_project("video", ["nowhere", project_id][1:])

    def test_delete_of_another_kind_fails_also_with_missing_ok(self, image):
        sim, hook, project_id = image
        for missing_ok in (True, False):
            with pytest.raises(errors.MagicHourWrongKindError, match="is an image, not a video"):
                hook.delete_project("video", project_id, missing_ok)
        with pytest.raises(errors.MagicHourWrongKindError) as caught:
            hook.delete_project("video", ["nowhere", project_id])
        assert caught.value.__notes__ == [f"1 of 2 failed: {project_id}"]
        assert sim.state()["projects"][project_id]["enabled"]
        assert hook.delete_project("image", project_id) is True

    def test_delete_is_not_missing_while_the_other_kinds_cannot_be_asked(self, server, hook):
        server.answer = lambda seen: (
            GONE if "image" in seen.path else Reply(503, {"code": "unavailable", "message": "busy"})
        )
        with pytest.raises(errors.MagicHourServerError, match="busy"):
            hook.delete_project("image", "a")


class TestOtherCalls:
    def test_custom_request_has_the_same_key_and_errors(self, server, hook):
        server.script(Reply(body={"items": []}))
        assert hook.request("get", "/v1/saved-items", params={"limit": 5}) == {"items": []}
        assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"

    def test_face_detection_returns_the_faces(self, server, hook):
        server.script(Reply(body={"id": "d", "credits_charged": 0}))
        assert hook.detect_faces({"assets": {"target_file_path": "x"}})["id"] == "d"
        server.script(Reply(body={"id": "d", "status": "complete", "faces": []}))
        assert hook.get_face_detection("d")["faces"] == []

    def test_account_is_returned(self, server, hook):
        server.script(Reply(body={"credits": 7}))
        assert hook.get_account() == {"credits": 7}

    def test_session_is_authenticated_and_pooled(self, server, hook):
        server.script(Reply(body={}))
        assert hook.get_conn() is hook.get_conn()
        hook.get_conn().get(f"{server.url}/v1/account")
        assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"


class TestAReplacedKey:
    """The key is revoked while a hook lives; the connection has the new one, or not yet."""

    @pytest.fixture
    def sim(self, connect):
        with Simulator(duration=0) as sim:
            connect(sim.url, sim.api_key)
            yield sim

    def test_new_key_is_used_after_a_401(self, sim, connect):
        hook = MagicHourHook()
        body = {"image_count": 1, "style": {"prompt": "a door"}}
        first = hook.create_project("ai-image-generator", body)["id"]
        replace_key(sim)
        connect(sim.url, sim.api_key)
        second = hook.create_project("ai-image-generator", body)["id"]
        assert set(sim.state()["projects"]) == {first, second}
        assert hook.delete_project("image", [first, second]) == [True, True]

    def test_failed_project_does_not_stop_the_batch(self, sim, connect):
        hook = MagicHourHook()
        bodies = [{"image_count": 1, "style": {"prompt": "a door"}}] * 3
        ids = [made["id"] for made in hook.create_project("ai-image-generator", bodies)]
        replace_key(sim)
        connect(sim.url, sim.api_key)
        assert [project["id"] for project in hook.get_project("image", ids)] == ids
        assert sim.state()["statuses"]["401"] == len(ids)

    @pytest.mark.parametrize("many", [False, True])
    def test_without_a_new_key_the_call_fails_for_good(self, sim, many):
        hook = MagicHourHook()
        replace_key(sim)
        with pytest.raises(errors.MagicHourAuthenticationError):
            hook.get_project("image", ["a"]) if many else hook.get_account()
        assert set(sim.state()["statuses"]) == {"401"}

    @pytest.mark.parametrize("many", [False, True])
    def test_unreadable_connection_after_a_401_is_retryable(self, sim, monkeypatch, many):
        monkeypatch.setattr(retry.random, "random", lambda: 0.0)
        hook = MagicHourHook()
        assert hook.settings
        replace_key(sim)
        monkeypatch.delenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT")
        with pytest.raises(errors.MagicHourConnectionError, match="could not be read again"):
            hook.get_project("image", ["a"]) if many else hook.get_account()


class TestTestConnection:
    def test_connection_test_shows_credits_and_plan(self, server, hook):
        server.script(Reply(body={"credits": 1234, "tier": "pro"}))
        assert hook.test_connection() == (True, "Connected to Magic Hour: 1234 credits left, plan pro")

    @pytest.mark.parametrize(
        ("reply", "words"),
        [
            (Reply(401, {"message": "Unauthorized"}), "does not know this API key"),
            (Reply(200, b"<html>hello</html>"), "host"),
            (Reply(200, {"hello": 1}), "host"),
            (Reply(503, {"message": "busy"}), "busy"),
            (Reply(drop=True), "check the network"),
        ],
    )
    def test_connection_test_names_the_error_without_a_retry(self, server, hook, reply, words):
        server.script(reply)
        worked, message = hook.test_connection()
        assert not worked
        assert words in message
        assert KEY not in message
        assert len(server.seen) == 1

    def test_connection_test_reports_a_missing_connection(self):
        worked, message = MagicHourHook("nowhere").test_connection()
        assert not worked
        assert "AIRFLOW_CONN_NOWHERE" in message

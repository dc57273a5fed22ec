from __future__ import annotations

import json

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._client import retry
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.simulator import Simulator
from tests.support.scripted_server import Reply

KEY = "mhk_live_very_secret"


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
        server.answer = lambda seen: Reply(404) if seen.path.endswith("b") else Reply(body={})
        with pytest.raises(errors.MagicHourNotFoundError, match="image-projects/b"):
            hook.get_project("image", ["a", "b"])

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
        server.answer = lambda seen: Reply(404) if seen.path.endswith("b") else Reply(204)
        assert hook.delete_project("video", "a") is True
        assert hook.delete_project("video", "b") is False
        assert hook.delete_project("video", ["a", "b"]) == [True, False]

    def test_missing_ok_false_raises_not_found(self, server, hook):
        server.script(Reply(404))
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
        server.script(Reply(body={"id": "a", "credits_charged": 5}))
        assert hook.create_project("text-to-video", {"end_seconds": 5}) == {"id": "a", "credits_charged": 5}
        assert routes(server) == ["POST /v1/text-to-video"]

    def test_list_is_checked_before_the_first_submit(self, server, hook):
        with pytest.raises(errors.MagicHourArgumentError, match=r"body\[1\]"):
            hook.create_project("text-to-video", [{}, None])
        assert server.seen == []

    def test_failed_list_names_the_started_projects(self, server, hook):
        server.script(
            Reply(body={"id": "first", "credits_charged": 5}), Reply(402, {"message": "no credits"})
        )
        with pytest.raises(errors.MagicHourPaymentRequiredError) as caught:
            hook.create_project("text-to-video", [{}, {}])
        assert "first" in " ".join(caught.value.__notes__)

    def test_unknown_tool_needs_a_kind(self, server, hook):
        with pytest.raises(errors.MagicHourArgumentError, match="kind="):
            hook.create_project("brand-new", {})
        server.script(Reply(body={"id": "a"}))
        assert hook.create_project("brand-new", {}, kind="audio") == {"id": "a"}


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

    def test_without_a_new_key_the_connection_is_read_once_more(self, sim, monkeypatch):
        hook = MagicHourHook()
        replace_key(sim)
        with pytest.raises(errors.MagicHourAuthenticationError):
            hook.get_account()
        monkeypatch.delenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT")
        with pytest.raises(errors.MagicHourAuthenticationError):
            hook.get_account()
        assert sim.state()["statuses"] == {"401": 2}


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

"""The connection of the hook: its key, its test, and calls that have no method of their own."""

from __future__ import annotations

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._client import retry
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.simulator import Simulator
from tests.support.projects import KEY
from tests.support.scripted_server import Reply


def replace_key(sim):
    old = sim.api_key
    sim.add_api_key("mhk_live_the_new_one")
    sim.revoke_api_key(old)


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

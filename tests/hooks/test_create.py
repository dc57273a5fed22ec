"""Create calls of the hook: what is asked before them, and what is never sent twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
import requests
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.simulator import Simulator
from tests.hooks.support import ACCOUNT, GONE, routes
from tests.support.projects import KEY
from tests.support.scripted_server import Reply, scripted_server


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
        server.respond = lambda seen: account if seen.method == "GET" else Reply(body={"id": "a"})
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
        server.respond = lambda seen: account if seen.method == "GET" else Reply(body={"id": "a"})
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
        server.respond = lambda seen: ACCOUNT if seen.method == "GET" else Reply(body={"id": "a"})
        assert hook.create_project("text-to-video", self.BODY) == {"id": "a"}

    def test_unknown_key_is_final(self, server, hook):
        server.script(Reply(401, {"message": "Unauthorized"}))
        with pytest.raises(errors.MagicHourAuthenticationError):
            hook.create_project("text-to-video", self.BODY)
        assert self.posts(server) == []

    def test_threads_ask_once(self, server, hook):
        server.respond = lambda seen: ACCOUNT if seen.method == "GET" else Reply(body={"id": "a"})
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
            api_server.respond = lambda seen: ACCOUNT if seen.method == "GET" else Reply(body={"id": "a"})

            def forward(seen):
                url = api_server.url + seen.path
                made = requests.request(seen.method, url, data=seen.body, headers={}, timeout=5)
                return page if seen.method == "POST" else Reply(made.status_code, made.content)

            gateway.respond = forward
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

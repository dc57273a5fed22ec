from __future__ import annotations

import asyncio
import gzip
import logging
import os
import signal
import ssl
import threading
import time
import traceback

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._client import api, retry, transport
from airflow_provider_magichour._client.settings import Settings
from airflow_provider_magichour._client.transport import Sender, run_async
from tests.support.certificates import self_signed
from tests.support.scripted_server import Reply, scripted_server
from tests.support.senders import CREATE, GET, KEY, send_all, send_async, send_sync, settings_for

OVERLOADED = Reply(503, {"code": "unavailable", "message": "busy"})


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """Draw the shortest pause: full jitter reaches down to none."""
    monkeypatch.setattr(retry.random, "random", lambda: 0.0)


class TestBothSenders:
    def test_call_carries_key_body_and_query(self, server, send):
        server.script(Reply(body={"ok": True}))
        call = api.custom("PUT", "/v1/x", json={"a": 1}, params={"limit": 5})
        assert send(settings_for(server), call) == {"ok": True}
        (seen,) = server.seen
        assert (seen.method, seen.path, seen.json) == ("PUT", "/v1/x?limit=5", {"a": 1})
        assert seen.headers["authorization"] == f"Bearer {KEY}"
        assert seen.headers["user-agent"].startswith("airflow-provider-magichour/")

    @pytest.mark.parametrize(
        "transient", [Reply(429), Reply(500), Reply(502), Reply(503), Reply(504), Reply(drop=True)]
    )
    def test_transient_errors_are_retried(self, server, send, transient):
        server.script(transient, transient, Reply(body={"id": "abc"}))
        assert send(settings_for(server), GET) == {"id": "abc"}
        assert len(server.seen) == 3

    def test_last_attempt_raises_the_error(self, server, send):
        server.script(Reply(503, {"message": "busy"}))
        with pytest.raises(errors.MagicHourServerError, match="busy"):
            send(settings_for(server), GET)
        assert len(server.seen) == 3

    @pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
    def test_permanent_errors_are_not_retried(self, server, send, status):
        server.script(Reply(status, {"message": "no"}))
        with pytest.raises(errors.MagicHourApiError, match="no"):
            send(settings_for(server), GET)
        assert len(server.seen) == 1

    def test_connection_error_names_what_to_check(self, server, send):
        settings = settings_for(server, base_url="http://127.0.0.1:1")
        with pytest.raises(errors.MagicHourConnectionError, match="check the network"):
            send(settings, GET)

    def test_slow_response_times_out(self, server, send):
        server.script(Reply(delay=30))
        with pytest.raises(errors.MagicHourConnectionError):
            send(settings_for(server, timeout=0.5, max_attempts=1), GET)

    def test_endless_response_is_cut(self, server, send, monkeypatch):
        monkeypatch.setattr(transport, "MAX_BODY", 1000)
        bomb = gzip.compress(b" " * 10_000_000)
        server.script(Reply(body=bomb, headers={"Content-Encoding": "gzip"}))
        with pytest.raises(errors.MagicHourConnectionError, match="longer than"):
            send(settings_for(server, max_attempts=1), GET)

    def test_redirect_is_not_followed(self, server, send):
        server.script(Reply(302, headers={"Location": f"{server.url}/elsewhere"}))
        with pytest.raises(errors.MagicHourApiError, match="redirect"):
            send(settings_for(server), GET)
        assert len(server.seen) == 1

    def test_broken_compression_is_a_connection_error(self, server, send):
        server.script(Reply(body=b"not gzip", headers={"Content-Encoding": "gzip"}))
        with pytest.raises(errors.MagicHourConnectionError):
            send(settings_for(server, max_attempts=1), GET)

    def test_netrc_entry_does_not_replace_the_key(self, server, send, tmp_path, monkeypatch):
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login someone password else\n")
        monkeypatch.setenv("NETRC", str(netrc))
        server.script(Reply(body={}))
        send(settings_for(server), GET)
        assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"

    def test_key_is_in_no_message(self, server, send, caplog):
        caplog.set_level(logging.DEBUG)
        server.script(Reply(500, {"message": "oh"}))
        settings = settings_for(server)
        with pytest.raises(errors.MagicHourServerError) as caught:
            send(settings, GET)
        assert KEY not in f"{caught.value} {caught.value!r} {settings!r} {caplog.text}"

    def test_error_page_that_quotes_the_request_does_not_leak_the_key(self, server, send):
        server.respond = lambda seen: Reply(400, f"<pre>refused: {dict(seen.headers)}</pre>".encode())
        with pytest.raises(errors.MagicHourGatewayError, match=r"refused.*Bearer") as caught:
            send(settings_for(server), GET)
        assert KEY not in f"{caught.value} {caught.value!r}"


class TestRetryAfter:
    def test_retry_after_is_waited_for_by_all_calls(self, server, send):
        server.script(Reply(429, headers={"Retry-After": "0.3"}), Reply(body={"id": "abc"}))
        started = time.monotonic()
        assert send(settings_for(server), GET) == {"id": "abc"}
        assert time.monotonic() - started >= 0.3

    def test_too_long_retry_after_fails_at_once(self, server, send):
        server.script(Reply(429, {"message": "tomorrow"}, {"Retry-After": "86400"}))
        with pytest.raises(errors.MagicHourRateLimitError, match="tomorrow"):
            send(settings_for(server), GET)
        assert len(server.seen) == 1

    @given(st.integers(1, 1000), st.one_of(st.none(), st.floats(0, 1000)), st.floats(0, 1))
    def test_backoff_is_capped_jittered_and_respects_retry_after(self, attempt, asked, draw):
        seconds = retry.retry_wait(attempt, asked, draw)
        assert (asked or 0) <= seconds <= max(retry.BACKOFF_CAP, asked or 0)
        assert retry.retry_wait(attempt, None, 0.0) == 0.0

    def test_backoff_doubles(self):
        assert [retry.retry_wait(attempt, None, 1.0) for attempt in (1, 2, 3, 7, 99)] == [1, 2, 4, 60, 60]


class TestMoney:
    """A call that may cost credits is sent again only when it was certainly not accepted."""

    @pytest.mark.parametrize("refusal", [Reply(429), OVERLOADED])
    def test_certain_refusal_is_retried(self, server, refusal):
        server.script(refusal, Reply(body={"id": "abc", "credits_charged": 5}))
        assert Sender(settings_for(server)).send(CREATE)["id"] == "abc"
        assert len(server.seen) == 2

    @pytest.mark.parametrize(
        "unknown",
        [
            Reply(drop=True),
            Reply(delay=60),
            Reply(500),
            Reply(502, b"<html>"),
            Reply(503),
            Reply(504),
            Reply(408),
            Reply(200, b"<html>"),
            Reply(200, b'{"id": "abc"}', {"Content-Length": "99"}),
            Reply(200, b"not gzip", {"Content-Encoding": "gzip"}),
            Reply(302, headers={"Location": "/elsewhere"}),
        ],
    )
    def test_unknown_outcome_never_causes_a_second_post(self, server, unknown):
        server.script(unknown)
        with pytest.raises(errors.MagicHourUncertainSubmitError):
            Sender(settings_for(server, timeout=3)).send(CREATE)
        assert len(server.seen) == 1

    def test_unknown_outcome_after_a_refusal_ends_the_retries(self, server):
        server.script(OVERLOADED, Reply(drop=True), Reply(body={"id": "abc"}))
        with pytest.raises(errors.MagicHourUncertainSubmitError):
            Sender(settings_for(server)).send(CREATE)
        assert len(server.seen) == 2

    def test_call_that_was_not_sent_is_certain(self):
        settings = Settings(api_key=KEY, base_url="http://127.0.0.1:1", max_attempts=2)
        with pytest.raises(errors.MagicHourConnectionError):
            Sender(settings).send(CREATE)

    def test_unresolvable_host_is_certain(self):
        settings = Settings(api_key=KEY, base_url="http://no-such-host.invalid", max_attempts=1)
        with pytest.raises(errors.MagicHourConnectionError):
            Sender(settings).send(CREATE)

    def test_failed_tls_handshake_is_certain(self, server):
        settings = settings_for(server, base_url=server.url.replace("http:", "https:"), max_attempts=1)
        with pytest.raises(errors.MagicHourConnectionError):
            Sender(settings).send(CREATE)
        assert server.seen == []

    def test_unreachable_proxy_is_certain(self, monkeypatch):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "")
        settings = Settings(api_key=KEY, base_url="http://magichour.invalid", max_attempts=1)
        with pytest.raises(errors.MagicHourConnectionError):
            Sender(settings).send(CREATE)

    def test_proxy_that_refuses_the_tunnel_is_certain(self, server, monkeypatch):
        monkeypatch.setenv("https_proxy", server.url)
        monkeypatch.setenv("no_proxy", "")
        settings = Settings(api_key=KEY, base_url="https://magichour.invalid", max_attempts=1)
        with pytest.raises(errors.MagicHourConnectionError):
            Sender(settings).send(CREATE)

    def test_each_create_call_has_its_own_connection(self, server):
        server.script(Reply(body={"id": "abc"}))
        sender = Sender(settings_for(server))
        sender.send(GET)
        sender.send(CREATE)
        sender.send(CREATE)
        assert len(server.seen) == 3

    def test_asynchronous_sender_refuses_create_calls(self, server):
        with pytest.raises(ValueError, match="cost credits"):
            send_async(settings_for(server), CREATE)
        assert server.seen == []


class TestExecutionTimeout:
    """Airflow interrupts the main thread; what it waits for ends at once."""

    @pytest.fixture
    def execution_timeout(self):
        def interrupt(*_):
            raise AirflowTaskTimeout("Timeout")

        before = signal.signal(signal.SIGALRM, interrupt)
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGALRM))
        yield timer
        timer.cancel()
        if timer.ident is not None:
            timer.join()
        signal.signal(signal.SIGALRM, before)

    @pytest.fixture
    def timed_out_during(self, server, execution_timeout):
        """Let the task time out soon after the server has its first request."""

        def use(reply):
            def respond(seen):
                if len(server.seen) == 1:
                    execution_timeout.start()
                return reply

            server.respond = respond

        return use

    @pytest.mark.parametrize(
        "reply", [Reply(delay=200), Reply(429, {"message": "wait"}, {"Retry-After": "200"})]
    )
    @pytest.mark.parametrize("many", [False, True])
    def test_calls_end_with_the_task(self, server, timed_out_during, reply, many):
        timed_out_during(reply)
        settings = settings_for(server, timeout=300)
        started = time.monotonic()
        with pytest.raises(AirflowTaskTimeout):
            send_all(settings, [GET] * 3) if many else send_sync(settings, GET)
        assert time.monotonic() - started < 60

    def test_create_call_that_left_is_uncertain_so_that_no_retry_pays_again(self, server, timed_out_during):
        timed_out_during(Reply(body={"id": "abc"}, delay=200))
        started = time.monotonic()
        with pytest.raises(errors.MagicHourUncertainSubmitError, match="execution_timeout"):
            send_sync(settings_for(server, timeout=300), CREATE)
        assert time.monotonic() - started < 60

    def test_create_call_that_waits_for_its_turn_was_not_sent(self, server, execution_timeout):
        settings = settings_for(server, requests_per_second=0.01)
        settings.throttle.acquire()
        with pytest.raises(AirflowTaskTimeout):  # noqa: PT012  # a slow machine may be late
            execution_timeout.start()
            send_sync(settings, CREATE)
        assert server.seen == []


class TestTls:
    """A company's own certificates and proxies: what works in a task works deferred."""

    @pytest.fixture
    def secure(self, server, tmp_path, monkeypatch):
        certificate = self_signed(tmp_path)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.delenv(name, raising=False)
        with scripted_server(context) as running:
            running.certificate = certificate
            yield running

    def test_ca_bundle_of_the_environment_is_trusted(self, secure, send, monkeypatch):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(secure.certificate))
        secure.script(Reply(body={"id": "abc"}))
        assert send(settings_for(secure), GET) == {"id": "abc"}

    def test_unknown_certificate_is_refused(self, secure, send):
        with pytest.raises(errors.MagicHourConnectionError, match="certificate"):
            send(settings_for(secure, max_attempts=1), GET)
        assert secure.seen == []

    def test_money_rule_holds_over_tls(self, secure, monkeypatch):
        with pytest.raises(errors.MagicHourConnectionError, match="certificate"):
            Sender(settings_for(secure, max_attempts=1)).send(CREATE)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(secure.certificate))
        secure.script(OVERLOADED, Reply(drop=True))
        with pytest.raises(errors.MagicHourUncertainSubmitError):
            Sender(settings_for(secure)).send(CREATE)
        assert len(secure.seen) == 2


class TestSession:
    def test_key_is_sent_to_the_api_only(self, server):
        with scripted_server() as elsewhere:
            sender = Sender(settings_for(server))
            sender.session.get(f"{server.url}/v1/x")
            sender.session.get(f"{elsewhere.url}/v1/x")
        assert "authorization" in server.seen[0].headers
        assert "authorization" not in elsewhere.seen[0].headers


class TestSendAll:
    def test_responses_keep_their_order_with_errors_in_place(self, server):
        server.respond = lambda seen: (
            Reply(404, {"message": "no"}) if seen.path.endswith("b") else Reply(body={"path": seen.path})
        )
        calls = [api.get_project("image", project_id) for project_id in "abc"]
        first, second, third = send_all(settings_for(server), calls)
        assert [first["path"], third["path"]] == ["/v1/image-projects/a", "/v1/image-projects/c"]
        assert isinstance(second, errors.MagicHourNotFoundError)

    def test_no_calls_return_no_responses(self, server):
        assert send_all(settings_for(server), []) == []

    def test_run_async_works_inside_a_running_loop(self, server):
        server.script(Reply(body={}))

        async def notebook():
            return send_all(settings_for(server), [GET])

        assert asyncio.run(notebook()) == [{}]

    def test_calls_keep_to_the_rate_limit(self, server):
        server.script(Reply(body={}))
        started = time.monotonic()
        send_all(settings_for(server, requests_per_second=20), [GET] * 11)
        assert time.monotonic() - started >= 0.5


def test_run_async_returns_the_result():
    async def response():
        return 42

    assert run_async(response) == 42


def test_traceback_of_a_coroutine_does_not_begin_with_a_missing_event_loop():
    async def fail():
        raise ValueError("the cause")

    with pytest.raises(ValueError, match="the cause") as caught:
        run_async(fail)
    assert "no running event loop" not in "".join(traceback.format_exception(caught.value))

"""The receiver's responses over real HTTP: to Magic Hour, to unknown senders, and while Airflow is down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from airflow_provider_magichour.webhooks import receiver
from tests.webhooks.support import (
    SECRET,
    Endpoint,
    event_body,
    eventually,
    read_all,
    signed,
    used,
    web_page,
)


class TestDelivery:
    def test_creates_an_event_of_the_connections_asset_and_of_any(self, endpoint: Endpoint) -> None:
        endpoint.airflow.use(used(), used(conn_id="hooked"), used(conn_id="other"), used("image"))
        response = endpoint.deliver(event_body(project_id="cm7"))
        assert (response.status_code, response.json()) == (200, {"status": "accepted"})
        assert [(each["uri"], each["id"]) for each in endpoint.airflow.events] == [
            (used(), "cm7"),
            (used(conn_id="hooked"), "cm7"),
        ]
        assert {each["magichour_conn_id"] for each in endpoint.airflow.events} == {"hooked"}
        assert "sig=1" not in json.dumps(endpoint.airflow.events)

    def test_of_an_asset_that_no_dag_uses_is_accepted_and_logged(
        self, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        response = endpoint.deliver(event_body("image", "errored"))
        assert (response.status_code, response.json()) == (200, {"status": "unused"})
        assert "image.errored for project 'cm1' over connection hooked: no DAG uses it" in caplog.text

    def test_of_each_secret_is_accepted_while_it_is_replaced(self, endpoint: Endpoint) -> None:
        for secret, status in (("old", 200), (SECRET, 200), ("old, whsec_test", 401), ("older", 401)):
            body = event_body()
            assert endpoint.post(body, signed(body, secret), "rotating").status_code == status

    def test_with_the_secret_of_another_connection_is_refused(self, endpoint: Endpoint) -> None:
        body = event_body()
        assert endpoint.post(body, signed(body, "whsec_other"), "hooked").status_code == 401

    @pytest.mark.parametrize("type_", ["model.trained", "credits"])
    def test_of_an_unknown_type_is_accepted_and_logged(
        self, endpoint: Endpoint, caplog: pytest.LogCaptureFixture, type_: str
    ) -> None:
        caplog.set_level(logging.INFO)
        response = endpoint.deliver(json.dumps({"type": type_, "payload": {"id": "x"}}).encode())
        assert (response.status_code, response.json()) == (200, {"status": "ignored"})
        assert type_ in caplog.text

    def test_that_is_signed_but_malformed_is_a_bad_request(self, endpoint: Endpoint) -> None:
        for body in (b"", b"nonsense", b'{"type": "video.completed"}', event_body(project_id="../x")):
            response = endpoint.deliver(body)
            assert (response.status_code, response.json()) == (400, {"detail": "not a webhook"})
        assert not endpoint.airflow.calls

    def test_is_counted_by_health(self, endpoint: Endpoint) -> None:
        endpoint.airflow.use(used())
        endpoint.deliver(event_body())
        endpoint.deliver(event_body("image"))
        endpoint.deliver(b'{"type": "model.trained"}')
        endpoint.post(b"x", {})
        endpoint.airflow.responses["POST /api/v2/assets/events"] = web_page(502)
        endpoint.deliver(event_body())
        assert endpoint.counts() == {
            "status": "ok",
            "accepted": 1,
            "unused": 1,
            "ignored": 1,
            "refused": 1,
            "failed": 1,
        }


class TestRefusal:
    def test_looks_alike_for_known_and_unknown_connections(
        self, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
    ) -> None:
        body, stale = event_body(), str(int(time.time()) - 301)
        refused = {
            "wrong secret": endpoint.post(body, signed(body, "wrong")),
            "no such connection": endpoint.deliver(body, "nothing"),
            "no connection id": endpoint.deliver(body, "a b"),
            "unsigned": endpoint.post(body, {}),
            "stale": endpoint.post(body, signed(body, timestamp=stale)),
            "from the future": endpoint.post(body, signed(body, timestamp=str(int(time.time()) + 400))),
            "other body": endpoint.post(body + b" ", signed(body)),
            "huge": endpoint.post(b"x" * 200_000, signed(b"")),
        }
        responses = {(response.status_code, response.content) for response in refused.values()}
        assert responses == {(401, b'{"detail":"not signed by Magic Hour"}')}
        headers = [{**response.headers, "date": ""} for response in refused.values()]
        assert all(each == headers[0] for each in headers)
        assert all(response.elapsed.total_seconds() >= 0.05 for response in refused.values())
        assert not endpoint.airflow.calls
        assert len([each for each in caplog.records if "Refused" in each.message]) == len(refused)
        assert SECRET not in caplog.text

    def test_of_an_unsigned_request_reads_no_body(self, endpoint: Endpoint) -> None:
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as client:
            client.sendall(
                b"POST /magichour/webhooks/hooked HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n"
            )
            assert read_all(client).startswith(b"HTTP/1.1 401 ")

    @pytest.mark.parametrize("length", [b"1048577", b"9999999999"])
    def test_of_a_long_body_needs_its_announced_length_only(self, endpoint: Endpoint, length: bytes) -> None:
        head = b"POST /magichour/webhooks/hooked HTTP/1.1\r\nHost: x\r\nContent-Length: " + length
        for name, value in signed(b"").items():
            head += f"\r\n{name}: {value}".encode()
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as client:
            client.sendall(head + b"\r\n\r\n")
            assert read_all(client).startswith(b"HTTP/1.1 413 ")

    def test_begins_above_a_mebibyte(self, endpoint: Endpoint) -> None:
        endpoint.airflow.use(used())
        longest = event_body(name="")
        longest = longest.replace(b'"name": ""', b'"name": "' + b"x" * (1024 * 1024 - len(longest)) + b'"')
        assert len(longest) == 1024 * 1024
        assert endpoint.deliver(longest).json() == {"status": "accepted"}
        too_long = longest + b" "
        chunked = iter([too_long[:500_000], too_long[500_000:]])
        with contextlib.suppress(requests.ConnectionError):  # the connection ends before all is sent
            response = endpoint.session.post(f"{endpoint.url}/hooked", data=chunked, headers=signed(too_long))
            assert (response.status_code, response.json()) == (413, {"detail": "body too long"})
        assert len(endpoint.airflow.events) == 1

    def test_of_a_body_without_end_does_not_read_on(self, endpoint: Endpoint) -> None:
        sent = 0

        def chunks() -> Iterator[bytes]:
            nonlocal sent
            for _ in range(1024):
                sent += 1024 * 1024
                yield b"x" * 1024 * 1024

        with contextlib.suppress(requests.ConnectionError):
            headers = signed(b"")
            assert (
                endpoint.session.post(f"{endpoint.url}/hooked", data=chunks(), headers=headers).status_code
                == 413
            )
        assert sent < 200 * 1024 * 1024

    def test_of_a_slow_body_comes_after_some_seconds(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(receiver, "BODY_SECONDS", 0.3)
        head = b"POST /magichour/webhooks/hooked HTTP/1.1\r\nHost: x\r\nContent-Length: 100"
        for name, value in signed(b"").items():
            head += f"\r\n{name}: {value}".encode()
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as client:
            client.sendall(head + b"\r\n\r\nab")
            assert read_all(client).startswith(b"HTTP/1.1 408 ")
        monkeypatch.setattr(receiver, "BODY_SECONDS", 120.0)
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as client:
            client.sendall(head + b"\r\n\r\nab")
        eventually(lambda: "closed the connection" in caplog.text)
        assert endpoint.deliver(event_body()).status_code == 200

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
    def test_of_other_methods(self, endpoint: Endpoint, method: str) -> None:
        assert endpoint.session.request(method, f"{endpoint.url}/hooked").status_code == 405

    @pytest.mark.parametrize("path", ["", "/", "/hooked/", "/hooked/x", "/a%2Fb"])
    def test_of_other_paths(self, endpoint: Endpoint, path: str) -> None:
        body = event_body()
        response = endpoint.session.post(endpoint.url + path, data=body, headers=signed(body))
        assert response.status_code == 404


class TestAirflowDown:
    @pytest.mark.parametrize(
        ("call", "status"),
        [
            ("POST /auth/token", 401),
            ("POST /auth/token", 502),
            ("GET /api/v2/assets", 403),
            ("GET /api/v2/assets", 404),
            ("GET /api/v2/assets", 200),
            ("POST /api/v2/assets/events", 403),
            ("POST /api/v2/assets/events", 409),
            ("POST /api/v2/assets/events", 500),
            ("POST /api/v2/assets/events", 302),
        ],
    )
    def test_magic_hour_is_asked_to_deliver_again(
        self, endpoint: Endpoint, call: str, status: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        endpoint.airflow.use(used())
        endpoint.airflow.responses[call] = web_page(status)
        response = endpoint.deliver(event_body())
        assert (response.status_code, response.headers["retry-after"]) == (503, "30")
        assert response.json() == {"detail": "not now; deliver it again"}
        assert "must deliver a webhook for connection 'hooked' again" in caplog.text
        assert "secret" not in caplog.text
        del endpoint.airflow.responses[call]
        assert endpoint.deliver(event_body()).json() == {"status": "accepted"}

    def test_an_event_for_one_asset_of_two_is_not_enough(self, endpoint: Endpoint) -> None:
        endpoint.airflow.use(used(), used(conn_id="hooked"))
        endpoint.deliver(event_body(project_id="first"))
        del endpoint.airflow.assets[used(conn_id="hooked")]
        endpoint.airflow.responses["GET /api/v2/assets"] = web_page(500)
        assert endpoint.deliver(event_body(project_id="second")).status_code == 503

    def test_an_airflow_that_does_not_respond_is_not_waited_for(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        endpoint.airflow.use(used())
        monkeypatch.setattr(receiver, "TOTAL_SECONDS", 0.3)
        endpoint.airflow.delay = 60
        with ThreadPoolExecutor(10) as executor:
            responses = list(executor.map(lambda _: endpoint.deliver(event_body()), range(10)))
        assert {response.status_code for response in responses} == {503}
        endpoint.airflow.delay = 0
        monkeypatch.setattr(receiver, "TOTAL_SECONDS", 9.0)
        assert endpoint.deliver(event_body()).json() == {"status": "accepted"}


class TestLoad:
    def test_known_connections_do_not_wait_for_unknown_senders(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two hundred requests of unknown senders hang at once, with bodies that never come."""
        for name in ("BODY_SECONDS", "TOTAL_SECONDS"):
            monkeypatch.setattr(receiver, name, 300.0)
        endpoint.airflow.use(used())
        head = b"POST /magichour/webhooks/%d HTTP/1.1\r\nHost: x\r\nContent-Length: 100"
        for name, value in signed(b"").items():
            head += f"\r\n{name}: {value}".encode()
        with contextlib.ExitStack() as stack:
            for number in range(200):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", endpoint.port)))
                client.sendall(head % number + b"\r\n\r\nab")
            # Who waits for one of them, waits longer than this client does.
            assert endpoint.deliver(event_body()).json() == {"status": "accepted"}

    def test_refusals_of_unsigned_requests_delay_no_genuine_one(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Unsigned requests come without a pause, and the refusals wait until the test is over."""
        endpoint.airflow.use(used())
        over = threading.Event()

        async def wait_for_the_end(_: float) -> None:
            while not over.is_set():  # noqa: ASYNC110  # the test is on another thread
                await asyncio.sleep(0.02)

        clock = SimpleNamespace(sleep=wait_for_the_end, timeout=asyncio.timeout)
        monkeypatch.setattr(receiver, "asyncio", clock)
        head = b"POST /magichour/webhooks/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        with contextlib.ExitStack() as stack:
            stack.callback(over.set)
            for _ in range(30):
                for conn_id in (b"hooked", b"other", b"x", b"y", b"z"):
                    client = stack.enter_context(socket.create_connection(("127.0.0.1", endpoint.port)))
                    client.sendall(head % conn_id)
                assert endpoint.deliver(event_body()).json() == {"status": "accepted"}
        assert endpoint.counts()["accepted"] == 30

    async def test_a_bad_request_takes_fewer_steps_than_a_good_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The calls of functions are counted, not the time, which depends on the machine."""
        from airflow_provider_magichour.webhooks.settings import Settings

        class NoAirflow:
            async def create_events(self, uris: Any, extra: Any) -> int:
                return 1

        monkeypatch.setattr(receiver, "REFUSAL_SECONDS", 0)
        served = receiver.Receiver(Settings("http://127.0.0.1:1", secrets={"hooked": (SECRET.encode(),)}))
        monkeypatch.setattr(served, "airflow", NoAirflow())
        app = receiver.create_endpoint(served)
        body = event_body(name="x" * 2000)

        async def steps(headers: dict[str, str], status: int, conn_id: str = "hooked") -> Counter[str]:
            with counted_calls() as calls:
                assert await call(app, f"/{conn_id}", headers, body) == status
            return calls

        await steps(signed(body), 200)  # the first request fills caches
        good = await steps(signed(body), 200)
        assert {"_read_body", "digest", "loads", "parse_event", "create_events"} <= good.keys()
        unsigned = await steps({}, 401)
        assert not {"_read_body", "digest", "loads", "parse_event", "create_events"} & unsigned.keys()
        wrong = await steps(signed(body, "wrong"), 401)
        unknown = await steps(signed(body), 401, "unknown")
        for bad in (wrong, unknown):
            assert not {"loads", "parse_event", "create_events"} & bad.keys()
            assert bad["digest"] == good["digest"]


@contextlib.contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Count the calls of functions on this thread by their names, those of C as well."""
    calls: Counter[str] = Counter()

    def note(frame: Any, event: str, function: Any) -> None:
        if event in {"call", "c_call"}:
            calls[frame.f_code.co_name if event == "call" else function.__name__] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


async def call(app: Any, path: str, headers: dict[str, str], body: bytes) -> int:
    """Send a request to an ASGI application in this process, and return the status."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "http_version": "1.1",
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return int(sent[0]["status"])

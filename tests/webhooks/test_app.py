"""The endpoint's answers over real HTTP: to Magic Hour, to strangers, and with the database down."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import hypothesis
import pytest
import requests
from hypothesis import strategies as st

from tests.webhooks.support import (
    SECRET,
    Endpoint,
    asset_events,
    event_body,
    eventually,
    json_values,
    needs_airflow_3_3,
    read_all,
    remembered,
    schedule_dags,
    signed,
)

pytestmark = needs_airflow_3_3


class TestSenders:
    def test_old_and_new_secret_count_together(self, endpoint: Endpoint) -> None:
        schedule_dags("consumer")
        for secret, status in (("old", 200), ("whsec_test", 200), ("old, whsec_test", 401), ("older", 401)):
            body = event_body(project_id=f"with-{len(secret)}")
            assert endpoint.post(body, signed(body, secret), "rotating").status_code == status

    def test_connections_of_the_database_count(self, endpoint: Endpoint) -> None:
        from airflow.models import Connection
        from airflow.utils.session import create_session

        with create_session(scoped=False) as session:
            extra = json.dumps({"webhook_secret": ["old", SECRET]})
            session.add(Connection(conn_id="stored", conn_type="magichour", extra=extra))
        try:
            assert endpoint.deliver(event_body(), "stored").status_code == 200
        finally:
            with create_session(scoped=False) as session:
                session.query(Connection).filter_by(conn_id="stored").delete()

    def test_refusals_look_alike(self, endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
        schedule_dags("consumer")
        body, stale = event_body(), str(int(time.time()) - 301)
        refused = {
            "wrong secret": endpoint.post(body, signed(body, "wrong")),
            "no such connection": endpoint.deliver(body, "nothing"),
            "no connection id": endpoint.deliver(body, "a b"),
            "connection without a secret": endpoint.deliver(body, "silent"),
            "unsigned": endpoint.post(body, {}),
            "stale": endpoint.post(body, signed(body, timestamp=stale)),
            "from the future": endpoint.post(body, signed(body, timestamp=str(int(time.time()) + 400))),
            "other body": endpoint.post(body + b" ", signed(body)),
            "huge": endpoint.post(b"x" * 200_000, signed(b"")),
        }
        answers = {(answer.status_code, answer.content) for answer in refused.values()}
        assert answers == {(401, b'{"detail":"not signed by Magic Hour"}')}
        headers = [{**answer.headers, "date": ""} for answer in refused.values()]
        assert all(each == headers[0] for each in headers)
        assert not asset_events()
        assert not remembered()
        refusals = [record for record in caplog.records if "Refused" in record.message]
        assert len(refusals) == len(refused)
        assert SECRET not in caplog.text

    def test_a_refusal_takes_its_time(self, endpoint: Endpoint) -> None:
        for conn_id in ("hooked", "nothing"):
            started = time.monotonic()
            endpoint.post(b"x", signed(b"x", "wrong"), conn_id)
            assert time.monotonic() - started >= 0.05


class TestRequests:
    @pytest.mark.parametrize("type_", ["video.canceled", "model.trained"])
    def test_unknown_types_are_taken_and_logged(
        self, endpoint: Endpoint, caplog: pytest.LogCaptureFixture, type_: str
    ) -> None:
        caplog.set_level(logging.INFO)
        answer = endpoint.deliver(json.dumps({"type": type_, "payload": {"id": "x"}}).encode())
        assert (answer.status_code, answer.json()) == (200, {"status": "ignored"})
        assert type_ in caplog.text

    def test_malformed_but_signed_is_a_bad_request(self, endpoint: Endpoint) -> None:
        for body in (b"", b"nonsense", b'{"type": "video.completed"}', event_body(project_id="../x")):
            answer = endpoint.deliver(body)
            assert (answer.status_code, answer.json()) == (400, {"detail": "not a webhook"})
        assert not asset_events()

    def test_a_body_of_a_mebibyte_is_the_longest(self, endpoint: Endpoint) -> None:
        schedule_dags("consumer")
        longest = event_body(name="")
        longest = longest.replace(b'"name": ""', b'"name": "' + b"x" * (1024 * 1024 - len(longest)) + b'"')
        assert len(longest) == 1024 * 1024
        assert endpoint.deliver(longest).status_code == 200
        too_long = longest + b" "
        assert endpoint.deliver(too_long).status_code == 413
        chunked = iter([too_long[:500_000], too_long[500_000:]])
        answer = endpoint.session.post(f"{endpoint.url}/hooked", data=chunked, headers=signed(too_long))
        assert (answer.status_code, answer.json()) == (413, {"detail": "too long"})
        assert len(asset_events()) == 1

    def test_a_body_without_end_is_not_read_to_its_end(self, endpoint: Endpoint) -> None:
        sent = 0

        def chunks() -> Iterator[bytes]:
            nonlocal sent
            for _ in range(1024):
                sent += 1024 * 1024
                yield b"x" * 1024 * 1024

        with contextlib.suppress(requests.ConnectionError):
            assert endpoint.session.post(f"{endpoint.url}/hooked", data=chunks()).status_code == 413
        assert sent < 200 * 1024 * 1024

    def test_a_body_that_never_comes_is_given_up(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from airflow_provider_magichour.webhooks import app

        monkeypatch.setattr(app, "BODY_SECONDS", 0.3)
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as client:
            client.sendall(
                b"POST /magichour/webhooks/hooked HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nab"
            )
            answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert endpoint.deliver(event_body()).status_code == 200

    def test_a_sender_that_hangs_up_harms_nobody(
        self, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
    ) -> None:
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as client:
            client.sendall(
                b"POST /magichour/webhooks/hooked HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nab"
            )
        eventually(lambda: "hung up" in caplog.text)
        assert endpoint.deliver(event_body()).status_code == 200

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
    def test_only_post_is_taken(self, endpoint: Endpoint, method: str) -> None:
        assert endpoint.session.request(method, f"{endpoint.url}/hooked").status_code == 405

    @pytest.mark.parametrize("path", ["", "/", "/hooked/", "/hooked/x", "/a%2Fb"])
    def test_there_is_nothing_else(self, endpoint: Endpoint, path: str) -> None:
        body = event_body()
        answer = endpoint.session.post(
            endpoint.url + path, data=body, headers=signed(body), allow_redirects=False
        )
        assert answer.status_code in {307, 404} if path == "" else answer.status_code == 404


class TestDatabaseDown:
    @pytest.fixture
    def broken(self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
        """Make every session of Airflow fail, as with a database that is gone."""
        import sqlalchemy
        from airflow import settings
        from sqlalchemy.orm import scoped_session, sessionmaker

        gone = sqlalchemy.create_engine("sqlite:////nowhere/at/all.db")

        def break_it() -> None:
            monkeypatch.setattr(settings, "NonScopedSession", sessionmaker(gone))
            monkeypatch.setattr(settings, "Session", scoped_session(sessionmaker(gone)))

        yield break_it
        gone.dispose()

    def test_magic_hour_is_asked_to_deliver_again(
        self, endpoint: Endpoint, broken: Callable[[], None], caplog: pytest.LogCaptureFixture
    ) -> None:
        broken()
        answer = endpoint.deliver(event_body())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        assert answer.json() == {"detail": "not now; deliver it again"}
        assert "could not be taken now" in caplog.text
        assert "cm1" not in caplog.text

    def test_a_connection_that_cannot_be_looked_up_is_not_unknown(
        self, endpoint: Endpoint, broken: Callable[[], None]
    ) -> None:
        broken()
        assert endpoint.deliver(event_body(), "maybe_stored").status_code == 503

    def test_a_database_that_hangs_is_not_waited_for(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from airflow_provider_magichour.webhooks import app, store

        released = threading.Event()

        def hang(_: Any) -> None:
            released.wait(30)
            raise OSError("gone")

        monkeypatch.setattr(app, "WORK_SECONDS", 0.3)
        with monkeypatch.context() as patch:
            patch.setattr(store, "record", hang)
            with ThreadPoolExecutor(10) as executor:
                answers = list(executor.map(lambda _: endpoint.deliver(event_body()), range(10)))
        released.set()
        assert {answer.status_code for answer in answers} == {503}
        schedule_dags("consumer")
        monkeypatch.setattr(app, "WORK_SECONDS", 8.0)
        assert endpoint.deliver(event_body()).json() == {"status": "accepted"}


header_names = st.sampled_from(
    ["magic-hour-event-timestamp", "magic-hour-event-signature", "content-type", "content-encoding", "cookie"]
)
header_values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=70) | st.just(
    str(int(time.time()))
)


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    conn_id=st.sampled_from(["hooked", "silent"]) | st.text(min_size=1, max_size=30),
    headers=st.dictionaries(header_names, header_values),
    body=st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()),
)
def test_nothing_unsigned_gets_in(
    endpoint: Endpoint, conn_id: str, headers: dict[str, str], body: bytes
) -> None:
    url = f"{endpoint.url}/{quote(conn_id.encode('utf-8', 'surrogatepass'), safe='')}"
    answer = endpoint.session.post(url, data=body, headers=headers, allow_redirects=False)
    assert answer.status_code in {401, 404}
    assert not asset_events()


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    body=st.binary(max_size=300)
    | json_values.map(lambda value: json.dumps(value).encode())
    | json_values.map(lambda value: json.dumps({"type": "video.completed", "payload": value}).encode())
    | st.dictionaries(st.text(), json_values, max_size=4).map(
        lambda value: json.dumps({"type": "video.completed", "payload": {**value, "id": "fuzz"}}).encode()
    )
)
def test_nothing_signed_breaks_it(endpoint: Endpoint, body: bytes) -> None:
    assert endpoint.deliver(body).status_code in {200, 400}

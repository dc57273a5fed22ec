"""Whatever is sent to the receiver, it never responds with 500."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from urllib.parse import quote

import hypothesis
import pytest
from hypothesis import strategies as st

from airflow_provider_magichour.webhooks import receiver
from tests.webhooks.support import (
    Endpoint,
    json_values,
    read_all,
    signed,
)


class TestFuzz:
    header_names = st.sampled_from(
        [
            "magic-hour-event-timestamp",
            "magic-hour-event-signature",
            "content-type",
            "content-encoding",
            "cookie",
        ]
    )
    header_values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=70) | st.just(
        str(int(time.time()))
    )

    @hypothesis.settings(max_examples=60)
    @hypothesis.given(
        conn_id=st.sampled_from(["hooked", "other"]) | st.text(min_size=1, max_size=30),
        headers=st.dictionaries(header_names, header_values),
        body=st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()),
    )
    def test_nothing_unsigned_gets_in(
        self, quick_endpoint: Endpoint, conn_id: str, headers: dict[str, str], body: bytes
    ) -> None:
        url = f"{quick_endpoint.url}/{quote(conn_id.encode('utf-8', 'surrogatepass'), safe='')}"
        response = quick_endpoint.session.post(url, data=body, headers=headers, allow_redirects=False)
        assert response.status_code in {401, 404}
        assert not quick_endpoint.airflow.calls

    @hypothesis.settings(max_examples=60)
    @hypothesis.given(
        body=st.binary(max_size=300)
        | json_values.map(lambda value: json.dumps(value).encode())
        | json_values.map(lambda value: json.dumps({"type": "video.completed", "payload": value}).encode())
        | st.dictionaries(st.text(), json_values, max_size=4).map(
            lambda value: json.dumps({"type": "video.completed", "payload": {**value, "id": "fuzz"}}).encode()
        )
    )
    def test_nothing_signed_breaks_it(self, quick_endpoint: Endpoint, body: bytes) -> None:
        assert quick_endpoint.deliver(body).status_code in {200, 400}

    @hypothesis.settings(max_examples=150)
    @hypothesis.given(
        method=st.sampled_from([b"POST", b"GET", b"PUT", b"OPTIONS", b"X"]),
        path=st.binary(max_size=30).map(lambda raw: quote(raw).encode()),
        prefix=st.sampled_from([b"/", b"/magichour/webhooks/", b"/magichour/webhooks/hooked", b"/health"]),
        headers=st.lists(st.tuples(header_names | st.just("content-length"), header_values), max_size=5),
        body=st.binary(max_size=100),
        sign_it=st.booleans(),
    )
    def test_no_request_gets_500(
        self,
        quick_endpoint: Endpoint,
        method: bytes,
        prefix: bytes,
        path: bytes,
        headers: list[tuple[str, str]],
        body: bytes,
        sign_it: bool,
    ) -> None:
        """Raw bytes over a socket, also what no HTTP library would send."""
        lines = [method + b" " + prefix + path + b" HTTP/1.1", b"host: x", b"connection: close"]
        lines += [f"{name}: {value}".encode() for name, value in headers]
        if sign_it:
            lines += [f"{name}: {value}".encode() for name, value in signed(body).items()]
        if "content-length" not in dict(headers):
            lines.append(b"content-length: %d" % len(body))
        with socket.create_connection(("127.0.0.1", quick_endpoint.port), timeout=10) as client:
            client.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
            client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                response = read_all(client)
                assert response == b"" or 200 <= int(response.split()[1]) < 500, response[:200]

    @pytest.fixture
    def quick_endpoint(self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
        monkeypatch.setattr(receiver, "REFUSAL_SECONDS", 0)
        return endpoint

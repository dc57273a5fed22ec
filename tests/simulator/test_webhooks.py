"""Webhooks arrive, signed, until they are accepted."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from airflow_provider_magichour.simulator import Simulator
from airflow_provider_magichour.tools import KINDS
from tests.simulator.support import create, make

SECRET = "whsec_test"


class Endpoint:
    """Takes webhooks, and responds to those of ends with the given statuses."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.responses: list[int] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                endpoint.received.append(
                    ({name.lower(): value for name, value in self.headers.items()}, body)
                )
                # The start and the end may arrive in either order.
                is_end = not json.loads(body)["type"].endswith(".started")
                self.send_response(endpoint.responses.pop(0) if is_end and endpoint.responses else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    @property
    def events(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.received]

    def wait_for(self, count: int) -> list[str]:
        until = time.monotonic() + 60
        while len(self.received) < count:
            assert time.monotonic() < until, self.events
            time.sleep(0.02)
        return self.events

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint()
    yield found
    found.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_project_sends_its_start_and_its_end(endpoint: Endpoint, kind: str) -> None:
    with Simulator(duration=0.2, webhook_url=endpoint.url, webhook_secret=SECRET) as magichour:
        project = make(magichour, kind)
        assert sorted(endpoint.wait_for(2)) == [f"{kind}.completed", f"{kind}.started"]
    for headers, body in endpoint.received:
        timestamp = headers["magic-hour-event-timestamp"]
        assert abs(int(timestamp) - time.time()) < 60
        signature = hmac.new(SECRET.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        assert headers["magic-hour-event-signature"] == signature
    events = {
        event["type"]: event["payload"] for _, body in endpoint.received for event in [json.loads(body)]
    }
    started, completed = events[f"{kind}.started"], events[f"{kind}.completed"]
    assert (started["status"], completed["status"]) == ("rendering", "complete")
    assert completed["id"] == project["id"]
    deprecated = {"total_frame_cost", "download"}
    assert set(completed) == set(project) - deprecated


def test_errors_send_a_webhook_and_cancellations_do_not(endpoint: Endpoint) -> None:
    with Simulator(duration=0.0) as magichour:
        magichour.send_webhooks(endpoint.url, SECRET)
        magichour.faults(
            {"outcome": {"status": "canceled"}, "times": 1}, {"outcome": {"code": "file_too_large"}}
        )
        make(magichour)
        make(magichour, "video")
        events = endpoint.wait_for(3)
    assert sorted(events) == ["image.started", "video.errored", "video.started"]
    errored = next(json.loads(body) for _, body in endpoint.received if b"video.errored" in body)
    assert errored["payload"]["error"]["code"] == "file_too_large"


def test_refused_webhooks_are_retried_with_growing_pauses(endpoint: Endpoint) -> None:
    endpoint.responses = [500, 302, 404]
    with Simulator(duration=0.05) as magichour:
        magichour.send_webhooks(endpoint.url, SECRET, retry_seconds=0.1)
        create(magichour)
        endpoint.wait_for(5)
        until = time.monotonic() + 60
        while len(deliveries := magichour.state()["webhooks"]) < 5:
            assert time.monotonic() < until
            time.sleep(0.02)
    completed = [one for one in deliveries if one["type"] == "image.completed"]
    assert [one["status"] for one in completed] == [500, 302, 404, 200]
    assert [one["attempt"] for one in completed] == [1, 2, 3, 4]
    waits = [after["at"] - before["at"] for before, after in itertools.pairwise(completed)]
    assert waits[0] >= 0.1
    assert waits[1] >= 0.2
    assert waits[2] >= 0.4


def test_webhooks_are_retried_when_nothing_listens() -> None:
    dead = Endpoint()
    dead.close()
    with Simulator(duration=0.0) as magichour:
        magichour.send_webhooks(dead.url, SECRET, retry_seconds=0.05)
        create(magichour)
        until = time.monotonic() + 60
        while len(deliveries := magichour.state()["webhooks"]) < 4:
            assert time.monotonic() < until
            time.sleep(0.02)
    assert all(one["status"] is None and one["error"] for one in deliveries)


def test_webhooks_are_duplicated_and_repeated_on_request(endpoint: Endpoint) -> None:
    with Simulator(duration=0.0) as magichour:
        magichour.send_webhooks(endpoint.url, SECRET, duplicates=1)
        project_id = create(magichour)
        assert sorted(endpoint.wait_for(4)) == ["image.completed"] * 2 + ["image.started"] * 2
        bodies = [body for _, body in endpoint.received if b"image.started" in body]
        assert bodies[0] == bodies[1]
        magichour.send_webhooks(endpoint.url, SECRET)
        magichour.send_event(project_id, "errored")
        assert endpoint.wait_for(5)[-1] == "image.errored"
        base = f"{magichour.url}/_simulator"
        url = f"{base}/projects/{project_id}/webhook"
        assert requests.post(url, json={"event": "completed"}, timeout=60).status_code == 200
        assert endpoint.wait_for(6)[-1] == "image.completed"
        assert (
            requests.post(f"{base}/projects/x/webhook", json={"event": "started"}, timeout=60).status_code
            == 404
        )
        assert requests.delete(f"{base}/webhooks", timeout=60).status_code == 200
        make(magichour)
        target = {"url": endpoint.url, "secret": SECRET}
        assert requests.put(f"{base}/webhooks", json=target, timeout=60).status_code == 200
        magichour.send_event(project_id, "started")
        assert endpoint.wait_for(7)[-1] == "image.started"


def test_shuffled_webhooks_come_in_another_order(endpoint: Endpoint) -> None:
    with Simulator(duration=0.0, seed=1) as magichour:
        magichour.send_webhooks(endpoint.url, SECRET, shuffle=0.5)
        ids = [create(magichour) for _ in range(8)]
        endpoint.wait_for(16)
    order = [(json.loads(body)["payload"]["id"], json.loads(body)["type"]) for _, body in endpoint.received]
    assert any(order.index((one, "image.completed")) < order.index((one, "image.started")) for one in ids)

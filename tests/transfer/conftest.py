from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_magichour._client import retry
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.files import sha256
from tests.support.scripted_server import Reply, ScriptedServer, scripted_server


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(retry, "retry_wait", lambda attempt, retry_after, draw: 0.0)


@pytest.fixture
def hook(sim, connect):
    """A hook for the simulator."""
    connect(sim.url, sim.api_key, timeout=30)
    return MagicHourHook()


@pytest.fixture
def media() -> bytes:
    return random.Random(1).randbytes(300_000)


class Host:
    """A Magic Hour with one project, whose files come as a test tells."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.paths = ["/files/output.mp4"]
        self.fetch: Callable[[Any], Reply] = lambda seen: Reply(body=b"media")
        self.asked = 0
        server.respond = self._respond

    def _respond(self, seen: Any) -> Reply:
        if not seen.path.startswith("/v1/"):
            return self.fetch(seen)
        if seen.path == "/v1/account":
            return Reply(body={"id": "account-1", "credits": 100})
        if seen.method == "DELETE":
            return Reply(204)
        self.asked += 1
        urls = [path if "://" in path else f"{self.server.url}{path}?sig={self.asked}" for path in self.paths]
        downloads = [{"url": url, "expires_at": "2030-01-01T00:00:00Z"} for url in urls]
        project = {"id": "p1", "status": "complete", "enabled": True, "downloads": downloads, "error": None}
        return Reply(body={**project, "created_at": "2026-01-01T00:00:00Z"})

    @property
    def fetches(self) -> list[Any]:
        return [seen for seen in self.server.seen if not seen.path.startswith("/v1/")]


@pytest.fixture
def host(connect):
    with scripted_server() as server:
        connect(server.url, "mhk_test_key", timeout=30, max_attempts=3)
        yield Host(server)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def assert_whole(files, wanted):
    (file,) = files
    assert file["sha256"] == wanted == sha256(file["path"])


def ranged(data: bytes, seen: Any, *, etag: str = '"v1"', cut: int | None = None) -> Reply:
    """Serve bytes with Range and If-Range; ``cut`` ends the connection after that many bytes."""
    headers = {"ETag": etag, "Content-Type": "video/mp4"}
    start, status = 0, 200
    if "range" in seen.headers and seen.headers.get("if-range") == etag:
        start, status = int(seen.headers["range"].removeprefix("bytes=").rstrip("-")), 206
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    body = data[start:]
    headers["Content-Length"] = str(len(body))
    if cut is not None and cut < len(body):
        headers["Connection"] = "close"
        body = body[:cut]
    return Reply(status=status, body=body, headers=headers)

"""
A Magic Hour for thousands of status checks a second, for benchmarks of waiting.

The simulator checks bodies, draws media and keeps state; here an id alone says all there is to know:
``p-{made at, unix ms}-{duration, ms}-{number}`` is complete that long after it was made. One process, one
event loop, no framework, so that the server is not what is measured.

    python -m benchmarks.load_server --port 8011

``GET /_stats`` gives what was asked, ``GET /_faults?share=0.1`` lets that share of responses go wrong,
``GET /_pause?seconds=5`` gives 429 with that ``Retry-After`` until the seconds are over, and
``GET /_latency?seconds=0.2`` delays every response by so much. A project whose number begins with ``hang`` is
never responded to.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from urllib.request import urlopen

KEY = "mhk_live_benchmark"
_ID = re.compile(r"/v1/(image|video|audio)-projects/(p-(\d+)-(\d+)-\w+)$")


_PEER = json.dumps({"status": {"code": 200}, "data": {"id": 1, "status": 3, "filler": "x" * 480}}).encode()


def project_id(number: int | str, duration: float, made_at: float | None = None) -> str:
    """Return the id of a project made now, or then, that takes so many seconds."""
    made = time.time() if made_at is None else made_at
    return f"p-{int(made * 1000)}-{int(duration * 1000)}-{number}"


class Backend:
    """What the server counts, and what it is set to do."""

    def __init__(self) -> None:
        self.requests = 0
        self.open = self.most_open = self.opened = 0
        self.statuses: Counter[int] = Counter()
        self.completed: set[str] = set()
        self.paused_at = self.paused_until = 0.0
        self.asked_in_pause: list[float] = []
        self.faults = 0.0
        self.latency = 0.0
        self.checked_at: dict[str, list[float]] = {}

    def stats(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "open": self.open,
            "most_open": self.most_open,
            "opened": self.opened,
            "statuses": dict(self.statuses),
            "completed": len(self.completed),
            "asked_in_pause": self.asked_in_pause,
        }

    def control(self, path: str) -> bytes:
        parts = urlsplit(path)
        given = dict(parse_qsl(parts.query))
        if parts.path == "/_faults":
            self.faults = float(given["share"])
        elif parts.path == "/_latency":
            self.latency = float(given["seconds"])
        elif parts.path == "/_times":
            return json.dumps({"times": self.checked_at.get(given["id"], [])}).encode()
        elif parts.path == "/_pause":
            self.paused_at = time.time()
            self.paused_until = self.paused_at + float(given["seconds"])
            self.asked_in_pause = []
        elif parts.path == "/_reset":
            self.requests = self.opened = 0
            self.most_open = self.open
            self.statuses.clear()
            self.completed.clear()
        return json.dumps(self.stats()).encode()

    def respond(self, path: str) -> tuple[int, bytes, str]:
        self.requests += 1
        now = time.time()
        if now < self.paused_until:
            self.asked_in_pause.append(now - self.paused_at)
            return 429, b'{"message": "slow down"}', f"Retry-After: {self.paused_until - now:.3f}\r\n"
        if path.startswith("/api/v2/accounts/"):  # what a peer's hook requests, and about as long a response
            return 200, _PEER, ""
        found = _ID.match(path)
        if not found:
            return 404, b'{"message": "no such project"}', ""
        kind, one, made, duration = found.groups()
        if one.rpartition("-")[2].startswith("watched"):
            self.checked_at.setdefault(one, []).append(now)
        ends = (int(made) + int(duration)) / 1000
        done = now >= ends
        if done:
            self.completed.add(one)
        project = {
            "id": one,
            "name": f"{kind} {one}",
            "status": "complete" if done else "rendering",
            "type": "NEW_TYPE",
            "created_at": datetime.fromtimestamp(int(made) / 1000, UTC).isoformat(),
            "enabled": True,
            "credits_charged": 50,
            "total_frame_cost": 50,
            "image_count": 1,
            "width": 1280,
            "height": 720,
            "start_seconds": 0,
            "end_seconds": 5,
            "fps": 24,
            "error": None,
            "downloads": [{"url": "http://127.0.0.1/x.png", "expires_at": "2026-12-01T00:00:00Z"}]
            if done
            else [],
        }
        return 200, json.dumps(project).encode(), ""


class Connection(asyncio.Protocol):
    """One connection of a client; responds in the order of the requests."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.buffer = b""
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.backend.open += 1
        self.backend.opened += 1
        self.backend.most_open = max(self.backend.most_open, self.backend.open)

    def connection_lost(self, exc: Exception | None) -> None:
        self.backend.open -= 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            self.closing = b"\r\nconnection: close" in head.lower()
            self.respond(head.split(b" ", 2)[1].decode())

    def respond(self, path: str) -> None:
        if path.startswith("/_"):
            self.send(200, self.backend.control(path), "")
            return
        if self.backend.faults and random.random() < self.backend.faults:
            self.go_wrong(path)
            return
        if path.rpartition("-")[2].startswith("hang"):
            self.backend.requests += 1
            return
        if self.backend.latency:
            loop = asyncio.get_running_loop()
            loop.call_later(self.backend.latency, lambda: self.send(*self.backend.respond(path)))
            return
        self.send(*self.backend.respond(path))

    def go_wrong(self, path: str) -> None:
        what = random.choice(("5xx", "reset", "slow", "half", "html"))
        self.backend.statuses[0] += 1
        if what == "5xx":
            self.send(random.choice((500, 502, 503, 504)), b"<html>bad gateway</html>", "")
        elif what == "reset":
            self.transport.abort()
        elif what == "slow":
            loop = asyncio.get_running_loop()
            loop.call_later(random.uniform(0.5, 3), lambda: self.send(*self.backend.respond(path)))
        elif what == "half":
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
            self.transport.close()
        else:
            self.send(200, b"<html>maintenance</html>", "")

    def send(self, status: int, body: bytes, headers: str) -> None:
        self.backend.statuses[status] += 1
        if self.closing:
            headers += "Connection: close\r\n"
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json; charset=utf-8\r\n"
            f"Date: Sat, 21 Nov 2026 10:00:00 GMT\r\nServer: cloudflare\r\nCF-RAY: 8f0000000000-FRA\r\n"
            f"{headers}Content-Length: {len(body)}\r\n\r\n"
        )
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)
            if self.closing:
                self.transport.close()


async def serve(port: int) -> None:
    backend = Backend()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(backend), "127.0.0.1", port, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)  # whoever started it reads the port
    await server.serve_forever()


class LoadServer:
    """A load server in its own process."""

    def __init__(self, url: str) -> None:
        self.url = url

    def control(self, path: str) -> dict[str, Any]:
        with urlopen(self.url + path, timeout=30) as respond:  # noqa: S310  # our own server
            return dict(json.load(respond))

    def stats(self) -> dict[str, Any]:
        return self.control("/_stats")


@contextmanager
def load_server(port: int = 0) -> Iterator[LoadServer]:
    """Run a load server as long as the context lasts."""
    command = [sys.executable, "-m", "benchmarks.load_server", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield LoadServer(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args().port))

"""
A fast Magic Hour for benchmarks of files: everything about a project is in its id.

The id is ``{files}.{bytes}.{bytes per second}.{latency in ms}.{any name}``; 0 bytes per second is no limit.
A create call makes the project whose id is the ``name`` in its body. It is complete at once; one whose name
begins with ``later`` once it is some seconds old.
Run as ``python -m benchmarks.file_server PORT FILE``, where FILE holds the bytes that are served.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from scripts.local.processes import free_port

#: How long a project renders whose name begins with ``later``, in seconds.
RENDER_SECONDS = 5.0
_created: dict[str, float] = {}


class Shape(NamedTuple):
    """What a project's id says."""

    files: int
    size: int
    rate: int
    latency: float

    @classmethod
    def of(cls, project_id: str) -> Shape:
        """Read an id."""
        files, size, rate, latency, _ = project_id.split(".", 4)
        return cls(int(files), int(size), int(rate), int(latency) / 1000)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's own name
        """Say nothing."""

    def do_GET(self) -> None:
        """Respond with a project, or with a file."""
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts == ["v1", "account"]:
            self._json({"id": "benchmark", "credits": 1, "tier": "business"})
        elif parts[0] == "v1":
            self._project(parts[-1])
        else:
            self._file(parts[-2])

    def do_POST(self) -> None:
        """Make the project that the body names, or presign an upload to ``BENCH_PUT``."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/upload-urls"):
            url = f"{os.environ['BENCH_PUT']}/put/a.png"
            self._json({"items": [{"upload_url": url, "file_path": "api-assets/a.png"}]})
            return
        time.sleep(Shape.of(body["name"]).latency)
        _created[body["name"]] = time.monotonic()
        self._json({"id": body["name"], "credits_charged": 5})

    def do_DELETE(self) -> None:
        """Delete nothing, but say so."""
        time.sleep(Shape.of(self.path.rpartition("/")[2]).latency)
        self.send_response(204)
        self.end_headers()

    def _project(self, project_id: str) -> None:
        shape = Shape.of(project_id)
        time.sleep(shape.latency)
        origin = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
        project = {
            "id": project_id,
            "name": None,
            "status": "complete",
            "type": "AI_IMAGE",
            "enabled": True,
            "image_count": shape.files,
            "credits_charged": 5,
            "total_frame_cost": 5,
            "created_at": "2026-11-21T10:00:00Z",
            "error": None,
            "downloads": [
                {
                    # signed, and so as long and as hard to compress as a real one
                    "url": f"{origin}/{project_id}/output-{n}.png?signature={secrets.token_hex(150)}",
                    "expires_at": "2030-01-01T00:00:00Z",
                }
                for n in range(shape.files)
            ],
        }
        rendered = time.monotonic() - _created.get(project_id, 0) >= RENDER_SECONDS
        if project_id.split(".", 4)[4].startswith("later") and not rendered:
            project |= {"status": "rendering", "downloads": []}
        self._json(project)

    def _json(self, value: dict[str, object]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, project_id: str) -> None:
        shape = Shape.of(project_id)
        time.sleep(shape.latency)
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(shape.size))
        self.send_header("ETag", f'"{project_id}"')
        self.end_headers()
        self.wfile.flush()
        started, sent = time.monotonic(), 0
        with Path(sys.argv[2]).open("rb") as file:
            while sent < shape.size:
                step = min(shape.size - sent, shape.rate // 50 if shape.rate else shape.size)
                sent += os.sendfile(self.connection.fileno(), file.fileno(), sent, step)
                if shape.rate:
                    time.sleep(max(0.0, started + sent / shape.rate - time.monotonic()))


def connection_to(url: str) -> str:
    """Return an Airflow connection to a Magic Hour, as ``AIRFLOW_CONN_...`` holds it."""
    return json.dumps({"conn_type": "magichour", "host": url, "password": "mhk_benchmark"})


@contextmanager
def file_server(content: Path) -> Iterator[str]:
    """Run the server in its own process and give its base URL."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.file_server", str(port), str(content)])
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()

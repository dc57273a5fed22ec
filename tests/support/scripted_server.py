"""A small HTTP server that responds as a test says, and keeps the requests."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """A response; ``drop`` ends the connection instead, before its first byte."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str | None] = field(default_factory=dict)  # None leaves one out
    delay: float = 0.0
    drop: bool = False

    def finish(self) -> None:
        """Do something before the connection continues."""

    def content(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return b"" if self.body is None else json.dumps(self.body).encode()


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ScriptedServer:
    """Gives its replies in turn, the last one again and again."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[Seen] = []
        self.replies: list[Reply] = [Reply()]
        self.respond: Callable[[Seen], Reply] | None = None

    def script(self, *replies: Reply) -> None:
        self.seen.clear()
        self.replies = list(replies)

    def reply_to(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        if self.respond:
            return self.respond(seen)
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@contextmanager
def scripted_server(tls: ssl.SSLContext | None = None) -> Iterator[ScriptedServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = script.reply_to(Seen(self.command, self.path, headers, body))
            time.sleep(reply.delay)
            if reply.drop:
                linger = struct.pack("ii", 1, 0)  # a reset, not a polite end
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.content())), **reply.headers}.items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.content())
            reply.finish()

        # the names are http.server's
        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_CONNECT = handle_any  # noqa: N815

        def finish(self) -> None:
            try:
                super().finish()
            except (ValueError, OSError):
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients that hang up are what the tests are about
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    script = ScriptedServer(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""A server whose responses never end."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator

#: What is sent at once, and what is then sent again and again.
DRIPS: dict[str, tuple[bytes, bytes]] = {
    "status line": (b"HTTP/1.1 200 ", b"O"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X"),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" "),
    "body without a length": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" "),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "a chunk's size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n \r\n0\r\n", b"X: y\r\n"),
}


class DrippingServer(socketserver.ThreadingTCPServer):
    """Sends each client a beginning, and then something again and again until the client hangs up."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, beginning: bytes, drip: bytes, every: float) -> None:
        self.asked = 0
        self.stop = threading.Event()
        dripping = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    self.request.recv(64 * 1024)
                    dripping.asked += 1
                    self.request.sendall(beginning)
                    while not dripping.stop.wait(every):
                        self.request.sendall(drip)

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def dripping_server(beginning: bytes, drip: bytes, every: float = 0.03) -> Iterator[DrippingServer]:
    with DrippingServer(beginning, drip, every) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.stop.set()
            server.shutdown()
            thread.join()

"""
A fast S3 for benchmarks, which keeps no bytes of large objects: what limits it is what its arguments say.

    python -m benchmarks.store_server PORT RATE LATENCY_MS

RATE is in bytes per second and connection, 0 for none; each request takes LATENCY_MS, or a random time
between two numbers (``20-60``). ``PUT /put/...`` takes an upload to a presigned URL. ``GET /requests`` counts
the requests since the last such call.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

#: The largest object whose bytes are kept.
KEPT = 1024 * 1024
OBJECTS: dict[str, tuple[int, bytes]] = {}
PARTS: Counter[str] = Counter()
REQUESTS: Counter[str] = Counter()
XML = '<?xml version="1.0"?>'


class Connection:
    """One connection: requests in, responses out, at the rate and latency requested."""

    def __init__(self, sock: socket.socket, rate: int, latency: tuple[float, float]) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.rate = rate
        self.latency = latency
        self.file: BinaryIO = sock.makefile("rb", 256 * 1024)
        self.buffer = bytearray(256 * 1024)

    def serve(self) -> None:
        while line := self.file.readline():
            method, target, _ = line.decode().split(" ", 2)
            headers = {}
            while (line := self.file.readline()).strip():
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            if headers.get("expect") == "100-continue":
                self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body, size = self.read(int(headers.get("content-length", 0)))
            time.sleep(random.uniform(*self.latency))
            self.respond(method, target, headers, body, size)

    def read(self, length: int) -> tuple[bytes, int]:
        kept, done, started = bytearray(), 0, time.monotonic()
        while done < length:
            count = self.file.readinto1(memoryview(self.buffer)[: length - done])  # type: ignore[attr-defined]
            if not count:
                break
            if length <= KEPT:
                kept += self.buffer[:count]
            done += count
            self.pause(started, done)
        return bytes(kept), done

    def pause(self, started: float, done: int) -> None:
        ahead = done / self.rate - (time.monotonic() - started) if self.rate else 0
        if ahead > 0.005:
            time.sleep(ahead)

    def respond(self, method: str, target: str, headers: dict[str, str], body: bytes, size: int) -> None:
        parts = urlsplit(target)
        key, query = unquote(parts.path), parse_qs(parts.query, keep_blank_values=True)
        if method == "GET" and key == "/requests":
            self.send(200, json.dumps(REQUESTS).encode())
            REQUESTS.clear()
            return
        REQUESTS[f"{method} {'list' if 'list-type' in query else 'object'}"] += 1
        if method == "PUT":
            if "partNumber" in query:
                PARTS[query["uploadId"][0]] += size
            else:
                OBJECTS[key] = (size, body)
            self.send(200, headers={"ETag": f'"{hashlib.md5(key.encode()).hexdigest()}"'})  # noqa: S324
        elif method == "POST" and "uploads" in query:
            name = f"u{random.getrandbits(64)}"
            self.send(200, f"{XML}<R><UploadId>{name}</UploadId></R>".encode())
        elif method == "POST" and "uploadId" in query:
            OBJECTS[key] = (PARTS.pop(query["uploadId"][0]), b"")
            self.send(200, f'{XML}<R><Key>{key}</Key><ETag>"x"</ETag></R>'.encode())
        elif method == "GET" and ("list-type" in query or "uploads" in query):
            self.send(200, f"{XML}<R><IsTruncated>false</IsTruncated></R>".encode())
        elif method == "DELETE":
            OBJECTS.pop(key, None)
            self.send(204)
        else:
            self.get(method, key, headers)

    def get(self, method: str, key: str, headers: dict[str, str]) -> None:
        if key not in OBJECTS:
            self.send(404, f"{XML}<Error><Code>NoSuchKey</Code></Error>".encode() if method == "GET" else b"")
            return
        size, kept = OBJECTS[key]
        start, _, end = headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        first, last = int(start), min(int(end or size - 1), size - 1)
        found = {"ETag": '"x"', "Content-Type": "image/png", "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}
        if "range" in headers:
            found["Content-Range"] = f"bytes {first}-{last}/{size}"
        length = last - first + 1
        self.send(206 if "range" in headers else 200, length=length, headers=found)
        if method == "HEAD":
            return
        done, started, block = 0, time.monotonic(), bytes(256 * 1024)
        while done < length:
            piece = kept[first + done : last + 1] if kept else block[: length - done]
            self.sock.sendall(piece)
            done += len(piece)
            self.pause(started, done)

    def send(
        self,
        status: int,
        body: bytes = b"",
        *,
        length: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def main() -> None:
    port, rate = int(sys.argv[1]), int(sys.argv[2])
    low, _, high = sys.argv[3].partition("-")
    latency = (int(low) / 1000, int(high or low) / 1000)
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=Connection(sock, rate, latency).serve, daemon=True).start()


if __name__ == "__main__":
    main()

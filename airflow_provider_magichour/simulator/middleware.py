"""The ASGI middleware of both hosts. It counts requests, and applies faults, also to the socket."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
import zlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow_provider_magichour.simulator.faults import Call, Fault, Faults

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: The keys in the scope of the connection's transport and of the fault that applies.
TRANSPORT = "magichour.transport"
FAULT = "magichour.fault"

_LOGGED_HEADERS = {
    b"accept-encoding", b"content-length", b"content-type", b"if-range", b"range", b"user-agent"
}  # fmt: skip
_LOGGED_REQUESTS = 20_000


class Recorder:
    """Counts the requests and the connections."""

    def __init__(self) -> None:
        self.open_connections = 0
        self.reset()

    def reset(self) -> None:
        """Set the counters to zero, but keep the number of open connections."""
        self.requests: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.log: deque[dict[str, Any]] = deque(maxlen=_LOGGED_REQUESTS)
        self.connections = self.open_connections
        self.most_connections = self.open_connections
        self.in_flight = 0
        self.most_in_flight = 0
        self.leaked_keys = 0

    def connected(self) -> None:
        """Count a new connection."""
        self.open_connections += 1
        self.connections += 1
        self.most_connections = max(self.most_connections, self.open_connections)

    def disconnected(self) -> None:
        """Count a connection that is closed."""
        self.open_connections -= 1

    def begin(self, call: Call, scope: Scope) -> dict[str, Any]:
        """Log a new request."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.requests[f"{call.method} {call.template}"] += 1
        entry = {
            "at": time.time(),
            "host": call.host,
            "method": call.method,
            "path": call.path,
            "route": call.route,
            "headers": {
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in scope["headers"]
                if name in _LOGGED_HEADERS
            },
            "status": None,
            "fault": False,
        }
        self.log.append(entry)
        return entry

    def end(self, entry: dict[str, Any]) -> None:
        """Count the status of a request: ``dropped`` if there was no response."""
        self.in_flight = max(self.in_flight - 1, 0)
        self.statuses[str(entry["status"] or "dropped")] += 1


class Middleware:
    """
    An ASGI application that wraps another one.

    :param app: the routes of the host.
    :param name_call: returns the call for a method and a path.
    :param recorder: counts and logs the requests.
    :param faults: the current faults.
    :param latency: seconds by which each response is delayed.
    """

    def __init__(
        self,
        app: App,
        name_call: Callable[[str, str], Call],
        recorder: Recorder,
        faults: Faults,
        latency: float,
    ) -> None:
        self._app = app
        self._latency = latency
        self._name_call = name_call
        self._recorder = recorder
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request, unless a fault prevents it."""
        if scope["type"] != "http":
            return
        call = self._name_call(scope["method"], scope["path"])
        if call.route == "admin":
            await self._app(scope, receive, send)
            return
        fault = self._faults.pick(call) if self._faults else None
        entry = self._recorder.begin(call, scope)

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry["status"] = message["status"]
            await send(message)

        try:
            await asyncio.sleep(self._latency)
            if fault is None:
                await self._app(scope, receive, send_and_note)
            else:
                entry["fault"] = True
                scope[FAULT] = fault
                await _apply(fault, self._app, scope, receive, send_and_note)
        except asyncio.CancelledError:
            # The simulator stops. If the connection is closed, this is not an error.
            if not scope[TRANSPORT].is_closing():
                raise
        finally:
            self._recorder.end(entry)


async def _apply(fault: Fault, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    if fault.delay:
        await asyncio.sleep(fault.delay)
    if fault.drop == "before":
        await hang_up(scope, receive, fault.hang_up or "reset")
        return
    shaper = _Shaper(fault, scope, receive, send)
    if fault.has_response and not fault.process:
        await shaper.send_own()
        return
    if fault.drop is None and not (fault.has_response or fault.merge or fault.remove):
        if fault.delay_after:
            shaper.hold(fault.delay_after)
        await app(scope, receive, shaper.send)
        return
    status, headers, body = await _carry_out(app, scope, receive)
    await asyncio.sleep(fault.delay_after)
    if fault.drop == "after":
        await hang_up(scope, receive, fault.hang_up or "reset")
    elif fault.has_response:
        await shaper.send_own()
    else:
        await shaper.send_complete(status, headers, _edited(fault, body))


async def _carry_out(
    app: App, scope: Scope, receive: Receive
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Let the application process a request, and keep its response."""
    status, headers, parts = 500, [], []

    async def keep(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message["headers"])
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, keep)
    return status, headers, b"".join(parts)


def _edited(fault: Fault, body: bytes) -> bytes:
    try:
        found = json.loads(body)
    except ValueError:
        return body
    if not isinstance(found, dict):
        return body
    found |= fault.merge
    return json.dumps({name: value for name, value in found.items() if name not in fault.remove}).encode()


async def hang_up(scope: Scope, receive: Receive, how: str) -> None:
    """
    End the connection.

    It returns when the server has noticed this, so that the server does not try to respond.

    :param how: ``reset`` ends it at once, with an error for the client. ``close`` sends
        what is buffered first.
    """
    transport = scope[TRANSPORT]
    if how == "reset":
        sock = transport.get_extra_info("socket")
        # With a linger time of zero, closing the socket sends a TCP reset.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass


class _Shaper:
    """Changes a response as a fault defines it."""

    def __init__(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        self._fault = fault
        self._scope = scope
        self._receive = receive
        self._send = send
        self._wait = 0.0
        self._sent = 0
        #: After this number of bytes, the connection breaks.
        self._drop_at: int | None = None
        #: After this number of bytes, the body ends as if it was complete.
        self._end_at: int | None = None
        self._gzip = zlib.compressobj(wbits=31) if fault.gzip else None
        self._over = False

    def hold(self, seconds: float) -> None:
        """Wait before the response starts."""
        self._wait = seconds

    async def send_own(self) -> None:
        """Send the fault's own response."""
        status, content_type, body = self._fault.response()
        await self.send_complete(status, [(b"content-type", content_type.encode())], body)

    async def send_complete(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a complete response."""
        headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
        if status not in {204, 304}:
            headers.append((b"content-length", str(len(body)).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def send(self, message: Message) -> None:
        """Change a message of the application, and send it."""
        if message["type"] == "http.response.start":
            await asyncio.sleep(self._wait)
            await self._send({**message, "headers": self._headers(list(message["headers"]))})
        elif not self._over:
            await self._body(message.get("body", b""), more=message.get("more_body", False))

    def _headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        fault = self._fault
        length = next((int(value) for name, value in headers if name.lower() == b"content-length"), None)
        size = length or 0
        if fault.drop_after_bytes is not None:
            self._drop_at = fault.drop_after_bytes
        elif fault.drop_after_percent is not None:
            self._drop_at = int(size * fault.drop_after_percent / 100)
        if fault.shorten_to_bytes is not None:
            self._end_at = min(fault.shorten_to_bytes, size)
        given = {name.lower().encode("latin-1"): value for name, value in fault.headers.items()}
        dropped = set(given)
        if fault.chunked or fault.gzip or self._end_at is not None:
            dropped.add(b"content-length")
        headers = [pair for pair in headers if pair[0].lower() not in dropped]
        headers += [(name, value.encode("latin-1")) for name, value in given.items() if value is not None]
        if fault.gzip:
            headers.append((b"content-encoding", b"gzip"))
        elif self._end_at is not None and not fault.chunked:
            headers.append((b"content-length", str(self._end_at).encode()))
        return headers

    async def _body(self, data: bytes, *, more: bool) -> None:
        if self._gzip is not None:
            data = self._gzip.compress(data) + (b"" if more else self._gzip.flush())
        if self._end_at is not None and self._sent + len(data) >= self._end_at:
            data, more = data[: self._end_at - self._sent], False
        drop = self._drop_at is not None and self._sent + len(data) >= self._drop_at
        if drop and self._drop_at is not None:
            data, more = data[: self._drop_at - self._sent], True
        await self._drip(data)
        self._over = drop or not more
        if drop:
            await hang_up(self._scope, self._receive, self._fault.hang_up or "close")
        elif not more:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drip(self, data: bytes) -> None:
        self._sent += len(data)
        size = self._fault.drip_bytes if self._fault.drip_seconds else max(len(data), 1)
        for at in range(0, len(data), size):
            if at or self._sent > len(data):
                await asyncio.sleep(self._fault.drip_seconds)
            await self._send({"type": "http.response.body", "body": data[at : at + size], "more_body": True})

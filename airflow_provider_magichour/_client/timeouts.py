"""
Connections that limit the time of a whole response.

A socket's own timeout starts again with each byte, so a slow response may never end. Here, the timeout
applies to the whole response of the API, or to the headers and to each piece of a file.
"""

from __future__ import annotations

import http
import http.client
import io
import socket
import time
from collections.abc import Mapping
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

Pools = Mapping[str, type[HTTPConnectionPool]]


class _TimedReader(io.RawIOBase):
    """Reads from a socket until a deadline that does not move."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._timeout = sock.gettimeout()
        self.start()

    def start(self) -> None:
        """Start the time limit now."""
        self._ends = None if self._timeout is None else time.monotonic() + self._timeout

    def readable(self) -> bool:
        """Return True, as a BufferedReader requires."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """
        Read what is there, or wait for it.

        :raises TimeoutError: if the time is up.
        """
        if self._ends is not None:
            left = self._ends - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"read timed out after {self._timeout:g} s")
            self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        """Release the socket."""
        self._raw.close()
        super().close()


class BufferedResponse(http.client.HTTPResponse):
    """A response whose headers and body together must arrive within the socket's timeout."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._reader = _TimedReader(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self._reader)

    def _read_status(self) -> tuple[str, int, str]:
        """Let ``begin`` skip every interim response (RFC 9110, 15.2). By default it skips only 100."""
        version, status, reason = super()._read_status()  # type: ignore[misc]  # not in the stubs
        interim = 100 <= status < 200 and status != http.HTTPStatus.SWITCHING_PROTOCOLS
        return version, http.HTTPStatus.CONTINUE if interim else status, reason


class StreamedResponse(BufferedResponse):
    """A response whose headers, and each ``read1`` of its body, must arrive within the socket's timeout."""

    def read1(self, n: int = -1) -> bytes:
        """
        Return the next piece.

        :raises TimeoutError: if it takes too long, however its bytes are framed.
        """
        self._reader.start()
        return super().read1(n)


def pools(response: type[BufferedResponse], connection: type[HTTPConnection] = HTTPConnection) -> Pools:
    """
    Return urllib3's pools by scheme.

    :param response: how responses are read.
    :param connection: further behaviour of the connections.
    """

    class Connection(connection):  # type: ignore[misc,valid-type]
        response_class = response

    class SecureConnection(Connection, HTTPSConnection):  # type: ignore[misc]
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection  # pyright: ignore[reportAssignmentType]  # as urllib3 documents it

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = SecureConnection  # pyright: ignore[reportAssignmentType]

    return {"http": Pool, "https": SecurePool}


class PoolsAdapter(HTTPAdapter):
    """
    An adapter with the given connection pools.

    :param direct: the pools of connections to servers.
    :param through_proxy: the pools of connections through an HTTP proxy.
    :param options: as ``HTTPAdapter`` takes them.
    """

    def __init__(self, direct: Pools, through_proxy: Pools | None = None, **options: Any) -> None:
        self._direct = direct
        self._through_proxy = through_proxy or direct
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Choose the pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._direct

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """Choose the pools of connections through a proxy; SOCKS has connections of its own kind."""
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = self._through_proxy
        return manager


def mount(session: Any, adapter: HTTPAdapter) -> None:
    """Mount an adapter for all requests of a session."""
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)

"""Runs both hosts of the simulator in one event loop, in a separate thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from airflow_provider_magichour.simulator.middleware import TRANSPORT, App, Receive, Recorder, Scope, Send

T = TypeVar("T")

_START_SECONDS = 30
_STOP_SECONDS = 10


class _Server(uvicorn.Server):
    """A server that does not handle signals. The program that runs the simulator does."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do not capture signals."""
        yield


class Runner:
    """
    Serves applications, each on its own port.

    :param apps: the applications.
    :param host: the address to listen on.
    :param ports: the port of each application, 0 for any free one.
    :param recorder: counts connections.
    :param on_stop: called in the event loop before it ends.
    """

    def __init__(
        self,
        apps: Sequence[App],
        host: str,
        ports: Sequence[int],
        recorder: Recorder,
        on_stop: Callable[[], Awaitable[None]],
    ) -> None:
        self._apps = apps
        self._host = host
        self._wanted_ports = ports
        self._recorder = recorder
        self._on_stop = on_stop
        #: The ports in use, once it listens.
        self.ports = list(ports)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._servers: list[_Server] = []
        self._sockets: list[socket.socket] = []
        self._failure: BaseException | None = None

    def bind(self) -> None:
        """
        Bind the ports.

        :raises OSError: if a port is in use.
        :raises RuntimeError: if it is running already.
        """
        if self._thread is not None:
            raise RuntimeError("The simulator is running already")
        with contextlib.ExitStack() as on_failure:
            self._sockets = [
                on_failure.enter_context(_listen(self._host, port)) for port in self._wanted_ports
            ]
            on_failure.pop_all()
        self.ports = [sock.getsockname()[1] for sock in self._sockets]

    def start(self) -> None:
        """Start the thread, and return when it accepts requests."""
        self._failure = None
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="magichour-simulator", daemon=True
        )
        self._thread.start()
        if not ready.wait(_START_SECONDS) or self._failure is not None:
            self.stop()
            raise RuntimeError("The simulator did not start") from self._failure

    def stop(self) -> None:
        """Close all connections and end the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._loop is not None and thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop)
        thread.join(_STOP_SECONDS)

    @contextlib.contextmanager
    def offline(self) -> Iterator[None]:
        """Close all connections and refuse new ones within a ``with`` block."""
        self.call(self._close_listeners())
        try:
            yield
        finally:
            self._sockets = [_listen(self._host, port) for port in self.ports]
            self.call(self._serve_sockets())

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """
        Run a coroutine in the event loop, and return its result.

        :raises RuntimeError: if the simulator does not run.
        """
        if self._thread is None or self._loop is None:
            work.close()
            raise RuntimeError("The simulator is not running")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_STOP_SECONDS)

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as failure:  # noqa: BLE001 - the thread that waits raises it
            self._failure = failure
        finally:
            for sock in self._sockets:
                sock.close()
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._servers = [_Server(self._config(app)) for app in self._apps]
        tasks = [
            asyncio.create_task(server.serve([sock]))
            for server, sock in zip(self._servers, self._sockets, strict=True)
        ]
        while not all(server.started for server in self._servers):
            if any(task.done() for task in tasks):
                break
            await asyncio.sleep(0.005)
        ready.set()
        await asyncio.gather(*tasks)
        await self._on_stop()

    def _config(self, app: App) -> uvicorn.Config:
        return uvicorn.Config(
            app,
            http=_protocol(self._recorder),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
        )

    async def _serve_sockets(self) -> None:
        for server, sock in zip(self._servers, self._sockets, strict=True):
            await server.startup([sock])

    async def _shut_down(self) -> None:
        await self._close_listeners()
        for server in self._servers:
            server.should_exit = server.force_exit = True

    async def _close_listeners(self) -> None:
        loop = asyncio.get_running_loop()
        for server, sock in zip(self._servers, self._sockets, strict=True):
            loop.remove_reader(sock)
            # A forked process may have the socket, too. Closing it here would then leave the port open.
            sock.shutdown(socket.SHUT_RDWR)
            for listener in server.servers:
                listener.close()
            for connection in list(server.server_state.connections):
                connection.transport.abort()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol set to TCP, asyncio turns off Nagle's algorithm for new connections.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _protocol(recorder: Recorder) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol that also counts connections and puts the transport into the scope."""

    class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        app: App

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            recorder.connected()
            app = self.app

            async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
                scope[TRANSPORT] = transport
                await app(scope, receive, send)

            self.app = with_transport

        def connection_lost(self, exc: Exception | None) -> None:
            recorder.disconnected()
            super().connection_lost(exc)

    return Protocol

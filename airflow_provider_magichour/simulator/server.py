"""Runs the simulator: both hosts in one event loop, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from airflow_provider_magichour.simulator import api_routes, file_routes
from airflow_provider_magichour.simulator.admin import Admin
from airflow_provider_magichour.simulator.backend import Backend
from airflow_provider_magichour.simulator.faults import Call, Faults, Outcome, Rule
from airflow_provider_magichour.simulator.media import digest
from airflow_provider_magichour.simulator.middleware import (
    TRANSPORT,
    App,
    Middleware,
    Receive,
    Recorder,
    Scope,
    Send,
)
from airflow_provider_magichour.simulator.settings import Settings
from airflow_provider_magichour.simulator.signing import Signer
from airflow_provider_magichour.simulator.webhooks import Webhooks, WebhookTarget

T = TypeVar("T")

_START_SECONDS = 30
_STOP_SECONDS = 10


class _Server(uvicorn.Server):
    """A server that leaves signals alone: they belong to whoever runs the simulator."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class Simulator:
    """
    A local Magic Hour, running in a thread.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`.

    :param settings: the fields of :class:`~airflow_provider_magichour.simulator.settings.Settings`.
    """

    def __init__(self, **settings: Any) -> None:
        self._signer = Signer()
        self._recorder = Recorder()
        self._backend = Backend(Settings(**settings), self._signer)
        self._faults = Faults(self.settings.seed)
        self._webhooks = Webhooks(self._backend, _webhook_target(self.settings), self.settings.seed)
        self._admin = Admin(self._backend, self._recorder, self._faults, self._webhooks)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._servers: list[_Server] = []
        self._sockets: list[socket.socket] = []
        self._failure: BaseException | None = None
        self._ports = (0, 0)

    # -------------------------------------------------------------------------------------- where it is

    @property
    def settings(self) -> Settings:
        """Return how it behaves."""
        return self._backend.settings

    @property
    def url(self) -> str:
        """Return the API's base URL."""
        return self._origin(self._ports[0])

    @property
    def downloads_url(self) -> str:
        """Return the origin of signed download and upload URLs."""
        return self._origin(self._ports[1])

    @property
    def api_key(self) -> str:
        """Return the API key that it accepts."""
        return self.settings.api_key

    @property
    def connection_uri(self) -> str:
        """Return an Airflow connection to it, for ``AIRFLOW_CONN_MAGICHOUR_DEFAULT``."""
        return f"magichour://:{quote(self.api_key, safe='')}@{quote(self.url, safe='')}"

    def _origin(self, port: int) -> str:
        host = self.settings.public_host or self.settings.host
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    # ------------------------------------------------------------------------------------ start and stop

    def start(self) -> Self:
        """
        Start to listen, and return when it does.

        :raises OSError: if a port is taken.
        """
        if self._thread is not None:
            raise RuntimeError("The simulator is running already")
        with contextlib.ExitStack() as on_failure:
            api = on_failure.enter_context(_listen(self.settings.host, self.settings.port))
            files = on_failure.enter_context(_listen(self.settings.host, self.settings.downloads_port))
            on_failure.pop_all()
        self._ports = (api.getsockname()[1], files.getsockname()[1])
        self._signer.base_url = self.downloads_url
        self._failure = None
        self._sockets = [api, files]
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="magichour-simulator", daemon=True
        )
        self._thread.start()
        if not ready.wait(_START_SECONDS) or self._failure is not None:
            self.stop()
            raise RuntimeError("The simulator did not start") from self._failure
        return self

    def stop(self) -> None:
        """Close all connections and end the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._loop is not None and thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop)
        thread.join(_STOP_SECONDS)

    async def _shut_down(self) -> None:
        await self._close_listeners()
        for server in self._servers:
            server.should_exit = server.force_exit = True

    @contextlib.contextmanager
    def offline(self) -> Iterator[None]:
        """Let nothing listen for a while: connections end, and new ones are refused."""
        self._wait_for(self._close_listeners())
        try:
            yield
        finally:
            sockets = [_listen(self.settings.host, port) for port in self._ports]
            self._sockets = sockets
            self._wait_for(self._listen_again(sockets))

    async def _close_listeners(self) -> None:
        loop = asyncio.get_running_loop()
        for server, sock in zip(self._servers, self._sockets, strict=True):
            loop.remove_reader(sock)
            # A forked process may hold the socket too; closing alone would leave the port open.
            sock.shutdown(socket.SHUT_RDWR)
            for listener in server.servers:
                listener.close()
            for connection in list(server.server_state.connections):
                connection.transport.abort()

    async def _listen_again(self, sockets: Sequence[socket.socket]) -> None:
        for server, sock in zip(self._servers, sockets, strict=True):
            await server.startup([sock])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as failure:  # noqa: BLE001 - handed to the thread that waits
            self._failure = failure
        finally:
            for sock in self._sockets:
                sock.close()
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        api = FastAPI(title="Magic Hour simulator")
        api.include_router(self._admin.router())
        api_routes.ApiRoutes(self._backend).add_routes(api)
        files = FastAPI(title="Magic Hour simulator, files", openapi_url=None)
        file_routes.FileRoutes(self._backend, self._recorder).add_routes(files)
        self._servers = [
            self._server(api, api_routes.name_call),
            self._server(files, file_routes.name_call),
        ]
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
        self._backend.reset()
        await self._webhooks.close()

    def _server(self, app: App, name_call: Callable[[str, str], Call]) -> _Server:
        middleware = Middleware(app, name_call, self._recorder, self._faults)
        config = uvicorn.Config(
            middleware,
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
        return _Server(config)

    # ----------------------------------------------------------------------------------------- its state

    def state(self, *, projects: bool = True) -> dict[str, Any]:
        """
        Return counters and what Magic Hour remembers, as ``GET /_simulator/state`` does.

        :param projects: whether to include each project.
        """
        return self._in_loop(lambda: self._admin.state(projects=projects))

    def requests(self, route: str | None = None) -> list[dict[str, Any]]:
        """
        Return the latest requests, oldest first.

        :param route: the name of a route, None for all.
        """
        return self._in_loop(lambda: self._admin.requests(route=route))

    def faults(self, *rules: Mapping[str, Any] | Rule, seed: int | None = None) -> None:
        """
        Put faults in force, after those that are.

        :param rules: the rules, as the package's documentation describes them.
        :param seed: makes the chances of rules with a ``probability`` the same in each run.
        :raises pydantic.ValidationError: if a rule is not one.
        """
        checked = [rule if isinstance(rule, Rule) else Rule.model_validate(rule) for rule in rules]
        self._in_loop(lambda: self._admin.arm(checked, seed))

    def clear_faults(self) -> None:
        """Drop all faults."""
        self._in_loop(self._admin.disarm)

    def reset(self) -> None:
        """Forget projects, uploads, counters and faults; credits are full again."""
        self._in_loop(self._admin.reset)

    def end_project(
        self, project_id: str, status: str = "complete", code: str = "unknown_error", message: str = "Failed"
    ) -> dict[str, Any]:
        """
        Bring a project to its end now.

        :param status: ``complete``, ``error`` or ``canceled``.
        :param code: the error's code.
        :param message: the error's message.
        :raises KeyError: if there is no such project.
        """
        outcome = Outcome.model_validate({"status": status, "code": code, "message": message})
        return self._in_loop(lambda: self._admin.end(project_id, outcome))

    def add_api_key(self, key: str) -> None:
        """
        Give the account another API key, which :attr:`api_key` is from now on; the old one counts, too.

        :param key: the new key.
        """
        self._in_loop(lambda: self._backend.add_api_key(key))

    def add_account(self, key: str) -> str:
        """
        Open another account, with credits and projects of its own, and return its id.

        :param key: its API key.
        """
        return self._in_loop(lambda: self._backend.add_account(key).id)

    def ledger(self, account_id: str | None = None) -> list[dict[str, Any]]:
        """
        Return all charges and refunds, oldest first.

        Each has ``at``, ``account_id``, ``project_id``, ``tool``, ``entry`` (``charge`` or ``refund``) and
        ``credits``.

        :param account_id: of one account only.
        """
        return self._in_loop(lambda: self._admin.ledger(account_id))

    def revoke_api_key(self, key: str) -> None:
        """
        Refuse an API key from now on.

        :raises KeyError: if it is not known.
        """
        self._in_loop(lambda: self._backend.revoke_api_key(key))

    def digests(self, project_id: str) -> dict[str, str]:
        """
        Return the sha256 of each of a project's outputs by name, also when it was deleted.

        :raises KeyError: if there is no such project.
        """
        names, outputs = self._in_loop(lambda: self._backend.outputs(project_id))
        return {name: digest(media) for name, media in zip(names, outputs, strict=True)}

    def send_webhooks(self, url: str, secret: str, **options: Any) -> None:
        """
        Send webhooks there from now on.

        :param url: the endpoint.
        :param secret: signs them.
        :param options: ``retry_seconds``, ``timeout``, ``duplicates``, ``shuffle``.
        """
        target = WebhookTarget(url=url, secret=secret, **options)
        self._in_loop(lambda: self._admin.direct_webhooks(target))

    def send_event(self, project_id: str, event: Literal["started", "completed", "errored"]) -> None:
        """
        Send a project's webhook now, again.

        :raises KeyError: if there is no such project.
        """
        self._in_loop(lambda: self._admin.send_event(project_id, event))

    def _in_loop(self, action: Callable[[], T]) -> T:
        async def run() -> T:
            return action()

        return self._wait_for(run())

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        if self._thread is None or self._loop is None:
            work.close()
            raise RuntimeError("The simulator is not running")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_STOP_SECONDS)


def _webhook_target(settings: Settings) -> WebhookTarget | None:
    if settings.webhook_url is None or settings.webhook_secret is None:
        return None
    return WebhookTarget(
        url=settings.webhook_url,
        secret=settings.webhook_secret,
        retry_seconds=settings.webhook_retry_seconds,
        timeout=settings.webhook_timeout,
        duplicates=settings.webhook_duplicates,
        shuffle=settings.webhook_shuffle,
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, so that asyncio turns off Nagle's algorithm on what it accepts.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _protocol(recorder: Recorder) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, which also counts connections and gives the application its transport."""

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

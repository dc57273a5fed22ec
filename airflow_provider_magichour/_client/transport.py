"""
Sends the calls of :mod:`api`: a synchronous and an asynchronous sender with the same retry policy.

Only the synchronous sender sends calls that may cost credits, each over its own connection. This connection
knows whether any byte was sent. A call may be sent again if no byte was sent. Otherwise its outcome is
unknown.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self, TypeVar, cast
from urllib.parse import urlsplit

import aiohttp
import requests
import requests.auth
import tenacity
import urllib3
import yarl
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

from airflow_provider_magichour import __version__
from airflow_provider_magichour._client import api, environment, retry, stats
from airflow_provider_magichour._client.concurrency import ConnectionLimit
from airflow_provider_magichour._client.sanitize import Mask, one_line
from airflow_provider_magichour._client.settings import Settings
from airflow_provider_magichour._client.timeouts import BufferedResponse, PoolsAdapter, mount, pools
from airflow_provider_magichour.exceptions import (
    MagicHourApiError,
    MagicHourConnectionError,
    MagicHourError,
)

T = TypeVar("T")

#: Seconds to wait for a connection to open. A longer time helps only if the network is broken.
CONNECT_TIMEOUT = 10.0
#: The largest response of the API that is read, in bytes after decompression; real ones are a few KiB.
MAX_BODY = 8 * 1024 * 1024
#: The headers of a response that are read.
HEADERS = ("Location", "Retry-After")
USER_AGENT = f"airflow-provider-magichour/{__version__}"


_HEADERS = {"Accept": "application/json", "User-Agent": USER_AGENT}


_HEADERS_WITH_BODY = {**_HEADERS, "Content-Type": "application/json"}


# ------------------------------------------------------------------------------------ synchronous sender


class BearerAuth(requests.auth.AuthBase):
    """
    Puts the API key on requests to the API itself, and on no others.

    Because it is an auth object, ``requests`` does not use a ``.netrc`` entry.
    """

    def __init__(self, settings: Settings) -> None:
        self._api_key = settings.api_key
        self._origin = urlsplit(settings.base_url)[:2]

    def __call__(self, prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign a request that goes to the API."""
        if urlsplit(prepared.url or "")[:2] == self._origin:
            prepared.headers["Authorization"] = f"Bearer {self._api_key}"
        return prepared


class _OneCallAdapter(PoolsAdapter):
    """
    Sends one call over a new connection, and records whether any byte of it was sent.

    A pooled connection is not suitable: if the server has closed it, it is unknown whether the call was read.
    """

    def __init__(self) -> None:
        self.sent = False
        adapter = self

        class MarkingConnection(HTTPConnection):
            def connect(self) -> None:
                try:
                    super().connect()
                finally:
                    adapter.sent = False  # so far, only the request for the proxy's tunnel was sent

            def send(self, data: Any) -> None:
                if self.sock is None:
                    self.connect()
                adapter.sent = True
                super().send(data)

        super().__init__(pools(BufferedResponse, MarkingConnection), max_retries=0)


class Sender:
    """Sends requests one at a time, for tasks."""

    def __init__(self, settings: Settings) -> None:
        environment.check_environment(settings.base_url)
        self.settings = settings
        self.throttle = settings.throttle
        self.session = environment.Session()
        self.session.auth = BearerAuth(settings)
        self.session.headers["User-Agent"] = USER_AGENT
        connections = settings.max_connections  # as many threads of a task may call at once
        mount(self.session, PoolsAdapter(pools(BufferedResponse), pool_maxsize=connections))

    def send(self, request: api.Request) -> Any:
        """
        Send a request, again if that is safe, and return the API's response.

        :raises MagicHourApiError: the response was an error, at the last try.
        :raises MagicHourConnectionError: no whole response came, at the last try.
        :raises MagicHourUncertainSubmitError: it is unknown whether a call that may cost credits was
            accepted.
        """
        retrying = tenacity.Retrying(**retry.policy(request, self.settings.max_attempts, self.throttle))
        return api.result(request, retrying(self._attempt, request))

    def send_once(self, request: api.Request) -> Any:
        """
        Send a call once, without a pause. The caller has waited for the rate limit.

        The error's ``retry_after`` is the time that the response requested.

        :raises MagicHourError: as :meth:`send` does.
        """
        response = self._try_once(request)
        try:
            return api.result(request, response)
        except MagicHourApiError as error:
            error.retry_after = api.retry_after_seconds(response, datetime.now(UTC))
            if error.retry_after and response.status == 429:
                self.throttle.pause(min(error.retry_after, retry.MAX_RETRY_AFTER))
            raise

    def _attempt(self, request: api.Request) -> api.Response:
        self.throttle.acquire()
        return self._try_once(request)

    def _try_once(self, request: api.Request) -> api.Response:
        if not request.repeatable:
            return self._exchange_once(request)
        try:
            return self._exchange(self.session, request)
        except (requests.RequestException, HTTPError, OSError) as error:
            raise _connection_error(request, error, self.settings.mask) from self.settings.mask.cause(error)

    def _exchange_once(self, request: api.Request) -> api.Response:
        """Make one try of a call that may cost credits, over its own connection."""
        adapter = _OneCallAdapter()
        with environment.Session() as session:
            session.auth = self.session.auth
            mount(session, adapter)
            try:
                return self._exchange(session, request)
            except AirflowTaskTimeout as error:  # on the main thread, where a hook's user calls
                if not adapter.sent:
                    raise
                raise api.uncertain_submit(request, "execution_timeout ended the task") from error
            except Exception as error:  # noqa: BLE001  # whatever it was, what counts is whether a byte had left
                mask = self.settings.mask
                if adapter.sent:
                    raise api.uncertain_submit(request, _describe(error, mask)) from mask.cause(error)
                raise _connection_error(request, error, mask) from mask.cause(error)

    def _exchange(self, session: requests.Session, request: api.Request) -> api.Response:
        timeout = self.settings.timeout
        # requests passes it on to urllib3
        limits: Any = urllib3.Timeout(connect=min(CONNECT_TIMEOUT, timeout), total=timeout)
        with session.request(
            request.method,
            self.settings.base_url + request.path,
            data=request.body,
            params=dict(request.params),
            headers=_HEADERS if request.body is None else _HEADERS_WITH_BODY,
            timeout=limits,
            allow_redirects=False,
            stream=True,
        ) as response:
            body = bytearray()
            while chunk := response.raw.read1(64 * 1024, decode_content=True):
                body += chunk
                if len(body) > MAX_BODY:
                    raise requests.RequestException(f"the response is longer than {MAX_BODY} bytes")
            return _response(self.settings.mask, response.status_code, response.headers, bytes(body))


# ----------------------------------------------------------------------------------- asynchronous sender


class AsyncSender:
    """
    Sends many requests in parallel, for triggers and clean-ups; never one that may cost credits.

    Make it and close it inside one event loop.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.throttle = settings.throttle
        self.connections = ConnectionLimit(settings.max_connections, settings.requests_per_second)
        # The same proxy and certificates as in the synchronous sender, so that a deferred task behaves the
        # same. aiohttp's own trust_env would use neither, and would use a .netrc entry.
        proxy = environment.proxy_for(settings.base_url)
        is_tls = settings.base_url.startswith("https:")
        self._proxy = proxy.url if proxy else None
        self._proxy_headers = proxy.headers if proxy and is_tls else None  # of the tunnel's CONNECT
        # Not the session's: aiohttp sends those to the proxy as well.
        self._headers = {**_HEADERS, "Authorization": f"Bearer {settings.api_key}"}
        if proxy and not is_tls:
            self._headers |= proxy.headers
        self._base_url = yarl.URL(settings.base_url, encoded=True)
        self._base_path = self._base_url.raw_path.rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=settings.max_connections,
                ssl=environment.ssl_context() if is_tls else True,
            ),
            # No total: the slot of each request has it.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(CONNECT_TIMEOUT, settings.timeout)),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def send(self, request: api.Request) -> Any:
        """
        Send a request, again where that may help, and return what the API returned.

        :raises MagicHourApiError: the response was an error, at the last try.
        :raises MagicHourConnectionError: no whole response came, at the last try.
        """
        return await send_with_retries(self.attempt, request, self.settings)

    async def attempt(self, request: api.Request, time_limit: float | None = None) -> api.Response:
        """
        Send a request once.

        :param time_limit: seconds that it may take, if that is less than the connection's ``timeout``.
        :raises MagicHourConnectionError: no whole response came.
        """
        if not request.repeatable:
            raise ValueError(f"{request} may cost credits, which only the synchronous sender can send safely")
        url = self._base_url.with_path(self._base_path + request.path, encoded=True)
        if request.params:
            url = url.with_query(dict(request.params))
        seconds = self.settings.timeout if time_limit is None else min(time_limit, self.settings.timeout)
        try:
            async with (
                self.connections.slot(self.throttle, seconds, time_limit is not None) as is_surplus,
                self._session.request(
                    request.method,
                    url,
                    data=request.body,
                    headers=self._headers_of(request, is_surplus),
                    allow_redirects=False,
                    proxy=self._proxy,
                    proxy_headers=self._proxy_headers,
                ) as response,
            ):
                body = await _read_bounded(response)
                return _response(self.settings.mask, response.status, response.headers, body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _connection_error(request, error, self.settings.mask) from self.settings.mask.cause(error)

    def _headers_of(self, request: api.Request, is_surplus: bool) -> Mapping[str, str]:
        """Return a request's headers; they close a connection that is not needed."""
        headers = dict(self._headers)
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if is_surplus:
            headers["Connection"] = "close"
        return headers


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    if (response.content_length or MAX_BODY) < MAX_BODY and "Content-Encoding" not in response.headers:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > MAX_BODY:
            raise aiohttp.ClientError(f"the response is longer than {MAX_BODY} bytes")
    return bytes(body)


async def send_with_retries(
    attempt: Callable[[api.Request], Awaitable[api.Response]], request: api.Request, settings: Settings
) -> Any:
    """Send a request, again where that may help, and return what the API returned."""
    retrying = tenacity.AsyncRetrying(**retry.policy(request, settings.max_attempts, settings.throttle))
    return api.result(request, await retrying(attempt, request))


async def send_each(
    send: Callable[[api.Request], Awaitable[Any]],
    calls: Sequence[api.Request],
    at_once: int,
    time_limit: float | None = None,
) -> list[Any]:
    """
    Send calls in parallel; return, in their order, what the API returned to each, or the error.

    :param calls: calls that may be repeated.
    :param time_limit: seconds after which the calls without a response are given up; None for never.
    """
    results: list[Any] = [
        MagicHourConnectionError(f"{request}: no response within {time_limit} s") for request in calls
    ]
    queue = enumerate(calls)

    async def work() -> None:
        for position, request in queue:
            try:
                results[position] = await send(request)
            except MagicHourError as error:
                results[position] = error

    with suppress(TimeoutError):
        async with asyncio.timeout(time_limit):
            await asyncio.gather(*(work() for _ in range(min(at_once, len(calls)))))
    return results


def run_async(function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """
    Run a coroutine function to its end, on its own thread.

    The caller may run an event loop itself. If Airflow interrupts the caller (``execution_timeout``), an
    event loop on the same thread could lose the interrupt. On its own thread, the coroutine is canceled.
    """
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def main() -> T:
        running.append((asyncio.get_running_loop(), cast("asyncio.Task[Any]", asyncio.current_task())))
        return await function()

    context = contextvars.copy_context()
    with ThreadPoolExecutor(1, thread_name_prefix="magichour-async") as executor:
        future = executor.submit(context.run, lambda: asyncio.run(main()))
        try:
            return future.result()
        finally:
            if not future.done() and running:
                loop, task = running[0]
                loop.call_soon_threadsafe(task.cancel)


def _response(mask: Mask, status: int, headers: Mapping[str, str], body: bytes) -> api.Response:
    """Return a response without the API key."""
    if status == 429:
        stats.count("rate_limited")
    known = {name.lower(): mask.hide_in(headers[name]) for name in HEADERS if name in headers}
    return api.Response(status, known, mask.hide(body))


def _connection_error(request: api.Request, error: Exception, mask: Mask) -> MagicHourConnectionError:
    return MagicHourConnectionError(
        f"{request}: connection failed or incomplete response: {_describe(error, mask)} - "
        "check the network, the proxy and the connection's host"
    )


def _describe(error: Exception, mask: Mask) -> str:
    said = one_line(mask.hide_in(str(error)))
    return f"{type(error).__name__}: {said}" if said else type(error).__name__

"""The endpoint that Magic Hour calls. Runs in Airflow's API server, without Airflow's authentication."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from airflow_provider_magichour.webhooks import store
from airflow_provider_magichour.webhooks.events import MalformedEventError, parse_event
from airflow_provider_magichour.webhooks.secrets import SecretsCache
from airflow_provider_magichour.webhooks.signatures import (
    SignatureError,
    check_age,
    check_signature,
    read_signature,
)

log = logging.getLogger(__name__)

#: The longest body, in bytes; real ones are a few KiB.
MAX_BODY = 1024 * 1024
#: How much of a longer body is read and dropped, so that its sender gets to read the answer.
MAX_DRAINED = 16 * MAX_BODY
#: The longest body, in bytes, whose signature is checked on the event loop.
SMALL_BODY = 64 * 1024
#: Seconds that a body may take to arrive.
BODY_SECONDS = 5.0
#: Seconds that look-up and database may take; Magic Hour waits about 10 for an answer.
WORK_SECONDS = 8.0
#: Seconds until a refusal is sent: whether a connection was looked up cannot be told from its speed.
REFUSAL_SECONDS = 0.05
#: Threads that write to the database. More would only wait for each other: see ``store``.
WRITERS = 4
#: Seconds between two clean-ups of the memory of deliveries.
FORGET_EVERY = 3600.0

_SAID = {
    400: "not a webhook",
    401: "not signed by Magic Hour",
    408: "too slow",
    413: "too long",
    503: "not now; deliver it again",
}


class RefusedError(Exception):
    """
    A request that is not taken.

    :param status: the answer's HTTP status, which decides its text.
    :param reason: for our own log only.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Receiver:
    """
    Takes webhooks. Belongs to one event loop, which it never blocks.

    :param secrets: finds the secrets of a connection.
    :param clock: our clock, in seconds since the epoch.
    """

    def __init__(self, secrets: SecretsCache | None = None, clock: Callable[[], float] = time.time) -> None:
        self._secrets = secrets or SecretsCache()
        self._clock = clock
        self._writers = ThreadPoolExecutor(WRITERS, "magichour-webhooks")
        self._forgot_at = time.monotonic()

    async def receive(self, request: Request) -> JSONResponse:
        """Answer a request, whatever it is."""
        conn_id = request.path_params["magichour_conn_id"]
        try:
            status = await self._take(request, conn_id)
        except RefusedError as refusal:
            log.warning("Refused a Magic Hour webhook for connection %.200r: %s", conn_id, refusal)
            return _refusal(refusal.status)
        except (SQLAlchemyError, OSError) as error:  # TimeoutError is an OSError
            log.error(  # noqa: TRY400  # the traceback would show the statement's values
                "A Magic Hour webhook for connection %.200r could not be taken now, %s",
                *(conn_id, f"{type(error).__name__}: {error}".partition("\n")[0]),
            )
            return _refusal(503)
        except Exception:
            log.exception("A Magic Hour webhook for connection %.200r could not be taken", conn_id)
            return _refusal(503)
        return JSONResponse({"status": status}, background=BackgroundTask(self._forget_old))

    async def _take(self, request: Request, conn_id: str) -> str:
        body = await _read_body(request)
        loop = asyncio.get_running_loop()
        read_at = loop.time()
        async with asyncio.timeout_at(read_at + WORK_SECONDS):
            try:
                await self._verify(request, conn_id, body)
            except SignatureError as error:
                await asyncio.sleep(read_at + REFUSAL_SECONDS - loop.time())
                raise RefusedError(401, str(error)) from None
            return await loop.run_in_executor(self._writers, _write, body, conn_id)

    async def _verify(self, request: Request, conn_id: str, body: bytes) -> None:
        signature = read_signature(request.scope["headers"])
        check_age(signature, self._clock())
        secrets = await self._secrets.get(conn_id)
        if len(body) <= SMALL_BODY:
            check_signature(secrets, signature, body)
        else:
            await asyncio.to_thread(check_signature, secrets, signature, body)

    async def _forget_old(self) -> None:
        if time.monotonic() - self._forgot_at < FORGET_EVERY:
            return
        self._forgot_at = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._writers, store.forget_old, _utcnow)
        except Exception:
            log.warning("The memory of old Magic Hour webhooks was not cleaned up", exc_info=True)


async def _read_body(request: Request) -> bytes:
    """Read the body in bounded memory and time, whatever its announced length."""
    body = bytearray()
    length = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                length += len(chunk)
                if length <= MAX_BODY:
                    body += chunk
                elif length > MAX_DRAINED:
                    break
    except TimeoutError:
        raise RefusedError(408, f"its body took longer than {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise RefusedError(400, "its sender hung up") from None
    if length > MAX_BODY:
        raise RefusedError(413, f"its body is longer than {MAX_BODY} bytes")
    return bytes(body)


def _write(body: bytes, conn_id: str) -> str:
    """Turn a verified body into an asset event, in a thread; return what became of it."""
    try:
        event = parse_event(body)
    except MalformedEventError as error:
        raise RefusedError(400, str(error)) from None
    if event.kind is None:
        log.info("Magic Hour sent %.200r, which this version does not know: ignored", event.type)
        return "ignored"
    outcome = store.record(event, conn_id, _utcnow)
    log.info(
        "Magic Hour sent %s for project %s over connection %s: %s",
        *(event.type, event.project_id, conn_id, outcome.value),
    )
    if outcome is store.Outcome.UNUSED:
        log.info("A DAG uses it with schedule=[magichour_asset(%r, %r)]", event.kind, event.what)
    return outcome.name.lower()


def _utcnow() -> datetime:
    return datetime.now(UTC)


def _refusal(status: int) -> JSONResponse:
    """Return an answer that depends on the status alone."""
    headers = {"Retry-After": "30"} if status == 503 else {}
    if status in {408, 413}:
        headers["Connection"] = "close"  # the rest of the body is not read
    return JSONResponse({"detail": _SAID[status]}, status, headers)


def create_app(receiver: Receiver | None = None) -> Starlette:
    """Return the ASGI application: ``POST /{magichour_conn_id}`` and nothing else."""
    receive = (receiver or Receiver()).receive
    app = Starlette(routes=[Route("/{magichour_conn_id}", receive, methods=["POST"])])
    app.router.redirect_slashes = False
    return app

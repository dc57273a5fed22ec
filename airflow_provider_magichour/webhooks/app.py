"""The endpoint that Magic Hour calls. Runs in Airflow's API server, without Airflow's authentication."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from airflow_provider_magichour.webhooks.events import Event, MalformedEventError, parse_event
from airflow_provider_magichour.webhooks.secrets import Secrets, SecretsCache
from airflow_provider_magichour.webhooks.signatures import (
    Signature,
    SignatureError,
    check_age,
    check_signature,
    read_signature,
)
from airflow_provider_magichour.webhooks.store import Delivery, Outcome
from airflow_provider_magichour.webhooks.writer import BusyError, Writer

log = logging.getLogger(__name__)

#: The longest body, in bytes; real ones are a few KiB.
MAX_BODY = 1024 * 1024
#: How much of a longer body is read and dropped, so that its sender gets to read the answer.
MAX_DRAINED = 16 * MAX_BODY
#: The longest body, in bytes, that is verified and parsed on the event loop.
SMALL_BODY = 64 * 1024
#: Seconds that a body may take to arrive.
BODY_SECONDS = 5.0
#: Seconds that look-up and database may take; Magic Hour waits about 10 for an answer.
WORK_SECONDS = 8.0
#: Seconds until a refusal is sent: whether a connection was looked up cannot be told from its speed.
REFUSAL_SECONDS = 0.05

_SAID = {
    400: "not a webhook",
    401: "not signed by Magic Hour",
    408: "too slow",
    413: "too long",
    503: "not now; deliver it again",
}


_HINTS = {
    Outcome.UNUSED: "No DAG uses it yet: one does with schedule=magichour_asset(%r, %r)",
    Outcome.IDLE: "Every DAG that is scheduled on magichour_asset(%r, %r) is paused: it starts none",
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
        self._writer = Writer()

    async def receive(self, request: Request) -> JSONResponse:
        """Answer a request, whatever it is."""
        conn_id = request.path_params["magichour_conn_id"]
        try:
            status = await self._take(request, conn_id)
        except RefusedError as refusal:
            log.warning("Refused a Magic Hour webhook for connection %.200r: %s", conn_id, refusal)
            return _refusal(refusal.status)
        except (BusyError, SQLAlchemyError, OSError) as error:  # TimeoutError is an OSError
            log.error(  # noqa: TRY400  # the traceback would show the statement's values
                "A Magic Hour webhook for connection %.200r could not be taken now, %s",
                *(conn_id, f"{type(error).__name__}: {error}".partition("\n")[0]),
            )
            return _refusal(503)
        except Exception:
            log.exception("A Magic Hour webhook for connection %.200r could not be taken", conn_id)
            return _refusal(503)
        return JSONResponse({"status": status})

    async def _take(self, request: Request, conn_id: str) -> str:
        body = await _read_body(request)
        loop = asyncio.get_running_loop()
        read_at = loop.time()
        async with asyncio.timeout_at(read_at + WORK_SECONDS):
            try:
                event = await self._verify(request, conn_id, body)
            except SignatureError as error:
                await asyncio.sleep(read_at + REFUSAL_SECONDS - loop.time())
                raise RefusedError(401, str(error)) from None
            except MalformedEventError as error:
                raise RefusedError(400, str(error)) from None
            if event.kind is None:
                log.info("Magic Hour sent %.200r, which this version does not know: ignored", event.type)
                return "ignored"
            outcome = await self._writer.write(Delivery(event, conn_id))
        log.info(
            "Magic Hour sent %s for project %s over connection %s: %s",
            *(event.type, event.project_id, conn_id, outcome.value),
        )
        if outcome in _HINTS:
            log.info(_HINTS[outcome], event.kind, event.what)
        return outcome.value

    async def _verify(self, request: Request, conn_id: str, body: bytes) -> Event:
        signature = read_signature(request.scope["headers"])
        check_age(signature, self._clock())
        secrets = await self._secrets.get(conn_id)
        if len(body) <= SMALL_BODY:
            return _read_event(secrets, signature, body)
        return await asyncio.to_thread(_read_event, secrets, signature, body)


def _read_event(secrets: Secrets, signature: Signature, body: bytes) -> Event:
    check_signature(secrets, signature, body)
    return parse_event(body)


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

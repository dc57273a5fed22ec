"""The endpoint that Magic Hour calls, as an ASGI application. Needs no Airflow."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from airflow_provider_magichour.webhooks.airflow_api import AirflowApi
from airflow_provider_magichour.webhooks.events import (
    RefusedError,
    asset_uri,
    check_signature,
    parse_event,
    read_signature,
)
from airflow_provider_magichour.webhooks.settings import Settings

log = logging.getLogger(__name__)

#: Where the endpoint is; the connection's id follows.
URL_PREFIX = "/magichour/webhooks"
#: The longest body, in bytes; real ones are a few KiB.
MAX_BODY = 1024 * 1024
#: Seconds that a body may take to arrive, and that all may take: Magic Hour waits about 10 for a response.
BODY_SECONDS = 5.0
TOTAL_SECONDS = 9.0
#: Seconds until a wrong signature is refused: the time does not show whether the connection is known.
REFUSAL_SECONDS = 0.05

_DETAILS = {
    400: "not a webhook",
    401: "not signed by Magic Hour",
    408: "body too slow",
    413: "body too long",
    503: "not now; deliver it again",
}


class Receiver:
    """
    Verifies webhooks and hands them to Airflow. Belongs to one event loop, which it never blocks.

    :param find_secrets: returns the webhook secrets of a connection, none for an unknown one.
    :param on_outcome: is called with what came of each request, one of the names of ``counts``.
    """

    def __init__(
        self,
        settings: Settings,
        find_secrets: Callable[[str], Awaitable[Sequence[bytes]]] | None = None,
        on_outcome: Callable[[str], object] = str,
    ) -> None:
        self._settings = settings
        self._find_secrets = find_secrets or settings.find_secrets
        self.airflow = AirflowApi(settings)
        self._on_outcome = on_outcome
        self.counts = Counter(accepted=0, unused=0, ignored=0, refused=0, failed=0)

    async def receive(self, request: Request) -> JSONResponse:
        """Respond to a request, whatever it is."""
        started = time.monotonic()
        conn_id = request.path_params["magichour_conn_id"]
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                outcome = await self._accept(request, conn_id)
        except RefusedError as refusal:
            log.warning("Refused a Magic Hour webhook for connection %.200r: %s", conn_id, refusal)
            self._count("refused")
            await asyncio.sleep(started + REFUSAL_SECONDS - time.monotonic())
            return _refuse(refusal.status)
        except Exception as error:  # noqa: BLE001  # whatever it is, Magic Hour has to deliver this again
            log.error(  # noqa: TRY400  # a traceback could show credentials
                "Magic Hour must deliver a webhook for connection %.200r again; Airflow did not take it: %s",
                *(conn_id, f"{type(error).__name__}: {error}"),
            )
            self._count("failed")
            return _refuse(503)
        self._count(outcome)
        return JSONResponse({"status": outcome})

    def _count(self, outcome: str) -> None:
        self.counts[outcome] += 1
        self._on_outcome(outcome)

    async def health(self, request: Request) -> JSONResponse:
        """Respond to a load balancer: this process runs, and what it has done since its start."""
        return JSONResponse({"status": "ok", **self.counts})

    async def _accept(self, request: Request, conn_id: str) -> str:
        signature = read_signature(request.headers.items(), time.time())
        body = await _read_body(request)
        check_signature(await self._find_secrets(conn_id), signature, body)
        extra = parse_event(body, conn_id, self._settings.presigned_urls)
        kind, _, event = extra["type"].partition(".")
        if "project" not in extra:
            log.info("Magic Hour sent %.200r, which this version does not know: ignored", extra["type"])
            return "ignored"
        uris = [asset_uri(kind, event), asset_uri(kind, event, conn_id)]
        created = await self.airflow.create_events(uris, extra)
        log.info(
            "Magic Hour sent %s for project %.200r over connection %s: %s",
            *(
                extra["type"],
                extra["id"],
                conn_id,
                f"{created} asset event(s)" if created else "no DAG uses it",
            ),
        )
        return "accepted" if created else "unused"


async def _read_body(request: Request) -> bytes:
    """Read the body in bounded memory and time; one that announces its excess is refused unread."""
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or len(announced) > 9 or int(announced) > MAX_BODY:
        raise RefusedError(413, f"its body of {announced:.20} bytes is longer than {MAX_BODY}")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise RefusedError(413, f"its body is longer than {MAX_BODY} bytes")
    except TimeoutError:
        raise RefusedError(408, f"its body took longer than {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise RefusedError(400, "its sender closed the connection") from None
    return bytes(body)


def _refuse(status: int) -> JSONResponse:
    """Return a response that depends on the status alone; a body that was not read ends the connection."""
    headers = {"Retry-After": "30"} if status == 503 else {"Connection": "close"}
    return JSONResponse({"detail": _DETAILS[status]}, status, headers)


def create_endpoint(receiver: Receiver) -> Starlette:
    """Return the ASGI application of the endpoint alone: ``POST /{magichour_conn_id}``."""
    app = Starlette(routes=[Route("/{magichour_conn_id}", receiver.receive, methods=["POST"])])
    app.router.redirect_slashes = False
    return app


def create_app() -> Starlette:
    """Return the receiver as an application for any ASGI server, with its settings from the environment."""
    receiver = Receiver(Settings.read())

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await receiver.airflow.close()

    routes = [Route("/health", receiver.health), Mount(URL_PREFIX, create_endpoint(receiver))]
    return Starlette(routes=routes, lifespan=lifespan)

"""The endpoint that Magic Hour calls, as an ASGI application. It needs no Airflow."""

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
from starlette.routing import Mount, Route, Router

from airflow_provider_magichour.webhooks import events
from airflow_provider_magichour.webhooks.airflow_api import AirflowApi
from airflow_provider_magichour.webhooks.events import RefusedError
from airflow_provider_magichour.webhooks.settings import Settings

log = logging.getLogger(__name__)

#: The path of the endpoint, before the connection's id.
URL_PREFIX = "/magichour/webhooks"
#: The longest body, in bytes. Real ones have a few KiB.
MAX_BODY = 1024 * 1024
#: Seconds for a body to arrive, and for the whole request. Magic Hour waits about 10 s for a response.
BODY_SECONDS, TOTAL_SECONDS = 5.0, 9.0
#: Seconds until a wrong signature is refused, so that the time does not show whether the connection exists.
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
    Verifies webhooks and sends them to Airflow. It belongs to one event loop, which it never blocks.

    :param find_secrets: returns the webhook secrets of a connection, none for an unknown one.
    :param on_outcome: called with the result of each request, one of the names in ``counts``.
    """

    def __init__(
        self,
        settings: Settings,
        find_secrets: Callable[[str], Awaitable[Sequence[bytes]]] | None = None,
        on_outcome: Callable[[str], object] = str,
    ) -> None:
        self._settings, self._find_secrets, self._on_outcome = settings, find_secrets, on_outcome
        self.airflow = AirflowApi(settings)
        self.counts = Counter(accepted=0, unused=0, ignored=0, refused=0, failed=0)

    async def receive(self, request: Request) -> JSONResponse:
        """Respond to any request."""
        refuse_at = time.monotonic() + REFUSAL_SECONDS
        conn_id = request.path_params["magichour_conn_id"]
        outcome, status = "failed", 503
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                outcome, status = await self._accept(request, conn_id), 200
        except RefusedError as refusal:
            log.warning("Refused a Magic Hour webhook for connection %.200r: %s", conn_id, refusal)
            outcome, status = "refused", refusal.status
            await asyncio.sleep(refuse_at - time.monotonic())
        except Exception as error:  # noqa: BLE001  # whatever it is, Magic Hour has to deliver this again
            why = f"{type(error).__name__}: {error}"  # a traceback could contain credentials
            text = (
                "Magic Hour must deliver a webhook for connection %.200r again; Airflow did not accept it: %s"
            )
            log.error(text, conn_id, why)  # noqa: TRY400
        self.counts[outcome] += 1
        self._on_outcome(outcome)
        if status == 200:
            return JSONResponse({"status": outcome})
        # the text depends only on the status, so it shows nothing; an unread body closes the connection
        headers = {"Retry-After": "30"} if status == 503 else {"Connection": "close"}
        return JSONResponse({"detail": _DETAILS[status]}, status, headers)

    async def health(self, request: Request) -> JSONResponse:
        """Respond to a load balancer with the counts since the start of this process."""
        return JSONResponse({"status": "ok", **self.counts})

    async def _accept(self, request: Request, conn_id: str) -> str:
        signature = events.read_signature(request.headers.items(), time.time())
        body = await _read_body(request)
        known = self._settings.secrets.get(conn_id, ())
        secrets = await self._find_secrets(conn_id) if self._find_secrets else known
        events.check_signature(secrets, signature, body)
        extra = events.parse_event(body, conn_id, self._settings.presigned_urls)
        if "project" not in extra:
            log.info("Magic Hour sent %.200r, which this version does not know: ignored", extra["type"])
            return "ignored"
        kind, _, event = extra["type"].partition(".")
        uris = [events.asset_uri(kind, event), events.asset_uri(kind, event, conn_id)]
        created = await self.airflow.create_events(uris, extra)
        what = f"{created} asset event(s)" if created else "no DAG uses it"
        text = "Magic Hour sent %s for project %.200r over connection %s: %s"
        log.info(text, extra["type"], extra["id"], conn_id, what)
        return "accepted" if created else "unused"


async def _read_body(request: Request) -> bytes:
    """Read the body with limited memory and time. If its Content-Length is too large, refuse it unread."""
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


def create_endpoint(receiver: Receiver) -> Router:
    """Return the ASGI application with only the endpoint: ``POST /{magichour_conn_id}``."""
    routes = [Route("/{magichour_conn_id}", receiver.receive, methods=["POST"])]
    return Router(routes, redirect_slashes=False)


def create_app() -> Starlette:
    """Return the receiver as an application for any ASGI server, with its settings from the environment."""
    receiver = Receiver(Settings.read())

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await receiver.airflow.close()

    routes = [Route("/health", receiver.health), Mount(URL_PREFIX, create_endpoint(receiver))]
    return Starlette(routes=routes, lifespan=lifespan)

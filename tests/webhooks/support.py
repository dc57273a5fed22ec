"""What the tests of the webhooks share: signed events, a served receiver, and an Airflow behind it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import requests
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from airflow_provider_magichour.webhooks.events import asset_uri

SECRET = "whsec_test"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def event_body(
    kind: str = "video", event: str = "completed", project_id: str = "cm1", **payload: Any
) -> bytes:
    project = {
        "id": project_id,
        "name": None,
        "status": "complete",
        "type": "TEXT_TO_VIDEO",
        "created_at": "2026-11-01T10:00:00Z",
        "enabled": True,
        "credits_charged": 5,
        "downloads": [{"url": "https://files/x.mp4?sig=1", "expires_at": "2026-11-02T10:00:00Z"}],
        "error": None,
        **payload,
    }
    return json.dumps({"type": f"{kind}.{event}", "payload": project}).encode()


def signed(body: bytes, secret: str = SECRET, timestamp: str | None = None) -> dict[str, str]:
    timestamp = timestamp or str(int(time.time()))
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"magic-hour-event-timestamp": timestamp, "magic-hour-event-signature": digest}


class FakeAirflow:
    """The part of Airflow's REST API that the receiver calls; a test with a real Airflow covers the rest."""

    def __init__(self) -> None:
        self.assets: dict[str, int] = {}
        self.events: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.tokens = ["token-1"]
        #: Returned instead of doing what was asked, by method and path, until it is taken away.
        self.responses: dict[str, Response] = {}
        self.delay = 0.0

    def use(self, *uris: str) -> None:
        """Let a DAG use these assets."""
        for uri in uris:
            self.assets[uri] = 1 + max(self.assets.values(), default=0)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/auth/token", self._sign_in, methods=["POST"]),
                Route("/api/v2/assets", self._list_assets),
                Route("/api/v2/assets/events", self._create_event, methods=["POST"]),
            ]
        )

    def _intercept(self, request: Request) -> Response | None:
        call = f"{request.method} {request.url.path.removeprefix(request.scope.get('root_path', ''))}"
        self.calls.append(call)
        if call in self.responses:
            return self.responses[call]
        if request.url.path.endswith("/auth/token"):
            return None
        if request.headers.get("authorization") != f"Bearer {self.tokens[-1]}":
            return JSONResponse({"detail": "Invalid JWT token"}, 401)
        return None

    async def _sign_in(self, request: Request) -> Response:
        if response := self._intercept(request):
            return response
        if await request.json() != {"username": "webhooks", "password": "secret"}:
            return JSONResponse({"detail": "Invalid credentials"}, 401)
        return JSONResponse({"access_token": self.tokens[-1]}, 201)

    async def _list_assets(self, request: Request) -> Response:
        if response := self._intercept(request):
            return response
        found = [
            {"uri": uri, "id": number}
            for uri, number in self.assets.items()
            if request.query_params["uri_pattern"] in uri
        ]
        start = int(request.query_params["offset"])
        page = found[start : start + min(int(request.query_params["limit"]), 100)]
        return JSONResponse({"assets": page, "total_entries": len(found)})

    async def _create_event(self, request: Request) -> Response:
        import asyncio

        began = time.monotonic()
        while time.monotonic() - began < self.delay:  # noqa: ASYNC110  # a test ends it from its own thread
            await asyncio.sleep(0.01)
        if response := self._intercept(request):
            return response
        body = await request.json()
        uris = [uri for uri, number in self.assets.items() if number == body["asset_id"]]
        if not uris:
            return JSONResponse({"detail": f"Asset with ID: `{body['asset_id']}` was not found"}, 404)
        self.events.append({"uri": uris[0], **body["extra"]})
        return JSONResponse({"id": len(self.events)})


@contextlib.contextmanager
def serving(app: Any, port: int = 0) -> Iterator[int]:
    """Serve an ASGI application over a socket, and give its port."""
    import uvicorn

    listening = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", log_config=None))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield int(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


class Endpoint:
    """The receiver, served over a socket, and the Airflow behind it."""

    def __init__(self, port: int, airflow: FakeAirflow) -> None:
        self.port = port
        self.airflow = airflow
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/magichour/webhooks"
        self.session = requests.Session()

    def post(self, body: bytes, headers: dict[str, str], conn_id: str = "hooked") -> requests.Response:
        return self.session.post(
            f"{self.url}/{quote(conn_id, safe='')}", data=body, headers=headers, timeout=30
        )

    def deliver(self, body: bytes, conn_id: str = "hooked") -> requests.Response:
        return self.post(body, signed(body), conn_id)

    def counts(self) -> dict[str, Any]:
        return dict(self.session.get(f"{self.root}/health", timeout=30).json())


def used(kind: str = "video", event: str = "completed", conn_id: str | None = None) -> str:
    return asset_uri(kind, event, conn_id)


def below(prefix: str, app: Any) -> Starlette:
    """Return an application with another one mounted below a path."""
    return Starlette(routes=[Mount(prefix, app)])


def web_page(status: int) -> Response:
    return PlainTextResponse("<html>a proxy's page</html>", status, media_type="text/html")


def read_all(client: socket.socket) -> bytes:
    received = b""
    while chunk := client.recv(4096):
        received += chunk
    return received


def eventually(condition: Callable[[], bool], timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)

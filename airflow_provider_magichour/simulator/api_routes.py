"""The routes of Magic Hour's API."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from airflow_provider_magichour.simulator.backend import Backend
from airflow_provider_magichour.simulator.faults import Call
from airflow_provider_magichour.simulator.media import Media
from airflow_provider_magichour.simulator.middleware import FAULT
from airflow_provider_magichour.simulator.models import Account, Detection, RefusedError, iso
from airflow_provider_magichour.simulator.schemas import check_body
from airflow_provider_magichour.tools import KINDS, TOOLS, UPLOAD_EXTENSIONS

_SAVED_ITEMS = (
    ("voice", "wav"), ("character", "png"), ("brand_kit", "png"), ("moodboard", "png"), ("reference", "mp4")
)  # fmt: skip
_MEDIA_KINDS = {"wav": "AUDIO", "png": "IMAGE", "mp4": "VIDEO"}
_FIXED_ROUTES = {
    ("POST", "/v1/files/upload-urls"): "upload_urls",
    ("POST", "/v1/face-detection"): "create_face_detection",
    ("GET", "/v1/account"): "get_account",
    ("GET", "/v1/saved-items"): "list_saved_items",
}

#: Deprecated fields that are not in the specification any more, but that older clients need.
_COST_FIELDS = {"image": "frame_cost", "video": "estimated_frame_cost"}

Handler = Callable[[Request, Account], Awaitable[Response]]


def name_call(method: str, path: str) -> Call:
    """Return the route, kind, tool and project id of a request to the API."""
    if path.startswith("/_simulator"):
        return Call("api", method, path, "admin", path)
    fixed = _FIXED_ROUTES.get((method, path))
    if fixed is not None:
        return Call("api", method, path, fixed, path)
    parts = path.split("/")
    if len(parts) == 4 and parts[1] == "v1" and parts[3]:
        kind = parts[2].removesuffix("-projects")
        verb = {"GET": "get", "DELETE": "delete"}.get(method)
        if kind in KINDS and kind != parts[2] and verb:
            template = f"/v1/{parts[2]}/{{id}}"
            return Call("api", method, path, f"{verb}_project", template, kind, project_id=parts[3])
        if parts[2] == "face-detection" and method == "GET":
            template = "/v1/face-detection/{id}"
            return Call("api", method, path, "get_face_detection", template, project_id=parts[3])
    if len(parts) == 3 and parts[1] == "v1" and method == "POST" and parts[2] in TOOLS:
        return Call("api", method, path, "create_project", path, TOOLS[parts[2]].kind, parts[2])
    return Call("api", method, path, "unknown", "unknown")


class ApiRoutes:
    """
    Respond to the calls of Magic Hour's API.

    :param backend: the simulated Magic Hour.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add_routes(self, app: FastAPI) -> None:
        """Add all routes to an application."""
        for kind in KINDS:
            path = f"/v1/{kind}-projects/{{project_id}}"
            app.add_route(path, self._guarded(self._project), ["GET", "DELETE"])
        for tool in TOOLS:
            app.add_route(f"/v1/{tool}", self._guarded(self._create), ["POST"])
        app.add_route("/v1/files/upload-urls", self._guarded(self._upload_urls), ["POST"])
        app.add_route("/v1/face-detection", self._guarded(self._create_detection), ["POST"])
        app.add_route("/v1/face-detection/{detection_id}", self._guarded(self._get_detection), ["GET"])
        app.add_route("/v1/account", self._guarded(self._account), ["GET"])
        app.add_route("/v1/saved-items", self._guarded(self._saved_items), ["GET"])
        app.add_exception_handler(404, _not_found)
        app.add_exception_handler(405, _not_found)

    def _guarded(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                return await handler(request, self._authenticate(request))
            except RefusedError as refused:
                return JSONResponse(refused.body, refused.status, refused.headers)

        return endpoint

    def _authenticate(self, request: Request) -> Account:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        account = self._backend.accounts.get(key.strip()) if scheme.lower() == "bearer" else None
        if account is None:
            raise RefusedError(401, "Unauthorized")
        rate = self._backend.settings.rate_limit
        if rate:
            now = time.monotonic()
            # The requests of one second may come at once.
            account.next_slot = max(account.next_slot, now - 1)
            if account.next_slot > now - 1 / rate:
                wait = account.next_slot - now + 1 / rate
                raise RefusedError(429, "Too many requests", {"Retry-After": str(max(round(wait + 0.5), 1))})
            account.next_slot += 1 / rate
        return account

    # ----------------------------------------------------------------------------------------- projects

    async def _create(self, request: Request, account: Account) -> Response:
        tool = request.url.path.rsplit("/", 1)[1]
        body = await self._checked_body(request, tool)
        project = self._backend.create(account, tool, body, request.scope.get(FAULT))
        created = {"id": project.id, "credits_charged": project.credits_charged}
        if project.kind in _COST_FIELDS:
            created[_COST_FIELDS[project.kind]] = project.credits_charged
        return JSONResponse(created)

    async def _project(self, request: Request, account: Account) -> Response:
        kind = request.url.path.split("/")[2].removesuffix("-projects")
        project = self._backend.find(account, kind, request.path_params["project_id"])
        if request.method == "DELETE":
            self._backend.delete(project)
            return Response(status_code=204)
        self._backend.record_get(project)
        return JSONResponse(self._backend.project_json(project))

    # -------------------------------------------------------------------------------------------- files

    async def _upload_urls(self, request: Request, account: Account) -> Response:
        body = await self._checked_body(request, "files/upload-urls")
        for item in body["items"]:
            extensions = UPLOAD_EXTENSIONS.get(item["type"])
            if extensions is None:
                raise RefusedError(400, f"items.type must be one of {', '.join(UPLOAD_EXTENSIONS)}")
            if item["extension"] not in extensions:
                possible = ", ".join(extensions)
                raise RefusedError(
                    422,
                    f"'{item['extension']}' is an invalid {item['type']} extension. "
                    f"Possible extensions are '{possible}'",
                )
        return JSONResponse({"items": [self._upload_url(account, **item) for item in body["items"]]})

    def _upload_url(self, account: Account, type: str, extension: str, **_: Any) -> dict[str, str]:  # noqa: A002
        expires = time.time() + self._backend.settings.url_lifetime
        # The folder is signed, so each upload has its own folder.
        folder, name = f"api-assets/{self._backend.new_id()}", f"{type}.{extension}"
        self._backend.uploads[folder] = {
            "file_path": f"{folder}/{name}",
            "account": account.id,
            "type": type,
            "extension": extension,
            "puts": 0,
        }
        url = self._backend.signer.sign("PUT", folder, name, 0, expires)
        return {"upload_url": url, "expires_at": iso(expires), "file_path": f"{folder}/{name}"}

    async def _create_detection(self, request: Request, account: Account) -> Response:
        await self._checked_body(request, "face-detection")
        detection_id = self._backend.new_id()
        settings = self._backend.settings
        seconds = 5 / settings.speed_up if settings.duration is None else settings.duration
        self._backend.detections[detection_id] = Detection(detection_id, account, time.monotonic() + seconds)
        self._backend.media[f"api-assets/{detection_id}", 0] = Media(detection_id, "png", "face", 128, 128)
        return JSONResponse({"id": detection_id, "credits_charged": 0})

    async def _get_detection(self, request: Request, account: Account) -> Response:
        detection = self._backend.detections.get(request.path_params["detection_id"])
        if detection is None or detection.account is not account:
            raise RefusedError(404, "Not Found")
        complete = time.monotonic() >= detection.ready
        folder = f"api-assets/{detection.id}"
        expires = time.time() + self._backend.settings.url_lifetime
        url = self._backend.signer.sign("GET", folder, "0-0.png", 0, expires)
        return JSONResponse(
            {
                "id": detection.id,
                "credits_charged": 0,
                "status": "complete" if complete else "rendering",
                "faces": [{"path": f"{folder}/0-0.png", "url": url}] if complete else [],
            }
        )

    async def _checked_body(self, request: Request, name: str) -> dict[str, Any]:
        data = await request.body()
        if not data:
            raise RefusedError(400, "Missing request body")
        try:
            body = json.loads(data, parse_constant=_no_number, parse_float=_finite)
            # JSON can contain an escaped lone surrogate, but UTF-8 cannot encode it.
            json.dumps(body, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise RefusedError(400, "The request body is not JSON") from None
        try:
            warnings = check_body(name, body)
        except ValueError as error:
            raise RefusedError(400, str(error)) from None
        for warning in warnings:
            self._backend.warn(f"{name}: {warning}; accepted all the same")
        return cast("dict[str, Any]", body)

    # ------------------------------------------------------------------------------------------ account

    async def _account(self, request: Request, account: Account) -> Response:
        tier = self._backend.settings.tier
        subscription = {
            "billing_interval": "month",
            "cancel_at_period_end": False,
            "current_period_end": iso(time.time() + 30 * 24 * 3600),
            "discount": None,
            "name": tier.capitalize(),
            "price": {"amount": 4900, "currency": "usd"},
            "status": "active",
        }
        return JSONResponse(
            {
                "credits": account.credits,
                "email": f"{account.id}@example.com",
                "id": account.id,
                "subscription": None if tier == "free" else subscription,
                "tier": tier,
            }
        )

    async def _saved_items(self, request: Request, account: Account) -> Response:
        wanted = request.query_params.get("type")
        limit, cursor = request.query_params.get("limit", "20"), request.query_params.get("cursor", "0")
        if not limit.isdecimal() or not 1 <= int(limit) <= 100:
            raise RefusedError(400, "limit must be a whole number from 1 to 100")
        if not cursor.isdecimal():
            raise RefusedError(400, "cursor must be the next_cursor of an earlier page")
        kept = [
            self._saved_item(account, number, kind, extension)
            for number, (kind, extension) in enumerate(_SAVED_ITEMS)
            if wanted in {None, kind}
        ]
        start, end = int(cursor), int(cursor) + int(limit)
        following = str(end) if end < len(kept) else None
        return JSONResponse({"items": kept[start:end], "next_cursor": following})

    def _saved_item(self, account: Account, number: int, kind: str, extension: str) -> dict[str, Any]:
        media_kind = _MEDIA_KINDS[extension]
        folder, name = f"saved-items/{account.id}/saved-{number}", f"{media_kind.lower()}.{extension}"
        self._backend.media[folder, 0] = Media(folder, extension, kind, 128, 128)
        expires = time.time() + self._backend.settings.url_lifetime
        asset = {
            "file_path": f"{folder}/{name}",
            "is_primary": True,
            "media_kind": media_kind,
            "url": self._backend.signer.sign("GET", folder, name, 0, expires),
            "url_expires_at": iso(expires),
        }
        return {"id": f"saved-{number}", "name": f"My {kind}", "type": kind, "assets": [asset]}


def _no_number(text: str) -> float:
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


async def _not_found(request: Request, error: Exception) -> Response:
    return JSONResponse(RefusedError(404, "Not Found").body, 404)

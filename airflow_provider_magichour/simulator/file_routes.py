"""The host of presigned URLs: downloads with ranges, and uploads."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from email.utils import formatdate, parsedate_to_datetime
from urllib.parse import unquote
from xml.sax.saxutils import escape

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.requests import ClientDisconnect

from airflow_provider_magichour.simulator.backend import Backend
from airflow_provider_magichour.simulator.faults import Call, Fault
from airflow_provider_magichour.simulator.media import MediaCache
from airflow_provider_magichour.simulator.middleware import FAULT, TRANSPORT, Recorder
from airflow_provider_magichour.simulator.models import Project

_SHIFT = 1024
_NO_FAULT = Fault()


def name_call(method: str, path: str) -> Call:
    """Return the route of a request to the host of the files."""
    folder = path.strip("/").split("/")[0]
    if method == "PUT":
        return Call("downloads", method, path, "upload", "upload")
    return Call("downloads", method, path, "download", "download", project_id=folder)


class FileRoutes:
    """
    Serves outputs and accepts uploads with a presigned URL. Refuses requests that contain an API key.

    :param backend: the simulated Magic Hour.
    :param recorder: counts the requests that contained a key.
    """

    def __init__(self, backend: Backend, recorder: Recorder) -> None:
        self._backend = backend
        self._recorder = recorder
        self._cache = MediaCache()

    def add_routes(self, app: FastAPI) -> None:
        """Add all routes to an application."""
        app.add_route("/{path:path}", self._file, ["GET", "HEAD", "PUT"])

    async def _file(self, request: Request) -> Response:
        if self._leaks_key(request):
            self._recorder.leaked_keys += 1
            return _refuse(400, "InvalidArgument", "The API key must not come here")
        fault: Fault = request.scope.get(FAULT, _NO_FAULT)
        raw_folder, _, raw_name = request.scope["raw_path"].decode("latin-1").strip("/").rpartition("/")
        folder = unquote(raw_folder)
        query = request.query_params
        signed = (query.get("output", ""), query.get("expires", ""), query.get("signature", ""))
        problem = self._backend.signer.problem(request.method, folder, *signed)
        problem = "ExpiredToken" if fault.expired else problem
        if problem is not None:
            return _refuse(403, problem, f"The URL of {unquote(raw_name)} is not valid (any more)")
        if request.method == "PUT":
            return await self._take(request, folder)
        return await self._give(request, folder, int(signed[0]), fault)

    def _leaks_key(self, request: Request) -> bool:
        headers = request.headers
        shown = " ".join([*headers.values(), request.url.query])
        return "authorization" in headers or any(key in shown for key in self._backend.accounts)

    # ---------------------------------------------------------------------------------------- downloads

    async def _give(self, request: Request, folder: str, number: int, fault: Fault) -> Response:
        media = self._backend.media.get((folder, number))
        if media is None:
            return _refuse(404, "NoSuchKey", "The file does not exist")
        if fault.version is not None:
            media = replace(media, seed=f"{media.seed} {fault.version}")
        content = await self._cache.get(media)
        project = self._backend.projects.get(folder)
        modified = formatdate(project.created if project else 0, usegmt=True)
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Type": media.content_type,
            "ETag": content.etag,
            "Last-Modified": modified,
        }
        asked = request.headers.get("range")
        span = None
        if asked and fault.range != "ignore" and _range_applies(request, content.etag, modified):
            span = _parse_range(asked, content.size)
        if fault.range == "refuse" or span == "refuse":
            headers["Content-Range"] = f"bytes */{content.size}"
            return Response(status_code=416, headers=headers)
        start, end = span if isinstance(span, tuple) else (0, content.size)
        if fault.range == "shift" and span:
            start = start + _SHIFT if start + _SHIFT < end else start - min(start, _SHIFT)
        status = 206 if span else 200
        if span:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{content.size}"
        headers["Content-Length"] = str(end - start)
        if project is not None:
            project.downloads += 1
        pieces = _pieces(content.read(start, end), project, request.scope[TRANSPORT])
        return StreamingResponse(pieces, status, headers)

    # ------------------------------------------------------------------------------------------ uploads

    async def _take(self, request: Request, folder: str) -> Response:
        upload = self._backend.uploads.get(folder)
        if upload is None:
            return _refuse(404, "NoSuchKey", "The file does not exist")
        if "content-length" not in request.headers:
            return _refuse(411, "MissingContentLength", "A Content-Length header is required")
        size, digest = 0, hashlib.sha256()
        try:
            async for piece in request.stream():
                size += len(piece)
                digest.update(piece)
        except ClientDisconnect:
            upload["aborted"] = upload.get("aborted", 0) + 1
            return Response(status_code=400)
        upload |= {
            "size": size,
            "sha256": digest.hexdigest(),
            "content_type": request.headers.get("content-type"),
            "puts": upload["puts"] + 1,
        }
        return Response(status_code=200, headers={"ETag": f'"{digest.hexdigest()[:32]}"'})


async def _pieces(
    pieces: Iterable[bytes], project: Project | None, transport: asyncio.Transport
) -> AsyncIterator[bytes]:
    for piece in pieces:
        if transport.is_closing():
            # The client has closed the connection.
            return
        yield piece
        if project is not None:
            project.downloaded_bytes += len(piece)


def _range_applies(request: Request, etag: str, modified: str) -> bool:
    condition = request.headers.get("if-range")
    if condition is None:
        return True
    if condition.startswith(('"', "W/")):
        return condition == etag
    try:
        return parsedate_to_datetime(condition) == parsedate_to_datetime(modified)
    except ValueError:
        return False


def _parse_range(asked: str, size: int) -> tuple[int, int] | str | None:
    """Return start and end, ``refuse`` for a range outside of the file, None if it is not one range."""
    unit, _, text = asked.partition("=")
    first, dash, last = text.strip().partition("-")
    if unit.strip() != "bytes" or not dash or "," in text:
        return None
    if not first:
        if not last.isdecimal():
            return None
        return (max(size - int(last), 0), size) if int(last) and size else "refuse"
    if not first.isdecimal() or (last and not last.isdecimal()) or (last and int(last) < int(first)):
        return None
    if int(first) >= size:
        return "refuse"
    return int(first), min(int(last) + 1, size) if last else size


def _refuse(status: int, code: str, message: str) -> Response:
    error = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    body = f"<?xml version='1.0' encoding='UTF-8'?>{error}"
    return Response(body, status, media_type="application/xml")

"""
The view's application in Airflow's API server. A mounted application has no login of its own.

Therefore Airflow's own functions check each request here, and each project by its DAG.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urljoin

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import get_user, requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles

from airflow_provider_magichour.links import view_url
from airflow_provider_magichour.ui.library import MOST_READ, Library, Wanted
from airflow_provider_magichour.ui.media import StoredFile, read_range

STATIC = Path(__file__).parent / "static"

_DAG_ID = re.compile(r"[\w.-]{1,250}")
_RANGE = re.compile(r"bytes=(?=-?\d)(\d{0,18})-(\d{0,18})", re.ASCII)


def create_app(library: Library) -> FastAPI:
    """Return the application. Everything but the static files requires a login."""
    app = FastAPI(openapi_url=None, dependencies=[Depends(get_user)])
    app.state.library = library
    app.mount("/static", StaticFiles(directory=STATIC))
    app.add_api_route("/", _page)
    app.add_api_route("/api/projects", _projects)
    app.add_api_route("/api/credits", _credits)
    app.add_api_route("/media/{root}/{project_id}/{key}", _media)
    app.add_exception_handler(401, _log_in)
    app.middleware("http")(_secure)
    return app


async def _secure(request: Request, call_next: Callable[[Request], Any]) -> Any:
    response = await call_next(request)
    headers = response.headers
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "same-origin"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    headers.setdefault("Cache-Control", "no-store")
    headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")
    return response


def _log_in(request: Request, error: Exception) -> Response:
    """Redirect a person to Airflow's login. A program gets an error."""
    if request.scope.get("endpoint") is not _page:
        return JSONResponse({"detail": "Not authenticated"}, 401)
    here = f"{view_url(is_path=True)}?{request.url.query}".rstrip("?")
    return RedirectResponse(urljoin(here, f"../../api/v2/auth/login?next={quote(here, safe='')}"), 302)


def _may_read(request: Request, user: Annotated[Any, Depends(get_user)]) -> Callable[[str], bool]:
    """Return a function that checks whether the user may read the XComs of a DAG."""

    @functools.cache
    def may_read(dag_id: str) -> bool:
        if not _DAG_ID.fullmatch(dag_id):
            return False  # without an id, Airflow would take one from the request
        try:
            requires_access_dag("GET", DagAccessEntity.XCOM, param_dag_id=dag_id)(request, user)
        except HTTPException:
            return False
        return True

    return may_read


def _library(request: Request) -> Any:
    return request.app.state.library


_Library = Annotated[Library, Depends(_library)]
_MayRead = Annotated[Callable[[str], bool], Depends(_may_read)]


def _page(library: _Library) -> Response:
    hosts = " ".join(["'self'", *library.origins()])
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        f"img-src {hosts}; media-src {hosts}; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
    return FileResponse(STATIC / "index.html", headers={"Content-Security-Policy": policy})


def _projects(
    library: _Library,
    may_read: _MayRead,
    wanted: Annotated[Wanted, Depends()],
    before: str = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 48,
) -> Any:
    return library.page(wanted, may_read, before, limit)


def _credits(library: _Library, may_read: _MayRead) -> Any:
    """Return the credits for each DAG and day, for the newest projects that the user may see."""
    found = library.page(Wanted(), may_read, limit=MOST_READ)
    credits_charged, counts = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for row in found["projects"]:
        key = (row["created"][:10], row["dag"])
        credits_charged[key] += row["credits"] or 0
        counts[key] += 1
    rows = [
        {"day": day, "dag": dag, "credits": credits_charged[day, dag], "projects": count}
        for (day, dag), count in sorted(counts.items(), reverse=True)
    ]
    return {"rows": rows, "projects": len(found["projects"]), "is_partial": bool(found["next"])}


def _media(
    request: Request,
    library: _Library,
    may_read: _MayRead,
    *,
    root: str,
    project_id: str,
    key: str,
    at: str = "",
    stream: bool = False,
) -> Response:
    """Return a file: a redirect to its store if it has presigned URLs, else the bytes."""
    item = library.find(root, project_id, at)
    file = item.files.get(key) if item and may_read(item.row["dag"]) else None
    if file is None:
        raise HTTPException(404, "No such file, or you may not read the DAG that made it")
    url = None if stream else file.sign()
    if url and (url.startswith("https:") or request.url.scheme == "http"):
        return RedirectResponse(url, 307)
    return _stream(file, request.headers.get("range", ""))


def _stream(file: StoredFile, asked: str) -> Response:
    headers = {"Accept-Ranges": "bytes", "Cache-Control": "private, max-age=3600"}
    start, end, status = 0, file.size, 200
    if match := _RANGE.fullmatch(asked):  # for several ranges, the whole file is a valid response
        start, end = _bounds(match[1], match[2], file.size)
        status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{file.size}"
    if start >= end:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{file.size}"})
    try:
        opened = file.open()
    except OSError:
        raise HTTPException(404, "The file is not there, or not the one that was recorded") from None
    headers["Content-Length"] = str(end - start)
    return StreamingResponse(read_range(opened, start, end), status, headers, file.content_type)


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """Return the start and end of a range."""
    if not first:  # the last bytes
        return max(size - int(last), 0), size
    return int(first), min(int(last or size) + 1, size)

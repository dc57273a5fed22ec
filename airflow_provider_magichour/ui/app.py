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
from typing import Any
from urllib.parse import quote

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import get_user, requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles

from airflow_provider_magichour.links import VIEW_PATH, view_url
from airflow_provider_magichour.ui.library import MOST_READ, Item, Library, Page, Wanted
from airflow_provider_magichour.ui.media import StoredFile

STATIC = Path(__file__).parent / "static"
#: The most projects on a page.
MOST_ITEMS = 100

_DAG_ID = re.compile(r"[\w.-]{1,250}")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_USER, _WANTED = Depends(get_user), Depends(Wanted)


def create_app(library: Library) -> FastAPI:
    """Return the application."""
    app = FastAPI(title="Magic Hour view", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.library = library
    app.mount("/static", StaticFiles(directory=STATIC))
    app.add_api_route("/", _page, include_in_schema=False)
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
    if request.scope.get("endpoint") is _page:
        here = view_url(is_path=True)
        back = quote(f"{here}?{request.url.query}".rstrip("?"), safe="")
        return RedirectResponse(f"{here.removesuffix(VIEW_PATH + '/')}/api/v2/auth/login?next={back}", 302)
    return JSONResponse({"detail": "Not authenticated"}, 401)


def _may_read(request: Request, user: Any) -> Callable[[str], bool]:
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


def _page(request: Request, user: Any = _USER) -> Response:
    library: Library = request.app.state.library
    hosts = " ".join(["'self'", *library.origins()])
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        f"img-src {hosts}; media-src {hosts}; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
    return FileResponse(STATIC / "index.html", headers={"Content-Security-Policy": policy})


def _projects(
    request: Request, user: Any = _USER, wanted: Any = _WANTED, before: str = "", limit: int = 48
) -> Any:
    library: Library = request.app.state.library
    found = library.page(wanted, _may_read(request, user), before, max(1, min(limit, MOST_ITEMS)))
    rows = [item.row for item in found.items]
    return {"projects": rows, "next": found.next, "is_partial": found.is_partial, "problems": found.problems}


def _credits(request: Request, user: Any = _USER) -> Any:
    """Return the credits for each DAG and day, for the newest projects that the user may see."""
    library: Library = request.app.state.library
    found: Page = library.page(Wanted(), _may_read(request, user), limit=MOST_READ)
    sums, counts = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for item in found.items:
        key = (item.row["created"][:10], item.dag_id)
        sums[key] += item.row["credits"] or 0
        counts[key] += 1
    rows = [
        {"day": day, "dag": dag, "credits": sums[day, dag], "projects": counts[day, dag]}
        for day, dag in sorted(counts, reverse=True)
    ]
    return {"rows": rows, "projects": len(found.items), "most": MOST_READ, "is_partial": bool(found.next)}


def _media(  # noqa: PLR0917
    request: Request,
    root: str,
    project_id: str,
    key: str,
    user: Any = _USER,
    at: str = "",
    stream: bool = False,
) -> Response:
    """Return a file: a redirect to its store if it has presigned URLs, else the bytes."""
    library: Library = request.app.state.library
    item: Item | None = library.find(root, project_id, at)
    file = item.files.get(key) if item and _may_read(request, user)(item.dag_id) else None
    if file is None:
        raise HTTPException(404, "No such file, or you may not read the DAG that made it")
    url = None if stream else file.sign()
    if url and (url.startswith("https:") or request.url.scheme == "http"):
        return RedirectResponse(url, 307)
    return _stream(file, request.headers.get("range", ""))


def _stream(file: StoredFile, asked: str) -> Response:
    try:
        opened = file.open()
    except OSError:
        raise HTTPException(404, "The file is not there, or not the one that was recorded") from None
    start, end, status = 0, file.size, 200
    headers = {"Accept-Ranges": "bytes", "Cache-Control": "private, max-age=3600"}
    if match := _RANGE.fullmatch(asked):  # for several ranges, the whole file is a valid response
        start, end = _bounds(match[1], match[2], file.size)
        status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{file.size}"
    if status == 206 and start >= end:
        if opened:
            opened.close()
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{file.size}"})
    headers["Content-Length"] = str(end - start)
    return StreamingResponse(file.chunks(opened, start, end), status, headers, file.content_type)


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """Return the start and end of a range, or None if it is not valid."""
    if first:
        return int(first), min(int(last) + 1, size) if last else size
    return (max(size - int(last), 0), size) if last else (0, size)

"""The view as Airflow mounts it, over HTTP, with Airflow's own security functions and two users."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_provider_magichour._transfer.catalogue import Entry
from tests.support.airflow import IS_AIRFLOW_3
from tests.webhooks.support import serving

if not IS_AIRFLOW_3:
    collect_ignore_glob = ["test_*.py"]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4


class View:
    """
    The view under test.

    :param url: where it is, with a slash at its end.
    :param root: the folder of its root, which is named ``media``.
    """

    def __init__(self, url: str, root: Path, tokens: dict[str, str]) -> None:
        self.url = url
        self.root = root
        self._tokens = tokens

    def get(self, path: str = "", user: str | None = "reader", **headers: str) -> requests.Response:
        """Get a path of the view as a user, with Airflow's cookie; None is nobody."""
        request = requests.Request("GET", self.url, headers=headers).prepare()
        request.url = self.url + path  # as it is: no path is made shorter
        if user:
            request.headers["Cookie"] = self.cookie(user)
        with requests.Session() as session:
            session.trust_env = False
            return session.send(request, allow_redirects=False, timeout=60)

    def cookie(self, user: str) -> str:
        """Return the cookie that Airflow's login gives."""
        return f"_token={self._tokens[user]}"

    def projects(self, query: str = "", user: str = "reader") -> list[dict[str, Any]]:
        """Return what a page shows to a user."""
        response = self.get(f"api/projects?{query}", user)
        assert response.status_code == 200, response.text
        return list(response.json()["projects"])

    def store(
        self, project_id: str, files: dict[str, bytes] | None = None, /, **facts: Any
    ) -> dict[str, Any]:
        """Store files with their entry, as a download of the DAG ``readable`` does; return the entry."""
        files = {"a.png": PNG} if files is None else files
        folder = self.root / project_id
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return self.write_entry(project_id, [file_of(project_id, *each) for each in files.items()], **facts)

    def write_entry(
        self, project_id: str, files: list[dict[str, Any]], /, at: str = "2026-11-21T10:26:55Z", **facts: Any
    ) -> dict[str, Any]:
        """Write an entry of the catalogue."""
        by = {"dag_id": "readable", "run_id": "manual__1", "task_id": "download", "map_index": -1}
        entry = {
            "version": 2,
            "event": None,
            "project_id": project_id,
            "kind": "image",
            "tool": "ai-image-generator",
            "name": f"Picture {project_id}",
            "status": "complete",
            "created_at": at,
            "downloaded_at": at,
            "credits_charged": 5,
            "account_id": "account-1",
            "magichour_conn_id": "magichour_default",
            "destination": str(self.root),
            "folder": "",
            "downloaded_by": by,
            "files": files,
            **facts,
        }
        day, time = at[:10], at[11:19].replace(":", "")
        path = self.root / Entry(day, time, project_id).path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entry))
        return entry


def file_of(project_id: str, name: str, data: bytes) -> dict[str, Any]:
    return {
        "path": f"{project_id}/{name}",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "content_type": "image/png",
    }


def media_path(project_id: str, data: bytes = PNG, root: str = "media") -> str:
    """Return the path of a file as a page makes it."""
    return f"media/{root}/{project_id}/{hashlib.sha256(data).hexdigest()[:16]}"


@pytest.fixture(scope="session")
def _view_server(_migrated_database: Path) -> Iterator[tuple[str, Any, dict[str, str]]]:
    """Serve the view once; each test has its own library in it."""
    from airflow.api_fastapi import app as airflow_app
    from airflow.api_fastapi.auth.middlewares.refresh_token import JWTRefreshMiddleware
    from fastapi import FastAPI
    from starlette.middleware.gzip import GZipMiddleware

    from airflow_provider_magichour.ui.app import create_app
    from airflow_provider_magichour.ui.library import Library
    from tests.ui.auth import USERS, OneDagAuthManager

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__CORE__AUTH_MANAGER", f"{OneDagAuthManager.__module__}.OneDagAuthManager")
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "a secret of the tests " * 4)
        airflow_app.purge_cached_app()
        manager = airflow_app.create_auth_manager()
        tokens = {user.username: manager.generate_jwt(user) for user in USERS}
        inner, outer = create_app(Library({})), FastAPI()
        outer.mount("/magichour/view", inner)
        outer.add_middleware(JWTRefreshMiddleware)
        outer.add_middleware(GZipMiddleware, minimum_size=1024)
        with serving(outer) as port:
            yield f"http://127.0.0.1:{port}/magichour/view/", inner, tokens


@pytest.fixture
def serve_view(_view_server: tuple[str, Any, dict[str, str]], tmp_path: Path) -> Callable[..., View]:
    """Return ``serve_view(**roots)``, which serves these roots; by default one, named ``media``."""
    from airflow_provider_magichour.ui.library import Library

    url, app, tokens = _view_server

    def serve(**roots: str) -> View:
        root = tmp_path / "media"
        root.mkdir(exist_ok=True)
        app.state.library = Library(roots or {"media": str(root)})
        return View(url, root, tokens)

    return serve


@pytest.fixture
def view(serve_view: Callable[..., View]) -> View:
    """The view of one local root, ``media``."""
    return serve_view()

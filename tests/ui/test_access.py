"""Who sees what: anonymous, a user without the DAG, one with it; and what nobody sees."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.files import write_old_receipt
from tests.ui.conftest import PNG, View, file_of, media_path

HTML = b"<script>alert(1)</script>"


class TestUsers:
    @pytest.mark.parametrize("path", ["api/projects", "api/credits", media_path("p1")])
    def test_nobody_gets_nothing(self, view: View, path: str) -> None:
        view.store("p1")
        response = view.get(path, None)
        assert response.status_code == 401
        assert b"p1" not in response.content
        assert view.get(path, None, Cookie="_token=forged").status_code in {401, 403}
        assert view.get(path, None, Authorization="Bearer forged").status_code in {401, 403}

    def test_page_leads_to_the_login(self, view: View) -> None:
        response = view.get("?projects=a,b", None)
        assert response.status_code == 302
        assert response.headers["Location"] == (
            "/api/v2/auth/login?next=%2Fmagichour%2Fview%2F%3Fprojects%3Da%2Cb"
        )

    def test_user_with_the_dag_sees_its_media(self, view: View) -> None:
        view.store("p1")
        (row,) = view.projects()
        assert (row["id"], row["dag"], row["run"], row["credits"]) == ("p1", "readable", "manual__1", 5)
        response = view.get(media_path("p1"))
        assert response.content == PNG
        assert response.headers["Content-Type"] == "image/png"

    def test_user_without_the_dag_sees_nothing_of_it(self, view: View) -> None:
        view.store("p1")
        assert view.projects(user="stranger") == []
        assert view.projects("projects=p1&dag=readable", "stranger") == []
        assert view.get("api/credits", "stranger").json()["rows"] == []
        refused = view.get(media_path("p1"), "stranger")
        missing = view.get(media_path("p2"), "stranger")
        assert refused.status_code == missing.status_code == 404
        assert refused.content == missing.content

    def test_dag_in_the_request_counts_for_nothing(self, view: View) -> None:
        view.store("p1", downloaded_by={"dag_id": "secret"})
        assert view.projects("dag_id=readable&dag=secret") == []
        assert view.get(f"{media_path('p1')}?dag_id=readable").status_code == 404
        assert len(view.projects(user="admin")) == 1

    @pytest.mark.parametrize(
        "by", [None, {}, {"dag_id": None}, {"dag_id": ""}, {"dag_id": "~/x y"}, {"dag_id": 7}, "text", []]
    )
    def test_entry_without_a_dag_is_seen_by_nobody(self, view: View, by: Any) -> None:
        view.store("p1", downloaded_by=by)
        assert view.projects(user="admin") == []
        assert view.get(f"{media_path('p1')}?dag_id=readable", "admin").status_code == 404

    def test_receipt_of_0_1_0_is_seen_as_well(self, view: View) -> None:
        (view.root / "p1").mkdir()
        (view.root / "p1" / "a.png").write_bytes(PNG)
        file = file_of("p1", "a.png", PNG)
        write_old_receipt(view.root, "p1", files=[file], downloaded_by={"dag_id": "readable"})
        (row,) = view.projects()
        assert row["files"][0]["key"] == file["sha256"][:16]
        assert view.get(f"{media_path('p1')}?at={row['at']}").content == PNG
        assert view.get(media_path("p1"), "stranger").status_code == 404


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "media/media/../../secret.png",
            "media/media/..%2f..%2fsecret/0000000000000000",
            "media/media/%2e%2e/{key}",
            "media/media/p1%00/{key}",
            "media/..%2fmedia/p1/{key}",
            "media/media/p1/..%2f..%2fsecret.png",
            "media/media/p1/a.png",
            "media/media//{key}",
            "media/other/p1/{key}",
            "static/../app.py",
            "static/..%2fapp.py",
            "static/%2e%2e/app.py",
        ],
    )
    def test_no_path_leads_elsewhere(self, view: View, path: str) -> None:
        view.store("p1")
        (view.root.parent / "secret.png").write_bytes(PNG)
        response = view.get(path.format(key=media_path("p1").rpartition("/")[2]), "admin")
        assert response.status_code in {400, 404}
        assert PNG not in response.content
        assert b"create_app" not in response.content

    @pytest.mark.parametrize("at", ["x", "1-2026-11-21-102655-../../x", "9", "%00", "1-9999-99-99-999999-p1"])
    def test_hint_leads_to_the_project_only(self, view: View, at: str) -> None:
        view.store("p1")
        view.store("p2", {"b.png": PNG + b"2"})
        assert view.get(f"{media_path('p1', PNG + b'2')}?at=1-2026-11-21-102655-p2").status_code == 404
        assert view.get(f"{media_path('p1')}?at={at}").status_code in {200, 404}
        assert view.get(f"api/projects?before={at}").status_code == 200


class TestForgedEntries:
    @pytest.mark.parametrize(
        "path",
        [
            "../secret.png",
            "p1/../../secret.png",
            "/etc/passwd",
            "p2/a.png",
            "p1/.hidden.png",
            "p1/x\r\ny.png",
        ],
    )
    def test_file_outside_of_its_project_is_not_served(self, view: View, path: str) -> None:
        (view.root.parent / "secret.png").write_bytes(PNG)
        view.store("p2")
        view.write_entry("p1", [{**file_of("p1", "a.png", PNG), "path": path}])
        assert [row["id"] for row in view.projects()] == ["p2"]
        assert view.get(media_path("p1")).status_code == 404

    @pytest.mark.parametrize("folder", ["..", "../other", "/etc", "a/../..", "a//b", 7])
    def test_folder_outside_of_the_root_is_not_served(self, view: View, folder: Any) -> None:
        view.store("p1", folder=folder)
        assert view.projects() == []
        assert view.get(media_path("p1")).status_code == 404

    def test_destination_outside_of_all_roots_is_not_served(self, view: View, tmp_path: Path) -> None:
        other = tmp_path / "elsewhere" / "p1"
        other.mkdir(parents=True)
        (other / "a.png").write_bytes(PNG)
        view.store("p1", folder=None, destination=str(other.parent))
        (row,) = view.projects()
        assert row["files"][0]["key"] == ""
        assert view.get(media_path("p1")).status_code == 404

    def test_entry_of_another_project_is_not_shown(self, view: View) -> None:
        view.store("p1", project_id="p2")
        assert view.projects() == []

    def test_link_is_not_followed(self, view: View, tmp_path: Path) -> None:
        secret = tmp_path / "secret.png"
        secret.write_bytes(PNG)
        view.store("p1")
        (view.root / "p1" / "a.png").unlink()
        (view.root / "p1" / "a.png").symlink_to(secret)
        assert view.get(media_path("p1")).status_code == 404
        view.store("p2")
        (view.root / "p2").rename(tmp_path / "p2")
        (view.root / "p2").symlink_to(tmp_path / "p2")
        assert view.get(media_path("p2")).status_code == 404

    def test_pipe_and_folder_are_not_opened(self, view: View) -> None:
        view.write_entry("p1", [file_of("p1", "a.png", PNG)])
        (view.root / "p1").mkdir()
        os.mkfifo(view.root / "p1" / "a.png")
        assert view.get(media_path("p1")).status_code == 404
        (view.root / "p1" / "a.png").unlink()
        (view.root / "p1" / "a.png").mkdir()
        assert view.get(media_path("p1")).status_code == 404

    def test_file_that_changed_its_size_is_not_served(self, view: View) -> None:
        view.store("p1")
        (view.root / "p1" / "a.png").write_bytes(PNG + b"more")
        assert view.get(media_path("p1")).status_code == 404

    @pytest.mark.parametrize("name", ["a.svg", "a.html", "a.png.svg", "a.xml", "a.js", "a.pdf", "a", "png"])
    def test_what_a_browser_may_run_is_not_served(self, view: View, name: str) -> None:
        view.store("p1", {name: HTML}, files=[{**file_of("p1", name, HTML), "content_type": "image/png"}])
        (row,) = view.projects()
        assert row["files"] == [{"key": "", "name": name, "bytes": len(HTML), "media": ""}]
        assert view.get(media_path("p1", HTML)).status_code == 404

    def test_content_type_comes_from_the_name_and_is_not_guessed(self, view: View) -> None:
        file = {**file_of("p1", "a.png", HTML), "content_type": "text/html"}
        view.store("p1", {"a.png": HTML}, files=[file])
        response = view.get(media_path("p1", HTML))
        assert response.headers["Content-Type"] == "image/png"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Security-Policy"].endswith("sandbox")

    def test_texts_are_data_and_bounded(self, view: View) -> None:
        view.store(
            "p1", name="<img onerror=x>\r\nSet-Cookie: a=b" + "x" * 5000, tool={"a": 1}, credits_charged="5"
        )
        (row,) = view.projects()
        assert (len(row["name"]), row["tool"], row["credits"]) == (1000, "", None)
        assert view.get("api/projects").headers["Content-Type"] == "application/json"

    def test_broken_records_do_not_hide_the_others(self, view: View) -> None:
        view.store("p1")
        folder = view.root / "magichour-catalog" / "dt=2026-11-21"
        for name, text in {
            "133303-p2": "{",
            "133302-p3": "[]",
            "133301-p4": '{"version": 99}',
            "999999-p5": "null",
        }.items():
            (folder / f"{name}.json").write_text(text)
        (folder / "133300-p6.json").mkdir()
        (view.root / "magichour-catalog" / "dt=9999-99-99").mkdir()
        assert [row["id"] for row in view.projects()] == ["p1"]


class TestHeaders:
    def test_page_is_strict(self, view: View) -> None:
        response = view.get()
        policy = dict(
            part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["img-src"] == "'self'"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert b"onclick" not in response.content
        assert b"<style" not in response.content
        for name in ("view.js", "view.css", "icon.svg"):
            assert view.get(f"static/{name}", None).status_code == 200

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
    def test_nothing_can_be_changed(self, view: View, method: str) -> None:
        for path in ("", "api/projects", media_path("p1")):
            assert requests.request(method, view.url + path, timeout=30).status_code in {401, 405}


def test_nothing_of_airflows_models_is_imported() -> None:
    import ast

    import airflow_provider_magichour.ui as package

    for file in Path(package.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            forbidden = ("airflow.models", "airflow.settings", "airflow.utils.session", "sqlalchemy")
            assert not [name for name in names if name.startswith(forbidden)], file


def test_json_is_what_the_page_needs(view: View) -> None:
    view.store(
        "p1", prompt="a lighthouse", downloaded_by={"dag_id": "readable", "run_id": "r", "map_index": 3}
    )
    row = json.loads(view.get("api/projects").content)["projects"][0]
    assert (row["prompt"], row["map_index"], row["state"]) == ("a lighthouse", 3, "stored")
    assert row["files"] == [
        {"key": row["files"][0]["key"], "name": "a.png", "bytes": len(PNG), "media": "image"}
    ]

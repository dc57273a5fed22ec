"""The pages of what was made: order, filters, sums, and how much they read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour._transfer.catalogue import Entry
from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour._transfer.storage import Storage
from tests.support.stores import S3Store
from tests.transfer.test_newest import SPREADS, at, left, write_entries
from tests.ui.conftest import PNG, View, file_of

ENTRY: dict[str, Any] = {
    "version": 2,
    "event": None,
    "kind": "image",
    "status": "complete",
    "created_at": "2026-11-01T00:00:00Z",
    "downloaded_at": "2026-11-01T00:00:00Z",
    "magichour_conn_id": "magichour_default",
    "folder": "",
    "dag_id": "readable",
}


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def test_newest_comes_first_page_by_page(view: View) -> None:
    for n in range(7):
        view.store(f"p{n}", at=f"2026-11-{20 + n}T10:00:00Z")
    found, before = list[str](), ""
    for _ in range(4):
        page = view.get(f"api/projects?limit=2&before={before}").json()
        found += ids(page["projects"])
        before = page["next"] or ""
    assert found == [f"p{n}" for n in reversed(range(7))]


def test_roots_are_merged(serve_view: Callable[..., View], tmp_path: Path) -> None:
    other = View("", tmp_path / "other", {})
    view = serve_view(media=str(tmp_path / "media"), other=str(other.root))
    view.store("p1", at="2026-11-21T10:00:00Z")
    other.store("p2", at="2026-11-22T10:00:00Z")
    view.store("p3", at="2026-11-23T10:00:00Z")
    expected = [("p3", "media"), ("p2", "other"), ("p1", "media")]
    assert [(row["id"], row["root"]) for row in view.projects()] == expected


def test_project_in_two_roots_is_on_one_page_twice(serve_view: Callable[..., View], tmp_path: Path) -> None:
    other = View("", tmp_path / "other", {})
    view = serve_view(media=str(tmp_path / "media"), other=str(other.root))
    for each in (view, other):
        for n in range(3):
            each.store(f"p{n}", at="2026-11-21T10:00:00Z")
    pages, before = [], ""
    for _ in range(3):
        page = view.get(f"api/projects?limit=1&before={before}").json()
        pages.append([(row["id"], row["root"]) for row in page["projects"]])
        before = page["next"]
    assert pages == [[(f"p{n}", "media"), (f"p{n}", "other")] for n in range(3)]


def test_filters(view: View) -> None:
    view.store("old", at="2026-11-19T10:00:00Z", kind="video")
    view.store("run", downloaded_by={"dag_id": "other", "run_id": "run 2"})
    view.store("gone")
    path = view.root / Entry("2026-11-21", "102655", "gone").path
    path.with_stem(f"{path.stem}-deleted").write_text("{}")
    view.write_entry("bad", [], status="error", error_code="nsfw", error_message="refused")
    for query, expected in {
        "": ["bad", "gone", "run", "old"],
        "kind=video": ["old"],
        "dag=other": ["run"],
        "run=run+2": ["run"],
        "state=deleted": ["gone"],
        "state=failed": ["bad"],
        "first=2026-11-20": ["bad", "gone", "run"],
        "last=2026-11-20": ["old"],
        "projects=old,gone": ["gone", "old"],
        "projects=nothing": [],
        "kind=x": [],
    }.items():
        assert ids(view.projects(query, "admin")) == expected, query
    (bad,) = view.projects("state=failed", "admin")
    assert (bad["error"], bad["files"]) == ("nsfw: refused", [])


def test_credits_are_summed_by_dag_and_day(view: View) -> None:
    for n in range(3):
        view.store(f"p{n}", at=f"2026-11-2{n // 2}T10:00:0{n}Z", credits_charged=n + 1)
    view.store("secret", downloaded_by={"dag_id": "secret"})
    found = view.get("api/credits").json()
    assert found["rows"] == [
        {"day": "2026-11-21", "dag": "readable", "credits": 3, "projects": 1},
        {"day": "2026-11-20", "dag": "readable", "credits": 3, "projects": 2},
    ]
    assert (found["projects"], found["is_partial"]) == (3, False)


def test_what_cannot_be_listed_is_said_and_hides_nothing_else(
    serve_view: Callable[..., View], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    (broken / "magichour-catalog").mkdir(parents=True)
    (broken / "magichour-catalog" / "dt=2026-11-21").symlink_to("dt=2026-11-21")  # a circle
    view = serve_view(media=str(tmp_path / "media"), broken=str(broken))
    view.store("p1")
    page = view.get("api/projects").json()
    assert ids(page["projects"]) == ["p1"]
    assert page["problems"] == ["The root broken cannot be listed: OSError"]


def test_root_that_cannot_be_opened_is_tried_again(
    serve_view: Callable[..., View], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = serve_view(media=str(tmp_path / "media"), bucket="s3://not_yet@bucket/media")
    view.store("p1")
    page = view.get("api/projects").json()
    assert ids(page["projects"]) == ["p1"]
    assert page["problems"] == ["The root bucket cannot be listed: MagicHourDownloadError"]
    assert view.get().status_code == 200
    monkeypatch.setenv("AIRFLOW_CONN_NOT_YET", "aws://test:test@/?endpoint_url=http%3A%2F%2F127.0.0.1%3A1")
    (problem,) = view.get("api/projects").json()["problems"]
    assert "MagicHourDownloadError" not in problem


def test_first_page_of_ten_thousand_local_entries(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    file = file_of("p", "a.png", PNG)
    for n in range(10_000):
        day, time_of_day = f"2026-11-{1 + n // 5000:02}", at(n % 5000 * 17)
        entry = {**ENTRY, "project_id": f"p{n}", "files": [{**file, "path": f"p{n}/a.png"}]}
        path = view.root / Entry(day, time_of_day, f"p{n}").path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entry))
    calls: list[str] = []
    for name in ("walk", "read", "names", "scan", "sizes"):
        method = getattr(Storage, name)
        monkeypatch.setattr(
            Storage, name, lambda self, *args, n=name, m=method: (calls.append(n), m(self, *args))[1]
        )
    page = view.get("api/projects").json()
    # the entries of the page, the days, and the last of them
    assert Counter(calls) == {"read": 48, "names": 1, "scan": 1}
    assert ids(page["projects"]) == [f"p{n}" for n in range(9999, 9951, -1)]
    # a user who may see none of them costs a bounded number of reads
    page = view.get("api/projects", "stranger").json()
    assert (page["projects"], page["is_partial"]) == ([], True)
    assert view.get("api/credits").json()["projects"] == 2000


@pytest.mark.xdist_group("stores")
@pytest.mark.parametrize(
    "spread", ["400 days", "hourly batches of 1200", "a batch, a long gap, and one", "one a day"]
)
def test_first_page_in_s3_takes_five_lists(
    spread: str, s3_store: S3Store, serve_view: Callable[..., View], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_entries(
        s3_store,
        SPREADS[spread],
        lambda name: {**ENTRY, "project_id": name[21:-5], "status": "error", "files": []},
    )
    view = serve_view(bucket=s3_store.url)
    calls: list[str] = []
    fs = type(open_destination(s3_store.url).fs)
    call = fs.call_s3
    monkeypatch.setattr(
        fs, "call_s3", lambda self, method, **rest: (calls.append(method), call(self, method, **rest))[1]
    )
    rows = view.projects()
    expected = sorted((f"{name[3:13]}T{left(name[14:20])}Z" for name in SPREADS[spread]), reverse=True)
    assert [row["created"].replace(":", "") for row in rows] == expected[:48]
    assert calls == ["list_objects_v2"] * len(calls)
    assert 0 < len(calls) <= 5
    del calls[:]
    view.get(f"media/bucket/{rows[-1]['id']}/{'0' * 16}?at={rows[-1]['at']}")
    assert calls == []  # where it is recorded is known


def test_files_may_be_below_another_root(serve_view: Callable[..., View], tmp_path: Path) -> None:
    view = serve_view(media=str(tmp_path / "media"), other=str(tmp_path / "other"))
    entry = view.store("p1", folder=None, destination=str(tmp_path / "other" / "2026"))
    (tmp_path / "other" / "2026").mkdir(parents=True)
    (view.root / "p1").rename(tmp_path / "other" / "2026" / "p1")
    path = f"media/media/p1/{entry['files'][0]['sha256'][:16]}"
    assert view.get(path).content == PNG
    assert view.projects()[0]["files"][0]["key"]

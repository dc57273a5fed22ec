"""Files as browsers fetch them: ranges, large files, and stores that presign."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour.ui.media import CHUNK
from tests.support.stores import S3Store, Store
from tests.ui.conftest import PNG, View, file_of, media_path

SIZE = len(PNG)
MANY_RANGES = "bytes=" + ",".join(["0-"] * 5000)


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-", 0, SIZE),
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=10-999999999999999999", 10, SIZE),
        ("bytes=-5", SIZE - 5, SIZE),
        ("bytes=-999999999999999999", 0, SIZE),
    ],
)
def test_range_gives_a_part(view: View, asked: str, start: int, end: int) -> None:
    view.store("p1")
    response = view.get(media_path("p1"), Range=asked)
    assert response.status_code == 206
    assert response.content == PNG[start:end]
    assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert response.headers["Content-Length"] == str(end - start)


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", "bytes=9-3", "bytes=-0", "bytes=999999999999999999-"])
def test_range_without_a_byte_is_refused(view: View, asked: str) -> None:
    view.store("p1")
    response = view.get(media_path("p1"), Range=asked)
    assert (response.status_code, response.content) == (416, b"")
    assert response.headers["Content-Range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,2-3", MANY_RANGES, "lines=1-2", "bytes=a-b", f"bytes=0-{'9' * 40}", "bytes=-"]
)
def test_other_ranges_give_the_whole_file_once(view: View, asked: str) -> None:
    view.store("p1")
    assert view.get(media_path("p1"), Range=asked).content == PNG


def test_huge_file_is_streamed_in_bounded_memory(view: View) -> None:
    size = 3 * 1024**3
    path = view.root / "p1" / "a.mp4"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(size)  # takes no room on the disk
    view.write_entry("p1", [{**file_of("p1", "a.mp4", b""), "bytes": size}], kind="video")
    path_of_file = media_path("p1", b"")
    assert view.get(path_of_file, Range=f"bytes={size - 4}-").content == bytes(4)
    tracemalloc.start()
    try:
        cookie = {"Cookie": view.cookie("reader")}
        with requests.get(view.url + path_of_file, headers=cookie, stream=True, timeout=60) as response:
            for number, _ in enumerate(response.iter_content(CHUNK)):
                if number == 100:
                    break  # the browser leaves
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50 * CHUNK


def serve_store(store: Store, serve_view: Callable[..., View], files: dict[str, bytes] | None = None) -> View:
    """Return a view of a root in a store with one project, ``p1``."""
    view = serve_view(bucket=store.url)
    view.store("p1", files)
    for path in view.root.rglob("*.*"):
        if path.is_file():
            store.write(f"{store.FOLDER}/{path.relative_to(view.root)}", path.read_bytes())
    return view


@pytest.fixture
def s3_view(s3_store: S3Store, serve_view: Callable[..., View]) -> View:
    """A view of a root in S3 with one project, ``p1``."""
    return serve_store(s3_store, serve_view)


@pytest.mark.xdist_group("stores")
def test_each_store_is_streamed_in_pieces(object_store: Store, serve_view: Callable[..., View]) -> None:
    data = bytes(range(256)) * (10 * CHUNK // 1024)
    view = serve_store(object_store, serve_view, {"a.mp4": data})
    path = f"{media_path('p1', data, root='bucket')}?stream=true"
    assert view.get(path).content == data
    assert view.get(path, Range=f"bytes=5-{CHUNK + 9}").content == data[5 : CHUNK + 10]
    assert view.get(path, Range="bytes=-7").content == data[-7:]


@pytest.mark.xdist_group("stores")
class TestStores:
    def test_browser_is_led_to_the_store(self, s3_view: View, s3_store: S3Store) -> None:
        path = media_path("p1", root="bucket")
        response = s3_view.get(path)
        assert response.status_code == 307
        url = response.headers["Location"]
        assert url.startswith(s3_store.endpoint)
        assert parse_qs(urlsplit(url).query)["response-content-type"] == ["image/png"]
        assert requests.get(url, timeout=30).content == PNG
        assert s3_view.get(path, "stranger").status_code == 404
        assert s3_view.get(path, None).status_code == 401

    def test_page_allows_the_stores_of_its_roots(self, s3_view: View, s3_store: S3Store) -> None:
        policy = s3_view.get().headers["Content-Security-Policy"]
        assert f"img-src 'self' {s3_store.endpoint};" in policy
        assert f"media-src 'self' {s3_store.endpoint};" in policy
        assert "Signature" not in policy

    def test_browser_that_cannot_reach_the_store_reads_here(self, s3_view: View) -> None:
        path = media_path("p1", root="bucket")
        assert s3_view.get(f"{path}?stream=true").content == PNG
        part = s3_view.get(f"{path}?stream=true", Range="bytes=3-6")
        assert (part.status_code, part.content) == (206, PNG[3:7])

    def test_store_that_cannot_presign_is_streamed(
        self, s3_view: View, s3_store: S3Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any, **__: Any) -> str:
            raise NotImplementedError("Sign is not implemented for this filesystem")

        monkeypatch.setattr(type(open_destination(s3_store.url).fs), "sign", refuse)
        assert s3_view.get(media_path("p1", root="bucket")).content == PNG
        assert "img-src 'self';" in s3_view.get().headers["Content-Security-Policy"]

    def test_missing_object_is_not_found(self, s3_view: View, s3_store: S3Store) -> None:
        s3_store.delete(f"{s3_store.FOLDER}/p1/a.png")
        assert s3_view.get(f"{media_path('p1', root='bucket')}?stream=true").status_code == 404

"""The host of signed URLs: ranges, expiry, uploads, and keys that must not be shown there."""

from __future__ import annotations

import hashlib
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from airflow_provider_magichour.simulator import Simulator
from tests.simulator.support import create, get, make, session


@pytest.fixture
def url(magichour: Simulator) -> str:
    return str(make(magichour)["downloads"][0]["url"])


def _get(url: str, **headers: str) -> requests.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.get(url, headers=names, timeout=60)


def test_the_files_have_an_origin_of_their_own(magichour: Simulator, url: str) -> None:
    assert url.startswith(f"{magichour.downloads_url}/")
    assert urlsplit(url).netloc != urlsplit(magichour.url).netloc
    assert urlsplit(url).path.endswith("/output.png")


def test_a_download_has_its_type_length_and_etag(url: str) -> None:
    response = _get(url)
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-length"] == str(len(response.content))
    assert response.headers["accept-ranges"] == "bytes"
    again = _get(url)
    assert (again.content, again.headers["etag"]) == (response.content, response.headers["etag"])


def test_head_is_refused_with_the_signature_of_a_get(url: str) -> None:
    assert requests.head(url, timeout=60).status_code == 403


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=100-", 100, None),
        ("bytes=-7", -7, None),
        ("bytes=5-99999999", 5, None),
        ("bytes=-99999999", 0, None),
    ],
)
def test_ranges_are_served(url: str, asked: str, start: int, end: int | None) -> None:
    whole = _get(url).content
    response = _get(url, range=asked)
    assert response.status_code == 206
    assert response.content == whole[start:end]
    first = start % len(whole)
    assert (
        response.headers["content-range"] == f"bytes {first}-{first + len(response.content) - 1}/{len(whole)}"
    )
    assert response.headers["content-length"] == str(len(response.content))


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,4-5", "lines=1-2", "bytes=x-", "bytes=9-3", "bytes=", "bytes=--1"]
)
def test_unsupported_ranges_give_the_complete_file(url: str, asked: str) -> None:
    assert _get(url, range=asked).status_code == 200


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0"])
def test_ranges_outside_of_the_file_are_416(url: str, asked: str) -> None:
    size = len(_get(url).content)
    response = _get(url, range=asked)
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{size}"


def test_if_range_is_respected(url: str) -> None:
    headers = _get(url).headers
    for condition, status in [
        (headers["etag"], 206),
        (headers["last-modified"], 206),
        ('"another"', 200),
        (f"W/{headers['etag']}", 200),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 200),
        ("nonsense", 200),
    ]:
        assert _get(url, range="bytes=3-5", if_range=condition).status_code == status, condition


@pytest.mark.parametrize("part", ["expires", "signature", "output"])
def test_a_changed_url_is_refused(url: str, part: str) -> None:
    changed = url.replace(f"{part}=", f"{part}=1")
    assert _get(changed).status_code == 403
    assert "SignatureDoesNotMatch" in _get(changed).text
    assert _get(url.partition("?")[0]).status_code == 403


def test_urls_expire_and_another_get_gives_fresh_ones() -> None:
    with Simulator(duration=0.0, url_lifetime=6) as magichour:
        project = make(magichour)
        old = project["downloads"][0]["url"]
        assert _get(old).status_code == 200
        time.sleep(6.1)
        refused = _get(old)
        assert refused.status_code == 403
        assert "ExpiredToken" in refused.text
        fresh = get(magichour, "image", project["id"])["downloads"][0]
        assert fresh["url"] != old
        assert fresh["expires_at"] > project["downloads"][0]["expires_at"]
        assert _get(fresh["url"]).status_code == 200


def test_files_of_a_deleted_project_are_gone(magichour: Simulator) -> None:
    project = make(magichour)
    with session(magichour) as http:
        http.delete(f"{magichour.url}/v1/image-projects/{project['id']}")
    assert _get(project["downloads"][0]["url"]).status_code == 404


@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key"])
def test_a_leaked_key_is_refused_and_counted(magichour: Simulator, url: str, header: str) -> None:
    response = _get(url, **{header: f"Bearer {magichour.api_key}"})
    assert response.status_code == 400
    assert magichour.state()["leaked_keys"] == 1


def test_a_key_in_the_query_is_refused_and_counted(magichour: Simulator, url: str) -> None:
    assert _get(f"{url}&key={magichour.api_key}").status_code == 400
    assert magichour.state()["leaked_keys"] == 1


# ------------------------------------------------------------------------------------------------ uploads


def _upload_urls(magichour: Simulator, *items: tuple[str, str]) -> requests.Response:
    body = {"items": [{"type": kind, "extension": extension} for kind, extension in items]}
    with session(magichour) as http:
        return http.post(f"{magichour.url}/v1/files/upload-urls", json=body)


def _upload(magichour: Simulator, kind: str = "image", extension: str = "png") -> dict[str, Any]:
    return dict(_upload_urls(magichour, (kind, extension)).json()["items"][0])


def test_uploads_come_in_the_order_asked_and_are_kept_apart(magichour: Simulator) -> None:
    items = _upload_urls(magichour, ("video", "mp4"), ("audio", "mp3"), ("audio", "mp3")).json()["items"]
    assert [item["file_path"].rsplit(".", 1)[1] for item in items] == ["mp4", "mp3", "mp3"]
    assert len({item["file_path"] for item in items}) == 3
    for number, item in enumerate(items):
        assert requests.put(item["upload_url"], data=b"x" * (number + 1), timeout=60).status_code == 200
    uploads = magichour.state()["uploads"]
    assert [uploads[item["file_path"]]["size"] for item in items] == [1, 2, 3]
    assert uploads[items[0]["file_path"]]["sha256"] == hashlib.sha256(b"x").hexdigest()


def test_an_upload_without_a_length_is_refused(magichour: Simulator) -> None:
    url = _upload(magichour)["upload_url"]
    assert requests.put(url, data=iter([b"one", b"two"]), timeout=60).status_code == 411
    assert requests.put(url, data=b"", headers={"Content-Length": "0"}, timeout=60).status_code == 200


def test_an_upload_with_a_key_is_refused(magichour: Simulator) -> None:
    url = _upload(magichour)["upload_url"]
    with session(magichour) as http:
        assert http.put(url, data=b"x").status_code == 400
    assert magichour.state()["leaked_keys"] == 1


def test_an_upload_that_breaks_off_is_not_kept(magichour: Simulator) -> None:
    item = _upload(magichour)
    url = urlsplit(item["upload_url"])
    with socket.create_connection((url.hostname, url.port), 10) as sock:
        request = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"
        sock.sendall(request.encode())
    until = time.monotonic() + 60
    while not (found := magichour.state()["uploads"][item["file_path"]]).get("aborted"):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert found["puts"] == 0
    assert "size" not in found


def test_a_signed_url_is_for_one_method_only(magichour: Simulator, url: str) -> None:
    assert requests.put(url, data=b"x", timeout=60).status_code == 403
    assert _get(_upload(magichour)["upload_url"]).status_code == 403


def test_wrong_extensions_are_refused(magichour: Simulator) -> None:
    response = _upload_urls(magichour, ("audio", "mp4"))
    assert response.status_code == 422
    assert "'mp4' is an invalid audio extension" in response.json()["message"]
    assert _upload_urls(magichour, ("text", "mp4")).status_code == 400
    assert "items" in _upload_urls(magichour).json()["message"]


def test_faces_and_saved_items_can_be_downloaded(magichour: Simulator) -> None:
    with session(magichour) as http:
        body = {"assets": {"target_file_path": "api-assets/x/1.png"}}
        started = http.post(f"{magichour.url}/v1/face-detection", json=body).json()
        found = http.get(f"{magichour.url}/v1/face-detection/{started['id']}").json()
        assert found["status"] == "complete"
        items = http.get(f"{magichour.url}/v1/saved-items").json()["items"]
        assert http.get(f"{magichour.url}/v1/face-detection/other").status_code == 404
    for one in [found["faces"][0]["url"], *(item["assets"][0]["url"] for item in items)]:
        assert _get(one).status_code == 200


@pytest.mark.parametrize("padding", [None, 300_000])
def test_digests_outlive_the_deletion(padding: int | None) -> None:
    with Simulator(duration=0, output_bytes=padding) as magichour:
        project = make(magichour, image_count=2)
        served = [
            hashlib.sha256(requests.get(one["url"], timeout=60).content) for one in project["downloads"]
        ]
        with session(magichour) as http:
            http.delete(f"{magichour.url}/v1/image-projects/{project['id']}").raise_for_status()
        assert magichour.digests(project["id"]) == {
            f"output-{number}.png": digest.hexdigest() for number, digest in enumerate(served)
        }


def test_downloads_are_counted(magichour: Simulator) -> None:
    project_id = create(magichour)
    project = make(magichour)
    size = len(_get(project["downloads"][0]["url"]).content)
    _get(project["downloads"][0]["url"], range="bytes=0-9")
    projects = magichour.state()["projects"]
    assert projects[project["id"]]["downloads"] == 2
    assert projects[project["id"]]["downloaded_bytes"] == size + 10
    assert projects[project_id]["downloads"] == 0

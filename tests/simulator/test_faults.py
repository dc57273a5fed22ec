"""Each fault does what it says, seen from the socket."""

from __future__ import annotations

import gzip
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from pydantic import ValidationError

from airflow_provider_magichour.simulator import Simulator
from tests.simulator.support import IMAGE, create, download, make, session

ACCOUNT = {"route": "get_account"}


def account(magichour: Simulator) -> requests.Response:
    with session(magichour) as http:
        return http.get(f"{magichour.url}/v1/account", timeout=60)


def raw(magichour: Simulator, path: str, headers: str = "", host: str = "api") -> tuple[bytes, str]:
    """Send one request over a plain socket; return all bytes that came, and how the connection ended."""
    url = urlsplit(magichour.url if host == "api" else magichour.downloads_url)
    received = b""
    with socket.create_connection((url.hostname, url.port), 10) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode())
        try:
            while piece := sock.recv(65536):
                received += piece
        except ConnectionResetError:
            return received, "reset"
    return received, "closed"


def body_of(response: bytes) -> bytes:
    return response.partition(b"\r\n\r\n")[2]


# --------------------------------------------------------------------------------------- which requests


def test_a_list_of_rules_is_a_sequence(magichour: Simulator) -> None:
    magichour.faults(
        {"match": ACCOUNT, "status": 503, "times": 2},
        {"match": ACCOUNT, "status": 429, "headers": {"Retry-After": "7"}, "times": 1},
    )
    responses = [account(magichour) for _ in range(4)]
    assert [response.status_code for response in responses] == [503, 503, 429, 200]
    assert responses[2].headers["Retry-After"] == "7"
    assert [fault["used_up"] for fault in magichour.state()["faults"]] == [True, True]
    magichour.clear_faults()
    assert magichour.state()["faults"] == []


@pytest.mark.parametrize(
    "match",
    [
        {"host": "api", "method": "GET"},
        {"path": "/v1/acc*"},
        {"path": "/v1/account", "route": "get_account"},
        {},
    ],
)
def test_a_rule_matches_by_each_of_its_fields(magichour: Simulator, match: dict[str, str]) -> None:
    magichour.faults({"match": match, "status": 500})
    assert account(magichour).status_code == 500


@pytest.mark.parametrize(
    "match",
    [
        {"host": "downloads"},
        {"method": "POST"},
        {"path": "/v1/*-projects/*"},
        {"kind": "image"},
        {"tool": "x"},
    ],
)
def test_a_rule_does_not_match_other_requests(magichour: Simulator, match: dict[str, str]) -> None:
    magichour.faults({"match": match, "status": 500})
    assert account(magichour).status_code == 200


def test_a_rule_can_match_one_project_of_two(magichour: Simulator) -> None:
    first, second = create(magichour), create(magichour)
    magichour.faults({"match": {"project_id": first}, "status": 500})
    with session(magichour) as http:
        codes = [http.get(f"{magichour.url}/v1/image-projects/{one}").status_code for one in (first, second)]
    assert codes == [500, 200]


def test_a_fault_can_skip_requests_and_hit_a_share_of_them(magichour: Simulator) -> None:
    magichour.faults({"match": ACCOUNT, "status": 500, "skip": 2, "times": 1})
    assert [account(magichour).status_code for _ in range(4)] == [200, 200, 500, 200]
    outcomes = []
    for _ in range(2):
        magichour.clear_faults()
        magichour.faults({"match": ACCOUNT, "status": 500, "probability": 0.5}, seed=3)
        outcomes.append([account(magichour).status_code for _ in range(20)])
    assert outcomes[0] == outcomes[1]
    assert set(outcomes[0]) == {200, 500}


@pytest.mark.parametrize(
    "fault", [{"statsu": 1}, {"match": {"hots": "api"}}, {"drop": "sometimes"}, {"times": 0}]
)
def test_a_misspelt_fault_is_refused(magichour: Simulator, fault: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        magichour.faults(fault)


# ----------------------------------------------------------------------------------------- connections


@pytest.mark.parametrize(("hang_up", "ending"), [(None, "reset"), ("reset", "reset"), ("close", "closed")])
def test_drop_before_sends_no_response(magichour: Simulator, hang_up: str | None, ending: str) -> None:
    magichour.faults({"match": ACCOUNT, "drop": "before", "hang_up": hang_up})
    assert raw(magichour, "/v1/account") == (b"", ending)
    assert magichour.state()["statuses"] == {"dropped": 1}


def test_drop_after_makes_the_project_and_closes(magichour: Simulator) -> None:
    magichour.faults({"match": {"route": "create_project"}, "drop": "after", "times": 1})
    with session(magichour) as http, pytest.raises(requests.ConnectionError):
        http.post(f"{magichour.url}/v1/ai-image-generator", json=IMAGE)
    state = magichour.state()
    assert state["created"] == {"ai-image-generator": 1}
    assert len(state["projects"]) == 1
    assert state["credits"] == 100_000 - 5


def test_drop_before_makes_no_project(magichour: Simulator) -> None:
    magichour.faults({"match": {"route": "create_project"}, "drop": "before"})
    with session(magichour) as http, pytest.raises(requests.ConnectionError):
        http.post(f"{magichour.url}/v1/ai-image-generator", json=IMAGE)
    assert magichour.state()["created"] == {}


@pytest.mark.parametrize("hang_up", ["close", "reset"])
def test_drop_after_bytes_closes_within_the_body(magichour: Simulator, hang_up: str) -> None:
    project = make(magichour)
    whole = download(project).content
    magichour.faults({"match": {"route": "download"}, "drop_after_bytes": 1000, "hang_up": hang_up})
    url = urlsplit(project["downloads"][0]["url"])
    response, ending = raw(magichour, f"{url.path}?{url.query}", host="downloads")
    assert f"content-length: {len(whole)}".encode() in response.lower()
    assert ending == ("closed" if hang_up == "close" else "reset")
    if hang_up == "close":
        assert body_of(response) == whole[:1000]


def test_drop_after_percent_closes_within_the_body(magichour: Simulator) -> None:
    project = make(magichour, "audio")
    whole = download(project).content
    magichour.faults({"match": {"route": "download"}, "drop_after_percent": 50})
    url = urlsplit(project["downloads"][0]["url"])
    response, _ = raw(magichour, f"{url.path}?{url.query}", host="downloads")
    assert body_of(response) == whole[: len(whole) // 2]


def test_delay_holds_up_the_request_and_the_response(magichour: Simulator) -> None:
    magichour.faults(
        {"match": ACCOUNT, "delay": 0.2}, {"match": {"route": "create_project"}, "delay_after": 20}
    )
    start = time.monotonic()
    assert account(magichour).status_code == 200
    assert time.monotonic() - start >= 0.2
    with session(magichour) as http, pytest.raises(requests.ReadTimeout):
        http.post(f"{magichour.url}/v1/ai-image-generator", json=IMAGE, timeout=3)
    until = time.monotonic() + 60
    while magichour.state()["created"] != {"ai-image-generator": 1}:
        assert time.monotonic() < until
        time.sleep(0.02)


# --------------------------------------------------------------------------------------- other answers


def test_status_body_and_headers_are_replaced(magichour: Simulator) -> None:
    magichour.faults(
        {"match": ACCOUNT, "status": 403, "body": {"message": "no"}, "headers": {"X-One": "1"}, "times": 1},
        {"match": ACCOUNT, "status": 500, "body": "plain", "times": 1},
        {"match": ACCOUNT, "html": True, "times": 1},
        {"match": ACCOUNT, "status": 204, "times": 1},
        {"match": ACCOUNT, "headers": {"content-type": None}, "times": 1},
    )
    responses = [account(magichour) for _ in range(5)]
    assert responses[0].json() == {"message": "no"}
    assert responses[0].headers["x-one"] == "1"
    assert (responses[1].status_code, responses[1].text) == (500, "plain")
    assert responses[2].status_code == 502
    assert "<html>" in responses[2].text
    assert (responses[3].status_code, responses[3].content) == (204, b"")
    assert responses[4].json()["credits"] == 100_000
    assert "content-type" not in responses[4].headers


def test_process_makes_the_project_and_responds_504(magichour: Simulator) -> None:
    magichour.faults({"match": {"route": "create_project"}, "status": 504, "process": True, "times": 1})
    with session(magichour) as http:
        assert http.post(f"{magichour.url}/v1/ai-image-generator", json=IMAGE).status_code == 504
    assert magichour.state()["created"] == {"ai-image-generator": 1}


def test_merge_and_remove_change_fields_of_the_response(magichour: Simulator) -> None:
    magichour.faults({"match": ACCOUNT, "merge": {"credits": 1, "new": [2]}, "remove": ["tier"]})
    response = account(magichour)
    found = response.json()
    assert (found["credits"], found["new"]) == (1, [2])
    assert "tier" not in found
    assert response.headers["content-length"] == str(len(response.content))


def test_gzip_and_chunked_change_the_encoding(magichour: Simulator) -> None:
    project = make(magichour)
    whole = download(project).content
    magichour.faults({"gzip": True, "times": 2}, {"chunked": True})
    assert account(magichour).json()["tier"] == "pro"
    response = requests.get(project["downloads"][0]["url"], stream=True, timeout=60)
    assert response.headers["content-encoding"] == "gzip"
    assert gzip.decompress(response.raw.read(decode_content=False)) == whole
    response = download(project)
    assert "content-length" not in response.headers
    assert response.content == whole


def test_shortened_bodies_seem_complete(magichour: Simulator) -> None:
    project = make(magichour, "audio")
    whole = download(project).content
    magichour.faults(
        {"match": {"route": "download"}, "shorten_to_bytes": 70_000, "times": 1},
        {"match": {"route": "download"}, "shorten_to_bytes": 10, "times": 1},
        {"match": {"route": "download"}, "shorten_to_bytes": 0, "times": 1},
        {"match": {"route": "download"}, "shorten_to_bytes": 100, "chunked": True, "times": 1},
    )
    sizes = []
    for _ in range(4):
        response = download(project)
        assert response.status_code == 200
        assert whole.startswith(response.content)
        sizes.append(len(response.content))
    assert sizes == [min(70_000, len(whole)), 10, 0, 100]


def test_drip_sends_the_body_in_slow_pieces(magichour: Simulator) -> None:
    project = make(magichour, "audio")
    size = len(download(project).content)
    magichour.faults({"match": {"route": "download"}, "drip_bytes": size // 4, "drip_seconds": 0.1})
    start = time.monotonic()
    assert len(download(project).content) == size
    assert time.monotonic() - start >= 0.3


# ------------------------------------------------------------------------------------------- downloads


def test_expired_refuses_the_signed_url(magichour: Simulator) -> None:
    project = make(magichour)
    magichour.faults({"expired": True, "times": 1})
    response = download(project)
    assert response.status_code == 403
    assert "ExpiredToken" in response.text
    assert download(project).status_code == 200


def test_version_changes_the_file_and_its_etag(magichour: Simulator) -> None:
    project = make(magichour)
    before = download(project)
    magichour.faults({"version": "two"})
    after = download(project, Range="bytes=5-")
    assert after.status_code == 206
    assert after.headers["etag"] != before.headers["etag"]
    assert after.content != before.content[5:]
    restarted = download(project, Range="bytes=5-", **{"If-Range": before.headers["etag"]})
    assert restarted.status_code == 200
    assert restarted.headers["etag"] == after.headers["etag"]


def test_wrong_ranges_are_served_on_request(magichour: Simulator) -> None:
    project = make(magichour)
    whole = download(project).content
    magichour.faults(*({"range": how, "times": 1} for how in ("ignore", "shift", "refuse")))
    ignored, shifted, refused = (download(project, Range="bytes=100-4000") for _ in range(3))
    assert (ignored.status_code, ignored.content) == (200, whole)
    assert shifted.status_code == 206
    assert shifted.headers["content-range"] == f"bytes 1124-4000/{len(whole)}"
    assert shifted.content == whole[1124:4001]
    assert refused.status_code == 416

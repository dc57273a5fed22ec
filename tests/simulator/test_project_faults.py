"""Faults of whole projects: how they end, how long they take, what comes out of them."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from urllib.parse import urlsplit

import pytest
import requests

from airflow_provider_magichour.simulator import Simulator
from tests.simulator.support import AUDIO, create, download, get, make, session


def test_outcome_decides_how_a_project_ends(magichour: Simulator) -> None:
    magichour.faults(
        {"outcome": {"status": "error", "code": "no_source_face", "message": "No face"}, "times": 1},
        {"match": {"kind": "audio"}, "outcome": {"status": "canceled"}, "times": 1},
    )
    failed, canceled, fine = make(magichour), make(magichour, "audio"), make(magichour, "audio")
    assert failed["status"] == "error"
    assert failed["error"] == {"code": "no_source_face", "message": "No face"}
    assert failed["credits_charged"] == 0
    assert failed["downloads"] == []
    assert canceled["status"] == "canceled"
    assert fine["status"] == "complete"
    assert magichour.state()["credits"] == 100_000 - fine["credits_charged"]


def test_statuses_are_shown_one_after_the_other(magichour: Simulator) -> None:
    sequence = ["queued", "hibernating", "rendering", "complete"]
    magichour.faults({"statuses": sequence, "times": 1})
    project_id = create(magichour)
    checks = [get(magichour, "image", project_id) for _ in range(6)]
    assert [check["status"] for check in checks] == [*sequence, "complete", "complete"]
    assert len(checks[3]["downloads"]) == 1


def test_statuses_that_end_in_an_error_refund(magichour: Simulator) -> None:
    magichour.faults(
        {"statuses": ["error"], "outcome": {"code": "file_too_large", "message": "Too large"}, "times": 1}
    )
    project = get(magichour, "image", create(magichour))
    assert project["error"] == {"code": "file_too_large", "message": "Too large"}
    assert magichour.state()["credits"] == 100_000


def test_names_and_output_bytes_shape_the_outputs(magichour: Simulator) -> None:
    names = ["output.png", "output.png", "a/b ü.png"]
    magichour.faults({"names": names, "output_bytes": 300_000, "times": 1})
    project = make(magichour)
    contents = [requests.get(one["url"], timeout=60).content for one in project["downloads"]]
    assert [len(content) for content in contents] == [300_000] * 3
    assert urlsplit(project["downloads"][2]["url"]).path.endswith("/a%2Fb%20%C3%BC.png")


def test_an_undeletable_project_is_422(magichour: Simulator) -> None:
    magichour.faults({"undeletable": True, "times": 1})
    project = make(magichour, "video")
    with session(magichour) as http:
        refused = http.delete(f"{magichour.url}/v1/video-projects/{project['id']}")
    assert refused.status_code == 422
    assert "template" in refused.json()["message"]


def test_duration_is_kept_by_one_project(magichour: Simulator) -> None:
    magichour.faults({"duration": 600, "times": 1})
    project_id = create(magichour)
    assert get(magichour, "image", project_id)["status"] == "queued"
    magichour.end_project(project_id, "error", "processing_timeout", "Too slow")
    assert get(magichour, "image", project_id)["error"]["code"] == "processing_timeout"
    with pytest.raises(KeyError):
        magichour.end_project("none")


def test_large_outputs_are_the_same_in_pieces_and_whole(magichour: Simulator) -> None:
    size = 3_000_000
    magichour.faults({"output_bytes": size})
    for kind in ("image", "video", "audio"):
        project = make(magichour, kind)
        whole = download(project).content
        assert len(whole) == size
        cuts = [0, 1, 65_536, 70_001, 1_500_000, size - 20, size]
        pieces = [
            download(project, Range=f"bytes={first}-{last - 1}").content
            for first, last in itertools.pairwise(cuts)
        ]
        assert hashlib.sha256(b"".join(pieces)).digest() == hashlib.sha256(whole).digest()
        assert len({whole[at : at + 65_536] for at in range(1_000_000, 2_000_000, 65_536)}) > 10


def test_a_closed_connection_ends_the_download(magichour: Simulator) -> None:
    magichour.faults({"output_bytes": 500_000_000, "match": {"tool": "ai-voice-generator"}})
    with session(magichour) as http:
        project_id = http.post(f"{magichour.url}/v1/ai-voice-generator", json=AUDIO).json()["id"]
        project = http.get(f"{magichour.url}/v1/audio-projects/{project_id}").json()
        while not project["downloads"]:
            project = http.get(f"{magichour.url}/v1/audio-projects/{project_id}").json()
    with requests.get(project["downloads"][0]["url"], stream=True, timeout=60) as response:
        response.raw.read(100_000)
    until = time.monotonic() + 60
    while magichour.state()["in_flight"]["now"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert magichour.state()["projects"][project_id]["downloaded_bytes"] < 100_000_000
    assert json.dumps(magichour.state())

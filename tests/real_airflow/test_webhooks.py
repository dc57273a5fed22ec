"""Webhooks through a real API server: what Magic Hour sends starts a DAG, which saves the files."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_provider_magichour._transfer import receipts
from airflow_provider_magichour.simulator import Simulator
from airflow_provider_magichour.webhooks.events import asset_uri
from scripts.local import LocalAirflow
from scripts.local.client import wait_until

CONN_ID = "magichour_webhooks"
DAG_ID = "magichour_on_completed"
SECRET = "whsec_real_airflow"


@pytest.fixture(scope="module")
def magic_hour(real_airflow: LocalAirflow) -> Iterator[Simulator]:
    """A Magic Hour that sends each webhook twice to the real Airflow, which knows its account."""
    endpoint = f"{real_airflow.url}/magichour/webhooks/{CONN_ID}"
    if requests.post(endpoint, timeout=30).status_code == 405:
        pytest.skip("the package runs from its folder, it is not installed")
    real_airflow.wait_for_dag(DAG_ID)
    real_airflow.api("PATCH", f"/dags/{DAG_ID}", json={"is_paused": False})
    settings = {"duration": 1.0, "webhook_url": endpoint, "webhook_secret": SECRET, "webhook_duplicates": 1}
    with Simulator(**settings) as simulator:
        connection = {
            "connection_id": CONN_ID,
            "conn_type": "magichour",
            "host": simulator.url,
            "password": simulator.api_key,
            "extra": json.dumps({"webhook_secret": SECRET}),
        }
        real_airflow.api("POST", "/connections", json=connection)
        yield simulator


@pytest.fixture(scope="module")
def destination(real_airflow: LocalAirflow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the example saves into."""
    folder = tmp_path_factory.mktemp("completed")
    variable = {"key": "magichour_destination", "value": folder.as_uri()}
    real_airflow.api("POST", "/variables", json=variable)
    return folder


def make(simulator: Simulator, tool: str, body: dict[str, Any]) -> str:
    """Start a project as somebody else would, whom Airflow does not know of."""
    answer = requests.post(
        f"{simulator.url}/v1/{tool}",
        json=body,
        headers={"Authorization": f"Bearer {simulator.api_key}"},
        timeout=30,
    )
    answer.raise_for_status()
    return str(answer.json()["id"])


def saved(destination: Path) -> set[str]:
    """Return the projects that have a receipt, hence all their files."""
    return {path.parent.name for path in destination.glob(f"*/{receipts.FILE_NAME}")}


def asset_events(airflow: LocalAirflow, kind: str, what: str) -> list[dict[str, Any]]:
    found = airflow.api("GET", "/assets", params={"uri_pattern": asset_uri(kind, what)})["assets"]
    params = {"asset_id": found[0]["id"], "limit": 100}
    return list(airflow.api("GET", "/assets/events", params=params)["asset_events"])


IMAGE = {"image_count": 1, "style": {"prompt": "a buoy"}, "resolution": "auto"}


def test_completed_project_starts_the_example_and_stores_its_file(
    real_airflow: LocalAirflow, magic_hour: Simulator, destination: Path
) -> None:
    project_id = make(
        magic_hour, "ai-voice-generator", {"style": {"prompt": "hello", "voice_name": "Elon Musk"}}
    )
    wait_until(lambda: project_id in saved(destination), 120, "the file")
    (file,) = (path for path in (destination / project_id).iterdir() if path.suffix == ".wav")
    assert file.read_bytes().startswith(b"RIFF")
    (event,) = asset_events(real_airflow, "audio", "completed")
    assert event["extra"]["id"] == project_id
    (run,) = event["created_dagruns"]
    assert real_airflow.wait_for_run(DAG_ID, run["run_id"]) == "success"
    sent = [each for each in magic_hour.state()["webhooks"] if each["type"] == "audio.completed"]
    assert [each["status"] for each in sent] == [200, 200]


def test_burst_of_webhooks_loses_no_event(
    real_airflow: LocalAirflow, magic_hour: Simulator, destination: Path
) -> None:
    made = {make(magic_hour, "ai-image-generator", IMAGE) for _ in range(8)}
    wait_until(lambda: made <= saved(destination), 120, "all files")
    events = asset_events(real_airflow, "image", "completed")
    assert sorted(event["extra"]["id"] for event in events) == sorted(made)
    assert all(len(event["created_dagruns"]) == 1 for event in events)


def test_forged_webhook_writes_nothing(real_airflow: LocalAirflow, magic_hour: Simulator) -> None:
    before = len(asset_events(real_airflow, "video", "completed"))
    body = json.dumps({"type": "video.completed", "payload": {"id": "forged"}}).encode()
    now = str(int(time.time()))
    digest = hmac.new(b"guessed", now.encode() + b"." + body, hashlib.sha256).hexdigest()
    headers = {"magic-hour-event-timestamp": now, "magic-hour-event-signature": digest}
    for conn_id in (CONN_ID, "magichour_default", "unknown"):
        url = f"{real_airflow.url}/magichour/webhooks/{conn_id}"
        answers = [
            requests.post(url, data=body, headers=headers, timeout=30),
            requests.post(url, data=body, headers={**headers, "Cookie": "_token=x"}, timeout=30),
            requests.post(url, data=body, timeout=30),
        ]
        assert {(answer.status_code, answer.text) for answer in answers} == {
            (401, '{"detail":"not signed by Magic Hour"}')
        }
    assert len(asset_events(real_airflow, "video", "completed")) == before
    log = real_airflow.processes.log_text("api-server")
    assert "Refused a Magic Hour webhook for connection 'unknown'" in log
    assert SECRET not in log

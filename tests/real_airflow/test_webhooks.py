"""Webhooks through a real Airflow: what Magic Hour sends starts a DAG, which saves the files."""

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

from airflow_provider_magichour.simulator import Simulator
from airflow_provider_magichour.webhooks.events import asset_uri
from scripts.local import LocalAirflow
from scripts.local.client import wait_until
from scripts.local.processes import free_port
from scripts.local.webhooks import start_receiver

pytestmark = pytest.mark.timeout(1200)

CONN_ID = "magichour_webhooks"
DAG_ID = "magichour_on_completed"
SECRET = "whsec_real_airflow"
IMAGE = {"image_count": 1, "style": {"prompt": "a buoy"}, "resolution": "auto"}
VOICE = {"style": {"prompt": "hello", "voice_name": "Elon Musk"}}


@pytest.fixture(scope="module")
def receiver(real_airflow: LocalAirflow) -> Iterator[str]:
    """The receiver as its own process beside the real Airflow."""
    url = start_receiver(real_airflow, {CONN_ID: SECRET}, free_port(), parallel=1)  # its database is SQLite
    yield url
    real_airflow.processes.kill("webhooks")


@pytest.fixture(scope="module")
def magic_hour(real_airflow: LocalAirflow, receiver: str) -> Iterator[Simulator]:
    """A Magic Hour that sends each webhook twice, and whose account the real Airflow knows."""
    real_airflow.unpause(DAG_ID)
    settings: dict[str, Any] = {
        "duration": 1.0,
        "webhook_url": f"{receiver}/magichour/webhooks/{CONN_ID}",
        "webhook_secret": SECRET,
        "webhook_duplicates": 1,
    }
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
    response = requests.post(
        f"{simulator.url}/v1/{tool}",
        json=body,
        headers={"Authorization": f"Bearer {simulator.api_key}"},
        timeout=30,
    )
    response.raise_for_status()
    return str(response.json()["id"])


def saved(destination: Path) -> dict[str, list[str]]:
    """Return the names of the complete media files of each project."""
    found: dict[str, list[str]] = {}
    for path in destination.glob("*/*"):
        if path.suffix in {".png", ".wav", ".mp4"} and not path.name.startswith("."):
            found.setdefault(path.parent.name, []).append(path.name)
    return found


def asset_events(airflow: LocalAirflow, kind: str, event: str) -> list[dict[str, Any]]:
    found = airflow.api("GET", "/assets", params={"uri_pattern": asset_uri(kind, event)})["assets"]
    params = {"asset_id": found[0]["id"], "limit": 100}
    return list(airflow.api("GET", "/assets/events", params=params)["asset_events"])


def test_completed_project_starts_the_example_and_its_file_is_saved(
    real_airflow: LocalAirflow, magic_hour: Simulator, destination: Path, receiver: str
) -> None:
    project_id = make(magic_hour, "ai-voice-generator", VOICE)
    wait_until(lambda: project_id in saved(destination), 120, "the file")
    (name,) = saved(destination)[project_id]
    assert (destination / project_id / name).read_bytes().startswith(b"RIFF")
    events = asset_events(real_airflow, "audio", "completed")
    assert {event["extra"]["id"] for event in events} == {project_id}
    assert "downloads" not in events[0]["extra"]["project"]
    # The run may be the event's or the hour's: the example has both schedules.
    runs = [run["dag_run_id"] for run in real_airflow.runs(DAG_ID)]
    assert {real_airflow.wait_for_run(DAG_ID, run_id) for run_id in runs} == {"success"}
    # A busy Airflow may refuse them at first.
    wait_until(lambda: len(of_type(magic_hour, "audio.completed", 200)) >= 2, 120, "both deliveries")
    statuses = [one["status"] for one in of_type(magic_hour, "audio.completed")]
    assert [status for status in statuses if status not in {503, None}] == [200, 200]
    health = requests.get(f"{receiver}/health", timeout=30).json()
    assert health["accepted"] >= 2
    assert health["unused"] >= 2  # no DAG uses audio.started


def of_type(simulator: Simulator, type_: str, status: int | None = None) -> list[dict[str, Any]]:
    sent = [each for each in simulator.state()["webhooks"] if each["type"] == type_]
    return [each for each in sent if status in {None, each["status"]}]


def test_no_event_of_a_burst_is_left_behind(
    real_airflow: LocalAirflow, magic_hour: Simulator, destination: Path
) -> None:
    made = {make(magic_hour, "ai-image-generator", IMAGE) for _ in range(8)}
    wait_until(lambda: len(of_type(magic_hour, "image.completed", 200)) >= 16, 120, "all deliveries")
    real_airflow.trigger(DAG_ID)  # as the hour does, for an event that started no run
    wait_until(lambda: made <= set(saved(destination)), 600, "all files")
    assert {len(saved(destination)[project_id]) for project_id in made} == {1}


def test_plugin_accepts_the_same_webhooks_at_the_old_url(
    real_airflow: LocalAirflow, magic_hour: Simulator
) -> None:
    """Its connections are those of the configuration; the fixture lists one that is not this account's."""
    url = f"{real_airflow.url}/magichour/webhooks"
    body = json.dumps({"type": "video.completed", "payload": {"id": "plugin"}}).encode()
    responses: list[requests.Response] = []

    def is_taken() -> bool:
        responses.append(requests.post(f"{url}/{CONN_ID}", data=body, headers=sign(body), timeout=30))
        return responses[-1].status_code != 503  # a busy Airflow asks for it again

    wait_until(is_taken, 120, "the plugin to take the webhook")
    assert responses[-1].json() == {"status": "accepted"}
    events = asset_events(real_airflow, "video", "completed")
    assert {event["extra"]["id"] for event in events} == {"plugin"}
    assert len(events) <= len(responses)
    assert events[0]["extra"]["magichour_conn_id"] == CONN_ID
    magic_hour.state()


def sign(body: bytes, secret: str = SECRET) -> dict[str, str]:
    now = str(int(time.time()))
    digest = hmac.new(secret.encode(), now.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"magic-hour-event-timestamp": now, "magic-hour-event-signature": digest}


def test_forged_webhook_writes_nothing(
    real_airflow: LocalAirflow, magic_hour: Simulator, receiver: str
) -> None:
    before = len(asset_events(real_airflow, "video", "completed"))
    body = json.dumps({"type": "video.completed", "payload": {"id": "forged"}}).encode()
    for root in (real_airflow.url, receiver):
        for conn_id in (CONN_ID, "magichour_default", "unknown"):
            url = f"{root}/magichour/webhooks/{conn_id}"
            responses = [
                requests.post(url, data=body, headers=sign(body, "guessed"), timeout=30),
                requests.post(
                    url, data=body, headers={**sign(body, "guessed"), "Cookie": "_token=x"}, timeout=30
                ),
                requests.post(url, data=body, timeout=30),
            ]
            assert {(response.status_code, response.text) for response in responses} == {
                (401, '{"detail":"not signed by Magic Hour"}')
            }
    assert len(asset_events(real_airflow, "video", "completed")) == before
    for log in ("api-server", "webhooks"):
        text = real_airflow.processes.log_text(log)
        assert "Refused a Magic Hour webhook for connection 'unknown'" in text
        assert SECRET not in text

"""No key and no webhook secret in any log, table or trigger of a real Airflow, whatever goes wrong."""

from __future__ import annotations

import configparser
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from airflow_provider_magichour.simulator import Simulator
from scripts.local import LocalAirflow
from tests.distributed.secret_search import find_in_database, find_in_files, trigger_kwargs
from tests.support.scripted_server import Reply, ScriptedServer, Seen, scripted_server

#: With what JSON, URLs and HTML write in another way.
KEY = f"mhk_/good+{secrets.token_hex(16)}=="
WRONG_KEY = f"mhk_wrong_{secrets.token_hex(16)}"
WEBHOOK_SECRET = f"whsec_{secrets.token_hex(16)}"
SECRETS = [KEY, WRONG_KEY, WEBHOOK_SECRET]
#: What a DAG prints on purpose, so that Airflow's masker has to hide it.
PRINTED = [f"mhk_printed_{secrets.token_hex(16)}", f"whsec_printed_{secrets.token_hex(16)}"]
#: The tasks that are meant to fail; all others end well.
FAILED = {"wait_secrets_wrong", "wait_secrets_echo", "create_secrets_echo", "create_secrets_refused"}


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator(duration=2, api_key=KEY) as simulator:
        yield simulator


@pytest.fixture
def echo() -> Iterator[ScriptedServer]:
    """Start a server that repeats the request in its response, as a careless proxy does."""

    def response(seen: Seen) -> Reply:
        quoted = json.dumps(f"cannot take {dict(seen.headers)}").replace("/", "\\/")
        return Reply(403, f'{{"message": {quoted}}}'.encode())

    with scripted_server() as server:
        server.respond = response
        yield server


@pytest.fixture
def connections(real_airflow: LocalAirflow, sim: Simulator, echo: ScriptedServer) -> Iterator[None]:
    made = {
        "secrets_good": (sim.url, KEY),
        "secrets_wrong": (sim.url, WRONG_KEY),
        "secrets_echo": (echo.url, KEY),
        "secrets_refused": ("http://127.0.0.1:1", KEY),
        "secrets_printed": (sim.url, PRINTED[0]),
    }
    said = []
    for conn_id, (host, key) in made.items():
        body = {
            "connection_id": conn_id,
            "conn_type": "magichour",
            "host": host,
            "password": key,
            "extra": json.dumps(
                {"webhook_secret": PRINTED[1] if key in PRINTED else WEBHOOK_SECRET, "max_attempts": 1}
            ),
        }
        said.append(real_airflow.api("POST", "/connections", json=body))
        said.append(real_airflow.api("POST", "/connections/test", json=body))
    yield
    for conn_id in made:
        said.append(real_airflow.api("GET", f"/connections/{conn_id}"))
        real_airflow.api("DELETE", f"/connections/{conn_id}")
    told = [json.dumps(response.get("message") or response) for response in said]
    assert "Connected to Magic Hour" in told[1]
    assert not [
        position for position, text in enumerate(told) if any(each in text for each in [*SECRETS, *PRINTED])
    ]


def fernet_key(home: Path) -> str:
    config = configparser.RawConfigParser()
    config.read(home / "airflow.cfg")
    return config["core"]["fernet_key"]


def waiting_project(sim: Simulator) -> str:
    """Make a project that renders until it is told to end."""
    sim.faults({"match": {"tool": "ai-qr-code-generator"}, "duration": 3600})
    response = requests.post(
        f"{sim.url}/v1/ai-qr-code-generator",
        json={"content": "https://magichour.ai", "style": {"art_style": "stars"}},
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=30,
    )
    response.raise_for_status()
    return str(response.json()["id"])


@pytest.mark.usefixtures("connections")
def test_no_secret_is_stored_or_logged(real_airflow: LocalAirflow, sim: Simulator, tmp_path: Path) -> None:
    project_id = waiting_project(sim)
    run = real_airflow.trigger("secrets", {"destination": str(tmp_path), "project_id": project_id})
    real_airflow.wait_for_task("secrets", run, "deferred", ["deferred"])
    url, fernet = real_airflow.database_url, fernet_key(real_airflow.home)
    assert any(project_id in kwargs for kwargs in trigger_kwargs(url, fernet).values())
    assert find_in_database(url, SECRETS, fernet_key=fernet) == []  # the triggers' rows are gone afterwards
    sim.end_project(project_id)

    assert real_airflow.wait_for_run("secrets", run, timeout=400) == "failed"
    states = {task["task_id"]: task["state"] for task in real_airflow.task_instances("secrets", run)}
    logs = {task_id: real_airflow.task_log("secrets", run, task_id) for task_id in states}
    failed = {task_id for task_id, state in states.items() if state != "success"}
    assert failed == FAILED, "\n".join(logs[task_id] for task_id in failed - FAILED)
    assert "the key is ***, the secret is ***" in logs["printed"]  # Airflow's masker knows them
    assert "401" in logs["wait_secrets_wrong"]
    for task_id in ("wait_secrets_echo", "create_secrets_echo"):
        assert "Bearer ***" in logs[task_id]

    found = find_in_files(real_airflow.home, SECRETS)
    # Airflow 3.3 repeats what a task logs on the console of its executor, before the masker saw it.
    found += find_in_files(real_airflow.home, PRINTED, ignored=["scheduler.log"])
    found += find_in_database(url, [*SECRETS, *PRINTED], fernet_key=fernet)
    assert found == []

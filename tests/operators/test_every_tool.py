"""For each tool: the documented example body arrives as it is, and as the official client sends it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import httpx
import magic_hour
import pytest

from airflow_provider_magichour.operators import MagicHourCreateProjectOperator
from airflow_provider_magichour.simulator import Simulator
from airflow_provider_magichour.tools import TOOLS
from tests.simulator.support import EXAMPLE_BODIES
from tests.support.airflow import connection_json
from tests.support.tasks import task_context


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(duration=0.1) as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def _connection(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    sim.reset()
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", connection_json(sim.url, sim.api_key))


def received(sim: Simulator) -> list[Any]:
    return [project["body"] for project in sim.state()["projects"].values()]


@pytest.mark.parametrize("tool", TOOLS)
def test_documented_example_body_is_accepted(sim: Simulator, tool: str) -> None:
    body = EXAMPLE_BODIES[tool]
    made = MagicHourCreateProjectOperator(task_id="create", tool=tool, body=body).execute(task_context())
    project = sim.state()["projects"][made["id"]]
    assert project["kind"] == made["kind"] == TOOLS[tool].kind
    assert project["body"] == body


@pytest.mark.parametrize("tool", TOOLS)
def test_official_client_sends_the_same_body(sim: Simulator, tool: str) -> None:
    with httpx.Client(timeout=60) as http:
        client = magic_hour.Client(token=sim.api_key, base_url=sim.url, httpx_client=http)
        create = getattr(client.v1, tool.replace("-", "_")).create
        known = inspect.signature(create).parameters
        body = {name: value for name, value in EXAMPLE_BODIES[tool].items() if name in known}
        create(**body)
    MagicHourCreateProjectOperator(task_id="create", tool=tool, body=body).execute(task_context())
    official, ours = received(sim)
    assert official == ours
    sent = [request["headers"] for request in sim.requests("create_project")]
    assert sent[0]["content-type"] == sent[1]["content-type"] == "application/json"

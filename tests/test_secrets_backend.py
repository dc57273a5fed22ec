"""The connection comes from a secrets backend, which may be out of reach for a while."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._polling import refreshing_sender, wait
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.sensors import MagicHourProjectSensor
from airflow_provider_magichour.triggers import MagicHourProjectTrigger
from tests.support.airflow import AIRFLOW_VERSION, connection_json
from tests.support.projects import KEY, Projects, project
from tests.support.scripted_server import Reply, scripted_server
from tests.support.tasks import run_task, run_trigger, task_context
from tests.support.vault import Vault

NEW_KEY = "mhk_live_the_next"
DONE = {"kind": "image", "outcomes": {"p1": "complete"}}


@pytest.fixture
def projects(monkeypatch: pytest.MonkeyPatch) -> Iterator[Projects]:
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", f"{Vault.__module__}.{Vault.__name__}")
    if AIRFLOW_VERSION >= (3, 2):  # it keeps the backends that it made first
        monkeypatch.setattr("airflow.sdk.configuration._secrets_backend_cache", {}, raising=False)
    monkeypatch.setattr(wait, "JOIN_PAUSES", (0.01,) * 4)
    monkeypatch.setattr(refreshing_sender, "REREAD_PAUSE", 0.1)
    with scripted_server() as server:
        monkeypatch.setattr(Vault, "connections", {"vaulted": connection_json(server.url, KEY)})
        monkeypatch.setattr(Vault, "away", 0)
        monkeypatch.setattr(Vault, "reads", 0)
        yield Projects(server)


def trigger(seconds: float = 30) -> MagicHourProjectTrigger:
    return MagicHourProjectTrigger("image", ["p1"], "vaulted", time.time() + seconds, 0.05)


def test_hook_reads_the_connection_from_the_backend(projects: Projects) -> None:
    assert MagicHourHook("vaulted").get_project("image", "p1") == project("p1")
    with pytest.raises(errors.MagicHourConnectionNotFoundError, match="elsewhere"):
        MagicHourHook("elsewhere").get_project("image", "p1")


@pytest.mark.parametrize("how", [{"deferrable": True}, {"deferrable": False}])
def test_sensor_reads_the_connection_from_the_backend(projects: Projects, how: dict[str, bool]) -> None:
    projects.script("p1", "rendering", "complete")
    sensor = MagicHourProjectSensor(
        task_id="wait", project_id="p1", kind="image", magichour_conn_id="vaulted", poll_interval=0.05, **how
    )
    assert run_task(sensor, task_context("wait")) == {**project("p1"), "kind": "image"}


def test_trigger_waits_through_a_short_backend_outage(projects: Projects) -> None:
    Vault.away = 3
    assert run_trigger(trigger()) == DONE
    assert Vault.reads > 3


def test_trigger_gives_up_after_a_lasting_backend_outage(projects: Projects) -> None:
    Vault.away = 1000
    event = run_trigger(trigger())
    assert event["error"]["class"] == "MagicHourConnectionNotFoundError"
    assert "vaulted" in event["error"]["args"][0]


def test_401_does_not_end_a_wait_during_a_backend_outage(projects: Projects) -> None:
    def replaced() -> Reply:
        projects.keys = {NEW_KEY}
        Vault.connections = {"vaulted": connection_json(projects.server.url, NEW_KEY)}
        Vault.away = 5
        return Reply(200, project("p1", "rendering"))

    projects.script("p1", "rendering", replaced, "complete")
    assert run_trigger(trigger()) == DONE
    assert Vault.away == 0
    assert {seen.headers["authorization"] for seen in projects.server.seen} == {
        f"Bearer {KEY}",
        f"Bearer {NEW_KEY}",
    }


def test_401_ends_the_wait_once_the_backend_returns_the_same_key(projects: Projects) -> None:
    def revoked() -> Reply:
        projects.keys = set()
        Vault.away = 3
        return Reply(200, project("p1", "rendering"))

    projects.script("p1", revoked)
    assert run_trigger(trigger())["error"]["class"] == "MagicHourAuthenticationError"
    assert Vault.away == 0


def test_401_during_a_lasting_backend_outage_is_raised_at_the_deadline(projects: Projects) -> None:
    def away() -> Reply:
        Vault.away = 10**6
        return Reply(401, {"message": "Invalid API key"})

    projects.script("p1", away)
    error = run_trigger(trigger(3))["error"]
    assert error["class"] == "MagicHourTimeoutError"
    assert "401" in error["args"][0]
    assert Vault.reads <= 2 + 2 * math.ceil(3 / 0.1)  # no flood of them

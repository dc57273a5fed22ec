"""
In a real Airflow: workers and the triggerer are killed outright, and no project is paid for twice.

By default each case happens once; ``MAGICHOUR_KILLS=5`` makes it five times, 40 tasks, which takes minutes.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour.simulator import Simulator
from scripts.local import LocalAirflow
from scripts.local.client import wait_until

EACH = int(os.environ.get("MAGICHOUR_KILLS", "1"))
#: Killed here, the task goes on with its project.
GOES_ON = ("persisted", "download", "returned")
#: Killed here, nobody knows whether the create call was accepted; here is how often it was.
UNCERTAIN = {"intent": 0, "unanswered": 1, "answered": 1}


@pytest.fixture
def sim(real_airflow: LocalAirflow) -> Iterator[Simulator]:
    with Simulator(duration=6, output_bytes=2_000_000) as simulator:
        simulator.faults(
            {"match": {"tool": "ai-meme-generator"}, "delay_after": 6},
            {"match": {"tool": "ai-qr-code-generator"}, "duration": 3600, "delay_after": 0.5},
            {"match": {"route": "download"}, "drip_bytes": 100_000, "drip_seconds": 0.1},
        )
        real_airflow.api(
            "POST",
            "/connections",
            json={
                "connection_id": "magichour_killed",
                "conn_type": "magichour",
                "host": simulator.url,
                "password": simulator.api_key,
            },
        )
        yield simulator
        real_airflow.api("DELETE", "/connections/magichour_killed")


def made(sim: Simulator) -> Counter[str]:
    """Return how many projects there are of each name: how often each was paid for."""
    return Counter(str(project["name"]) for project in sim.state()["projects"].values())


def names(steps: dict[str, list[str]]) -> list[tuple[str, str, int, str]]:
    return [
        (step, mode, position, f"{step} {mode} {position}")
        for mode, listed in steps.items()
        for position, step in enumerate(listed)
    ]


def check_files(result: dict[str, Any]) -> None:
    (file,) = result["files"]
    content = Path(file["path"]).read_bytes()
    assert len(content) == file["bytes"] == 2_000_000
    assert hashlib.sha256(content).hexdigest() == file["sha256"]


def kill_the_triggerer(real_airflow: LocalAirflow, sim: Simulator, run: str, waiting: int) -> None:
    """Kill it while tasks wait whose projects take long; these are finished before it is back."""

    def projects() -> list[str]:
        return [
            project_id
            for project_id, project in sim.state()["projects"].items()
            if project["tool"] == "ai-qr-code-generator" and project["gets"]
        ]

    wait_until(lambda: len(projects()) == waiting, 60 + 60 * EACH, "the first status checks")
    real_airflow.kill("triggerer")
    for project_id in projects():
        sim.end_project(project_id)
    real_airflow.start("triggerer")


def test_killed_tasks_pay_once(real_airflow: LocalAirflow, sim: Simulator, tmp_path: Path) -> None:
    steps = {
        "sync": ["wait", "wiped", *UNCERTAIN] * EACH,
        "deferred": ["lives"] * EACH + [*GOES_ON] * EACH,
    }
    run = real_airflow.trigger("killed", {**steps, "destination": str(tmp_path)})
    kill_the_triggerer(real_airflow, sim, run, waiting=EACH)
    assert real_airflow.wait_for_run("killed", run, timeout=180 + 60 * EACH) == "failed"

    count = made(sim)
    for step, mode, position, name in names(steps):
        instance = real_airflow.task_instance("killed", run, mode, position)
        log = real_airflow.task_log("killed", run, mode, map_index=position)
        assert instance["try_number"] == (1 if step == "lives" else 2), f"{name} was not killed:\n{log}"
        if step in UNCERTAIN:
            assert count[name] == UNCERTAIN[step], f"{name}:\n{log}"
            assert instance["state"] == "failed", name
            assert "MagicHourUncertainSubmitError" in log
            assert "https://magichour.ai/my-library" in log
        else:
            assert count[name] == 1, f"{name}:\n{log}"
            assert instance["state"] == "success", f"{name}:\n{log}"
            check_files(real_airflow.xcom("killed", run, mode, map_index=position))

    # A person has looked, and clears: what was uncertain and what succeeded is submitted anew.
    real_airflow.clear("killed", run, ["sync"])
    assert real_airflow.wait_for_run("killed", run, timeout=120 + 60 * EACH) == "success"
    again = made(sim)
    for step, mode, position, name in names(steps):
        if mode == "sync":
            assert again[name] == UNCERTAIN.get(step, 1) + 1
            check_files(real_airflow.xcom("killed", run, mode, map_index=position))
        else:
            assert again[name] == 1


def test_only_a_kill_by_a_person_deletes(real_airflow: LocalAirflow, sim: Simulator) -> None:
    run = real_airflow.trigger("killed_on_purpose")
    real_airflow.wait_for_task("killed_on_purpose", run, "generate", ["deferred"])
    wait_until(lambda: sim.requests("get_project"), 120, "the first status check")
    (project_id,) = sim.state()["projects"]

    real_airflow.kill("triggerer", signal.SIGTERM)
    before = len(sim.requests("get_project"))
    real_airflow.start("triggerer")
    wait_until(
        lambda: len(sim.requests("get_project")) > before, 120, "the first status check of the next triggerer"
    )
    assert sim.requests("delete_project") == []

    real_airflow.mark("killed_on_purpose", run, "generate", "failed")
    wait_until(lambda: not sim.state()["projects"][project_id]["enabled"], 120, "the project to be deleted")


def test_killed_list_stops_and_clears_pay_for_the_rest(real_airflow: LocalAirflow, sim: Simulator) -> None:
    dag_id = "stopped_and_cleared"
    run = real_airflow.trigger(dag_id)
    wait_until(lambda: made(sim).total() >= 6, 120, "the list to be submitted")
    real_airflow.mark(dag_id, run, "list", "failed")
    time.sleep(5)
    stopped = made(sim)
    assert sum(name.startswith("list") for name in stopped.elements()) < 40
    time.sleep(3)
    assert made(sim) == stopped

    # Another task is cleared while this one waits for its retry: that is no Clear of this one.
    real_airflow.wait_for_task(dag_id, run, "up_for_retry", ["up_for_retry"])
    real_airflow.clear(dag_id, run, ["other", "list"])
    real_airflow.wait_for_task(dag_id, run, "up_for_retry", ["success"])
    real_airflow.wait_for_task(dag_id, run, "list", ["success"])
    assert set(made(sim).values()) == {1}
    assert made(sim).total() == 41

    real_airflow.clear(dag_id, run, ["up_for_retry"])
    assert real_airflow.wait_for_run(dag_id, run) == "success"
    assert made(sim)["raises"] == 2

"""
In a real Airflow: workers and the triggerer are killed with SIGKILL, and no project is paid for twice.

By default each case happens once; ``MAGICHOUR_KILLS=5`` makes it five times, 40 tasks, which takes minutes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour.simulator import Simulator
from scripts.local import LocalAirflow
from scripts.local.client import wait_until

pytestmark = pytest.mark.timeout(1200)

EACH = int(os.environ.get("MAGICHOUR_KILLS", "1"))
#: Killed here, the task continues with its project.
GOES_ON = ("persisted", "download", "returned")
#: Killed here, it is unknown whether the create call was accepted; here is how often it was.
UNCERTAIN = {"intent": 0, "unanswered": 1, "answered": 1}


@pytest.fixture
def sim(real_airflow: LocalAirflow) -> Iterator[Simulator]:
    with Simulator(duration=6, output_bytes=2_000_000) as simulator:
        simulator.faults(
            {"match": {"tool": "ai-meme-generator"}, "delay_after": 25},
            {"match": {"tool": "ai-qr-code-generator"}, "duration": 3600, "delay_after": 2},
            {"match": {"route": "download"}, "drip_bytes": 100_000, "drip_seconds": 0.1},
        )
        real_airflow.replace_connection("magichour_killed", simulator.connection_uri)
        yield simulator


def made(sim: Simulator) -> Counter[str]:
    """Return how many projects there are of each name: how often each was paid for."""
    return Counter(str(project["name"]) for project in sim.state()["projects"].values())


def size_of_list(sim: Simulator) -> int:
    """Return how many projects of the list there are."""
    return sum(name.startswith("list") for name in made(sim).elements())


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

    # A person has looked, and clears: what was uncertain and what succeeded is submitted again.
    real_airflow.clear("killed", run, ["sync"])
    assert real_airflow.wait_for_run("killed", run, timeout=120 + 60 * EACH) == "success"
    again = made(sim)
    for step, mode, position, name in names(steps):
        if mode == "sync":
            assert again[name] == UNCERTAIN.get(step, 1) + 1
            check_files(real_airflow.xcom("killed", run, mode, map_index=position))
        else:
            assert again[name] == 1


def test_killed_list_stops_and_clears_pay_for_the_rest(real_airflow: LocalAirflow, sim: Simulator) -> None:
    dag_id = "stopped_and_cleared"
    run = real_airflow.trigger(dag_id)
    wait_until(lambda: size_of_list(sim) >= 6, 120, "the list to be submitted")
    _, process = real_airflow.wait_for_task_pids(dag_id, run, "list")
    real_airflow.mark(dag_id, run, "list", "failed")
    wait_until(lambda: process not in real_airflow.processes.marked_pids(), 120, "the end of the list")
    stopped = size_of_list(sim)
    assert stopped < 40
    time.sleep(3)
    assert size_of_list(sim) == stopped

    # Another task is cleared while this one waits for its retry: that is no Clear of this one.
    (real_airflow.home / "killed_may_fail").touch()
    real_airflow.wait_for_task(dag_id, run, "up_for_retry", ["up_for_retry"])
    real_airflow.clear(dag_id, run, ["other", "list"])
    real_airflow.wait_for_task(dag_id, run, "up_for_retry", ["success"])
    real_airflow.wait_for_task(dag_id, run, "list", ["success"])
    assert set(made(sim).values()) == {1}
    assert made(sim).total() == 41

    # Until the scheduler has ended the run, it may undo what a Clear does to the run's state.
    assert real_airflow.wait_for_run(dag_id, run) == "success"
    real_airflow.clear(dag_id, run, ["up_for_retry"])
    assert real_airflow.wait_for_run(dag_id, run) == "success"
    assert made(sim)["raises"] == 2

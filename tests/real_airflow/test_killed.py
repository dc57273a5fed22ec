"""
In a real Airflow: workers and the triggerer are killed outright, and no project is paid for twice.

By default each case happens once; ``MAGICHOUR_KILLS=5`` makes it five times (the 30 runs and more of the
documentation), which takes some minutes.
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
from scripts.local_airflow import LocalAirflow

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


def check_files(result: dict[str, Any], sim: Simulator) -> None:
    (file,) = result["files"]
    content = Path(file["path"]).read_bytes()
    assert len(content) == file["bytes"] == 2_000_000
    assert hashlib.sha256(content).hexdigest() == file["sha256"]


def wait_until(condition: Any, what: str, timeout: float = 120) -> None:
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.2)


def test_killed_workers_never_pay_twice(real_airflow: LocalAirflow, sim: Simulator, tmp_path: Path) -> None:
    steps = {
        "sync": ["wait", *UNCERTAIN] * EACH,
        "deferred": [*GOES_ON] * EACH,
    }
    run = real_airflow.trigger("killed", {**steps, "destination": str(tmp_path)})
    assert real_airflow.wait_for_run("killed", run, timeout=120 + 60 * EACH) == "failed"

    count = made(sim)
    for step, mode, position, name in names(steps):
        instance = real_airflow.task_instance("killed", run, mode, position)
        log = real_airflow.task_log("killed", run, mode, map_index=position)
        assert instance["try_number"] == 2, f"{name} was not killed:\n{log}"
        if step in UNCERTAIN:
            assert count[name] == UNCERTAIN[step], f"{name}:\n{log}"
            assert instance["state"] == "failed", name
            assert "MagicHourUncertainSubmitError" in log
            assert "https://magichour.ai/my-library" in log
        else:
            assert count[name] == 1, f"{name}:\n{log}"
            assert instance["state"] == "success", f"{name}:\n{log}"
            check_files(real_airflow.xcom("killed", run, mode, map_index=position), sim)

    # A person has looked, and clears what was uncertain: it is submitted anew.
    real_airflow.clear("killed", run, ["sync"])
    assert real_airflow.wait_for_run("killed", run, timeout=120 + 30 * EACH) == "success"
    again = made(sim)
    for step, mode, position, name in names(steps):
        if step in UNCERTAIN:
            assert again[name] == UNCERTAIN[step] + 1
        if mode == "sync":
            check_files(real_airflow.xcom("killed", run, mode, map_index=position), sim)


def test_a_killed_triggerer_loses_nothing(real_airflow: LocalAirflow, sim: Simulator, tmp_path: Path) -> None:
    steps = {"deferred": ["lives"] * (2 * EACH)}
    run = real_airflow.trigger("killed", {**steps, "destination": str(tmp_path)})

    def all_are_deferred() -> bool:
        found = [one for one in real_airflow.task_instances("killed", run) if one["task_id"] == "deferred"]
        return len(found) == 2 * EACH and all(one["state"] == "deferred" for one in found)

    sim.faults({"duration": 600})
    wait_until(all_are_deferred, "all tasks to be deferred", 60 + 15 * EACH)
    wait_until(lambda: sim.requests("get_project"), "a look at the projects")
    real_airflow.kill("triggerer")
    for project_id in sim.state()["projects"]:
        sim.end_project(project_id)
    real_airflow.start("triggerer")
    assert real_airflow.wait_for_run("killed", run, timeout=180) == "success"
    assert made(sim) == Counter({name: 1 for *_, name in names(steps)})
    for position in range(2 * EACH):
        assert real_airflow.task_instance("killed", run, "deferred", position)["try_number"] == 1
        check_files(real_airflow.xcom("killed", run, "deferred", map_index=position), sim)

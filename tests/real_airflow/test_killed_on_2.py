"""In a real Airflow 2, which has no task state: killed tasks pay once, by the records in the destination."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_magichour.simulator import Simulator
from scripts.local.client import wait_until
from tests.support.airflow import IS_AIRFLOW_3
from tests.support.airflow_2 import Airflow2

pytestmark = [
    pytest.mark.skipif(IS_AIRFLOW_3, reason="test_killed.py is about this Airflow"),
    pytest.mark.timeout(1200),
]

DAG_FILE = Path(__file__).parents[1] / "dags" / "killed.py"
#: Killed here, the task continues with its project.
GOES_ON = {"sync": ["wait", "persisted"], "deferred": ["lives", "download", "returned"]}
#: Killed here, it is unknown whether the create call was accepted; here is how often it was.
UNCERTAIN = {"intent": 0, "unanswered": 1, "answered": 1}
STEPS = {**GOES_ON, "sync": [*GOES_ON["sync"], *UNCERTAIN]}


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator(duration=3, output_bytes=500_000) as simulator:
        simulator.faults(
            {"match": {"tool": "ai-meme-generator"}, "delay_after": 25},
            {"match": {"tool": "ai-qr-code-generator"}, "duration": 3600},
            {"match": {"route": "download"}, "drip_bytes": 100_000, "drip_seconds": 0.2},
        )
        yield simulator


@pytest.fixture
def airflow(sim: Simulator, tmp_path: Path, _migrated_database: Path) -> Iterator[Airflow2]:
    connection = {"conn_type": "magichour", "host": sim.url, "password": sim.api_key}
    env = {"AIRFLOW_CONN_MAGICHOUR_KILLED": json.dumps(connection)}
    with Airflow2(tmp_path / "home", _migrated_database, DAG_FILE, env) as airflow:
        yield airflow


def paid(sim: Simulator) -> Counter[str]:
    """Return how often each was paid for, by its step."""
    projects = sim.state()["projects"].values()
    return Counter(str(project["name"]).partition(" ")[0] for project in projects)


def states(airflow: Airflow2) -> dict[str, tuple[str, int]]:
    """Return the state and the last try of each step."""
    query = "SELECT task_id, map_index, state, try_number FROM task_instance WHERE map_index >= 0"
    return {STEPS[task][position]: (state, number) for task, position, state, number in airflow.rows(query)}


def kill_the_triggerer(airflow: Airflow2, sim: Simulator) -> None:
    """Kill it while a task waits whose project is finished before it is back."""

    def waiting() -> list[str]:
        projects = sim.state()["projects"].items()
        return [one for one, project in projects if "lives" in project["name"] and project["gets"]]

    wait_until(lambda: bool(waiting()), 120, "the first status check")
    airflow.processes.kill("triggerer")
    sim.end_project(waiting()[0])
    airflow.start("triggerer")


def test_killed_tasks_pay_once(airflow: Airflow2, sim: Simulator, tmp_path: Path) -> None:
    conf = json.dumps({**STEPS, "destination": str(tmp_path / "media")})
    known = "SELECT * FROM serialized_dag WHERE dag_id = 'killed'"
    wait_until(lambda: bool(airflow.rows(known)), 180, "the DAG to be read")
    airflow.run_cli("dags", "trigger", "killed", "--run-id", "run", "--conf", conf)
    kill_the_triggerer(airflow, sim)
    assert airflow.wait_for_run("run", 400) == "failed"

    goes_on = [step for steps in GOES_ON.values() for step in steps]
    tries = {step: ("success", 1 if step == "lives" else 2) for step in goes_on}
    assert states(airflow) == {**tries, **dict.fromkeys(UNCERTAIN, ("failed", 2))}
    assert paid(sim) == Counter({**dict.fromkeys(goes_on, 1), **UNCERTAIN})

    # A person has looked, and clears: what was uncertain and what succeeded is submitted again.
    airflow.run_cli("tasks", "clear", "--yes", "--task-regex", "^sync$", "killed")
    assert airflow.wait_for_run("run", 400) == "success"
    again = Counter({step: UNCERTAIN.get(step, 1) + 1 for step in STEPS["sync"]})
    assert paid(sim) == again + Counter(STEPS["deferred"])
    files = [path for path in (tmp_path / "media").glob("*/*.png") if path.stat().st_size == 500_000]
    assert len(files) == len(STEPS["sync"]) + 2 + len(STEPS["deferred"])  # both of what was cleared

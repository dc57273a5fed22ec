"""In a real Airflow: each way to clear, 502 pages, another account's key; what was paid is counted."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour.simulator import Simulator
from scripts.local import LocalAirflow
from scripts.local.client import wait_until

CONNECTION = "magichour_cleared"
DAG_FILE = Path(__file__).parents[1] / "dags" / "cleared.py"


@pytest.fixture
def sim(real_airflow: LocalAirflow) -> Iterator[Simulator]:
    with Simulator(duration=1) as simulator:
        real_airflow.replace_connection(CONNECTION, simulator.connection_uri)
        yield simulator


def made(sim: Simulator) -> Counter[str]:
    """Return how many create calls of each name were accepted: how often each was paid for."""
    return Counter(str(project["name"]) for project in sim.state()["projects"].values())


def set_retries(real_airflow: LocalAirflow, dag_id: str, retries: dict[str, int]) -> None:
    """Edit the DAG, and wait until Airflow has read it."""
    (real_airflow.home / "retries_of_cleared.json").write_text(json.dumps(retries))
    os.utime(DAG_FILE)
    real_airflow.wait_for_dag(dag_id)

    def known() -> bool:
        tasks = real_airflow.api("GET", f"/dags/{dag_id}/tasks")["tasks"]
        return {task["task_id"]: int(task["retries"]) for task in tasks} == retries

    wait_until(known, 120, "the edited DAG to be read")


def set_key(real_airflow: LocalAirflow, sim: Simulator, key: str) -> None:
    body = {"connection_id": CONNECTION, "conn_type": "magichour", "host": sim.url, "password": key}
    real_airflow.api("PATCH", f"/connections/{CONNECTION}", json=body)


def test_clears_of_a_success_pay_once_each(real_airflow: LocalAirflow, sim: Simulator) -> None:
    first = {"more_retries": 0, "fewer_retries": 3, "as_many_tries": 1}
    set_retries(real_airflow, "cleared", first)
    run = real_airflow.trigger("cleared")
    cli = real_airflow.trigger("cleared_by_cli")
    whole = real_airflow.trigger("cleared_as_a_run")
    for dag_id, run_id in (("cleared", run), ("cleared_by_cli", cli), ("cleared_as_a_run", whole)):
        assert real_airflow.wait_for_run(dag_id, run_id) == "success"
    names = [*first, "by_cli", "one", "another"]
    assert made(sim) == dict.fromkeys(names, 1)

    set_retries(real_airflow, "cleared", {"more_retries": 3, "fewer_retries": 0, "as_many_tries": 0})
    real_airflow.clear("cleared", run, list(first))
    real_airflow.run_cli("tasks", "clear", "--yes", "cleared_by_cli")
    path = f"/dags/cleared_as_a_run/dagRuns/{whole}/clear"
    real_airflow.api("POST", path, json={"dry_run": False, "only_failed": False})
    for dag_id, run_id in (("cleared", run), ("cleared_by_cli", cli), ("cleared_as_a_run", whole)):
        assert real_airflow.wait_for_run(dag_id, run_id) == "success"
    tries = {one["task_id"]: one["max_tries"] for one in real_airflow.task_instances("cleared", run)}
    assert tries == {"more_retries": 4, "fewer_retries": 1, "as_many_tries": 1}
    assert made(sim) == dict.fromkeys(names, 2)


def test_marked_as_failed_and_cleared_goes_on(real_airflow: LocalAirflow, sim: Simulator) -> None:
    dag_id = "marked_and_cleared"
    sim.faults({"match": {"tool": "ai-qr-code-generator"}, "duration": 3600})
    run = real_airflow.trigger(dag_id)
    wait_until(lambda: bool(sim.requests("get_project")), 120, "the first status check")
    real_airflow.mark(dag_id, run, "marked", "failed")
    # Until the scheduler has ended the run, it may undo what a Clear does to the run's state.
    assert real_airflow.wait_for_run(dag_id, run) == "failed"
    (project_id,) = sim.state()["projects"]
    real_airflow.clear(dag_id, run, ["marked"])
    wait_until(lambda: made(sim).total() > 1 or _is_running(real_airflow, dag_id, run), 120, "the next try")
    sim.end_project(project_id)
    assert real_airflow.wait_for_run(dag_id, run) == "success"
    assert made(sim) == {"marked": 1}


def _is_running(real_airflow: LocalAirflow, dag_id: str, run: str) -> bool:
    return bool(real_airflow.task_instance(dag_id, run, "marked")["state"] == "running")


def test_502_page_of_a_proxy_pays_once(real_airflow: LocalAirflow, sim: Simulator) -> None:
    dag_id = "behind_a_proxy"
    fault: dict[str, Any] = {"match": {"route": "create_project"}, "status": 502, "html": True}
    sim.faults({**fault, "process": True})  # the API takes the call, and the proxy's page hides that
    run = real_airflow.trigger(dag_id)
    assert real_airflow.wait_for_run(dag_id, run) == "failed"
    assert made(sim) == {"proxied": 1}
    log = real_airflow.task_log(dag_id, run, "proxied")
    assert "MagicHourUncertainSubmitError" in log
    assert "named 'proxied'" in log
    sim.clear_faults()
    real_airflow.clear(dag_id, run, ["proxied"])  # a person has looked
    assert real_airflow.wait_for_run(dag_id, run) == "success"
    assert made(sim) == {"proxied": 2}


def test_key_of_another_account_does_not_pay_again(real_airflow: LocalAirflow, sim: Simulator) -> None:
    dag_id = "other_account"
    other = sim.add_account("mhk_live_other")
    run = real_airflow.trigger(dag_id)
    wait_until(lambda: made(sim) == {"kept": 1}, 120, "the project")
    set_key(real_airflow, sim, "mhk_live_other")
    (real_airflow.home / "cleared_may_fail").touch()
    assert real_airflow.wait_for_run(dag_id, run) == "failed"
    assert other in real_airflow.task_log(dag_id, run, "kept")
    real_airflow.clear(dag_id, run, ["kept"])
    assert real_airflow.wait_for_run(dag_id, run) == "failed"
    assert made(sim) == {"kept": 1}
    set_key(real_airflow, sim, sim.api_key)
    real_airflow.clear(dag_id, run, ["kept"])
    assert real_airflow.wait_for_run(dag_id, run) == "success"
    assert made(sim) == {"kept": 1}
    (project_id,) = sim.state()["projects"]
    assert real_airflow.xcom(dag_id, run, "kept")["id"] == project_id

"""In a real Airflow: what stops the trigger of a task with ``delete_on_kill``, and what is deleted then."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from airflow_provider_magichour.simulator import Simulator
from scripts.local import LocalAirflow
from scripts.local.client import wait_until

DAG, TASK = "killed_on_purpose", "generate"
NOT_DELETED = "the task has not ended: nothing is deleted"


@pytest.fixture
def sim(real_airflow: LocalAirflow) -> Iterator[Simulator]:
    with Simulator(duration=3600) as simulator:
        real_airflow.replace_connection("magichour_killed", simulator.connection_uri)
        yield simulator


@pytest.fixture
def second_triggerer(real_airflow: LocalAirflow) -> Iterator[str]:
    name = "triggerer-2"
    real_airflow.components[name] = ["triggerer"]
    yield name
    del real_airflow.components[name]
    real_airflow.kill(name, signal.SIGTERM)


def start_and_wait(real_airflow: LocalAirflow, sim: Simulator) -> str:
    """Return the run of a task that waits in the triggerer."""
    run = real_airflow.trigger(DAG)
    real_airflow.wait_for_task(DAG, run, TASK, ["deferred"])
    wait_for_status_checks(sim, 0)
    return run


def wait_for_status_checks(sim: Simulator, before: int) -> None:
    wait_until(lambda: len(sim.requests("get_project")) > before + 1, 180, "status checks")


def test_only_a_mark_deletes(real_airflow: LocalAirflow, sim: Simulator, second_triggerer: str) -> None:
    run = start_and_wait(real_airflow, sim)
    (project_id,) = sim.state()["projects"]

    real_airflow.kill("triggerer", signal.SIGTERM)
    before = len(sim.requests("get_project"))
    real_airflow.start("triggerer")
    wait_for_status_checks(sim, before)
    assert sim.requests("delete_project") == []

    # A triggerer that is taken for dead, and goes on.
    slow = real_airflow.processes.marked_pids("triggerer")
    for pid in slow:
        os.kill(pid, signal.SIGSTOP)
    before = len(sim.requests("get_project"))
    real_airflow.start(second_triggerer)
    wait_for_status_checks(sim, before)
    for pid in slow:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: NOT_DELETED in real_airflow.task_log(DAG, run, TASK), 120, "its trigger to be stopped")
    assert sim.requests("delete_project") == []
    assert real_airflow.task_instance(DAG, run, TASK)["state"] == "deferred"

    real_airflow.mark(DAG, run, TASK, "failed")
    wait_until(lambda: not sim.state()["projects"][project_id]["enabled"], 120, "the project to be deleted")


def test_clear_continues_with_the_project(real_airflow: LocalAirflow, sim: Simulator) -> None:
    run = start_and_wait(real_airflow, sim)
    (project_id,) = sim.state()["projects"]
    real_airflow.clear(DAG, run, [TASK])
    wait_until(lambda: NOT_DELETED in real_airflow.task_log(DAG, run, TASK), 120, "the trigger to be stopped")
    sim.end_project(project_id)
    assert real_airflow.wait_for_run(DAG, run) == "success"
    assert sim.requests("delete_project") == []
    assert list(sim.state()["projects"]) == [project_id]

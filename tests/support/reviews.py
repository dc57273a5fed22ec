"""A review in a real Airflow: the question to which a person responds."""

from __future__ import annotations

from scripts.local import LocalAirflow
from scripts.local.client import wait_until

#: How a task waits for a person: from Airflow 3.3 on, and before.
WAITING = {"awaiting_input", "deferred"}


def wait_for_question(airflow: LocalAirflow, dag_id: str, run: str) -> None:
    """
    Wait until a run's task ``review`` can be responded to.

    A response before the scheduler has seen the task wait makes Airflow 3.3.2 ask again.
    """
    wait_until(lambda: airflow.task_instance(dag_id, run, "review")["state"] in WAITING, 240, "the review")
    wait_until(lambda: _has_seen_end(airflow, run), 240, "the scheduler to see the task wait")


def _has_seen_end(airflow: LocalAirflow, run: str) -> bool:
    """Return whether the scheduler has seen the end of the process that asked."""
    wanted = ("executor event with state success", "task_id='review'", f"run_id='{run}'")
    lines = airflow.processes.log_text("scheduler").splitlines()
    return any(all(part in line for part in wanted) for line in lines)

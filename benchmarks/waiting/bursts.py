"""
Short renders that start together on a real Airflow: how many tasks fail, and how long each one takes.

    python -m benchmarks.waiting.bursts [--rounds N] [--tasks N] [--tools TOOL...] [--duration SECONDS]
    python -m benchmarks.waiting.bursts --rounds 5 --tasks 1 --duration 4 --jitter 0
    python -m benchmarks.waiting.bursts --celery         on two Celery workers, PostgreSQL and Redis

Airflow fails a deferred task that is resumed before the scheduler has noticed that its worker went away
(apache/airflow#72716). This makes such tasks with Airflow's own default settings, counts the failures, and
measures what the time before an event has to cover: from a deferral until the scheduler has noticed it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.probe import percentile
from scripts.local import LocalAirflow
from scripts.local.services import start_services
from scripts.local.simulator import start_simulator

DAG_ID = "magichour_bursts"
DAGS = Path(__file__).parent.parent / "dags"
#: What LocalAirflow sets otherwise, as Airflow's own defaults have it.
DEFAULTS = {
    "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "5",
    "SCHEDULER__JOB_HEARTBEAT_SEC": "5",
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "300",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "300",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "10",
    "TRIGGERER__JOB_HEARTBEAT_SEC": "5",
    # Not a default: 15 connections from the API server to PostgreSQL are too few for 30 tasks at once.
    "DATABASE__SQL_ALCHEMY_POOL_SIZE": "50",
    "WORKERS__MIN_HEARTBEAT_INTERVAL": "5",
}
MISMATCH = "reported that the task instance"
_EVENT = re.compile(
    r"^(\S+).*Received executor event with state (\w+) for task instance .*task_id='generate'"
    r".*run_id='([^']+)'.*map_index=(\d+)"
)


def time_of(text: str) -> float:
    """Return the unix time of a log line's timestamp."""
    return datetime.fromisoformat(text).timestamp()


def executor_events(airflow: LocalAirflow) -> dict[tuple[str, int], list[float]]:
    """Return when the scheduler was told of each ended worker process, by run and map index."""
    found: dict[tuple[str, int], list[float]] = {}
    for line in airflow.processes.log_text("scheduler").splitlines():
        if match := _EVENT.match(line):
            found.setdefault((match[3], int(match[4])), []).append(time_of(match[1]))
    return found


def deferred_at(log: str) -> float | None:
    """Return when a task said that it defers, from its log."""
    match = re.search(r"^(\S+) \w+: Pausing task as DEFERRED", log, re.MULTILINE)
    return time_of(match[1]) if match else None


def submitted_at(log: str) -> float | None:
    """Return when a task had submitted its project, from its log."""
    match = re.search(r"^(\S+) \w+: Submitted ", log, re.MULTILINE)
    return time_of(match[1]) if match else None


def settle_seconds(airflow: LocalAirflow, runs: list[tuple[str, int]]) -> list[float]:
    """Return, for each deferral, the seconds until the scheduler had noticed it."""
    events = executor_events(airflow)
    found = []
    for run, tasks in runs:
        for index in range(tasks):
            deferred = deferred_at(airflow.task_log(DAG_ID, run, "generate", map_index=index))
            later = [at for at in events.get((run, index), []) if deferred is not None and at >= deferred]
            if deferred is not None and later:
                found.append(later[0] - deferred)
    return found


def bursts(rounds: int, tasks: int, tools: list[str], airflow: LocalAirflow, files: str) -> dict[str, Any]:
    """Run the rounds one after another."""
    states: Counter[str] = Counter()
    seconds: list[float] = []
    from_submit: list[float] = []
    runs: list[tuple[str, int]] = []
    for _ in range(rounds):
        conf = {"tasks": tasks, "tools": tools, "destination": f"file://{files}"}
        run = airflow.trigger(DAG_ID, conf)
        airflow.wait_for_run(DAG_ID, run, timeout=900)
        runs.append((run, tasks))
        for task in airflow.task_instances(DAG_ID, run):
            if task["task_id"] == "generate":
                states[task["state"]] += 1
                seconds.append(task["duration"] or 0.0)
                log = airflow.task_log(DAG_ID, run, "generate", map_index=task["map_index"])
                if (submitted := submitted_at(log)) and task["end_date"]:
                    from_submit.append(time_of(task["end_date"]) - submitted)
    settled = settle_seconds(airflow, runs)
    return {
        "rounds": rounds,
        "tasks_each": tasks,
        "tools": tools,
        "states": dict(states),
        "state_mismatches": airflow.processes.log_text("scheduler").count(MISMATCH),
        "task_seconds_p50": percentile(seconds, 0.5),
        "task_seconds_max": max(seconds),
        "submit_to_end_p50": percentile(from_submit, 0.5) if from_submit else None,
        "submit_to_end_max": max(from_submit, default=None),
        "deferrals": len(settled),
        "settle_seconds_p50": percentile(settled, 0.5) if settled else None,
        "settle_seconds_p90": percentile(settled, 0.9) if settled else None,
        "settle_seconds_max": max(settled, default=None),
        "load_average": os.getloadavg()[0],
    }


@contextlib.contextmanager
def airflow_of(home: Path, *, celery: bool) -> Iterator[LocalAirflow]:
    """Give an Airflow that is not started: standalone on SQLite, or a Celery cluster on PostgreSQL."""
    settings: dict[str, Any] = {
        "parallelism": 32,
        "env": {f"AIRFLOW__{name}": value for name, value in DEFAULTS.items()},
    }
    with start_services(home / "services") if celery else contextlib.nullcontext() as services:
        if services:
            settings |= {
                "celery_workers": 2,
                "database_url": services.database_url,
                "broker_url": services.broker_url,
                "result_backend": services.result_backend,
            }
        airflow = LocalAirflow(home / "home", [DAGS], **settings)
        try:
            yield airflow
        finally:
            airflow.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tasks", type=int, default=30)
    parser.add_argument("--tools", nargs="+", default=["ai-image-generator"])
    parser.add_argument("--duration", type=float)
    parser.add_argument("--jitter", type=float, default=0.5)
    parser.add_argument("--celery", action="store_true")
    parser.add_argument("--keep", help="a folder that is left behind, to read the logs")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        airflow_of(Path(given.keep or folder), celery=given.celery) as airflow,
    ):
        settings = {"jitter": given.jitter, **({"duration": given.duration} if given.duration else {})}
        airflow.connect("magichour_default", start_simulator(airflow.processes, **settings))
        with airflow:
            airflow.wait_for_dag(DAG_ID)
            time.sleep(5)
            found = bursts(given.rounds, given.tasks, given.tools, airflow, f"{folder}/files")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

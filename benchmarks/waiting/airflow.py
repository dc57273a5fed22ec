"""
Thousands of waits through a real Airflow: how they end, what they cost, what a lost triggerer does to them.

    python -m benchmarks.waiting.airflow many|killed|stopped|two

The waits' projects live on the load server. The event loop's lag is measured by its own trigger in the
same triggerer.
"""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.load_server import KEY, LoadServer, load_server
from scripts.local import LocalAirflow

DAG_ID = "magichour_waits"
DAGS = Path(__file__).parents[1] / "dags"


def airflow_for(home: str, server: LoadServer, rate: float, triggerers: int = 1) -> LocalAirflow:
    """Return an Airflow that is connected to the load server."""
    connection = {
        "conn_type": "magichour",
        "host": server.url,
        "password": KEY,
        "extra": {"requests_per_second": rate},
    }
    return LocalAirflow(
        home,
        [DAGS],
        connections={"magichour_default": json.dumps(connection)},
        triggerers=triggerers,
        parallelism=4,
    )


def wait_until_deferred(airflow: LocalAirflow, run: str, count: int) -> None:
    """Wait until so many of the waits are deferred."""
    ends = time.monotonic() + 300
    while time.monotonic() < ends:
        states = [task["state"] for task in airflow.task_instances(DAG_ID, run) if task["task_id"] == "wait"]
        if states.count("deferred") >= count:
            return
        time.sleep(1)
    raise TimeoutError(f"not {count} deferred tasks: {states}")


def triggers_by_triggerer(airflow: LocalAirflow) -> dict[str, int]:
    """Return how many triggers each triggerer holds."""
    with sqlite3.connect(f"file:{airflow.home / 'airflow.db'}?mode=ro", uri=True) as database:
        rows = database.execute("select triggerer_id, count(*) from trigger group by triggerer_id")
        return {str(one): count for one, count in rows}


def outcome(airflow: LocalAirflow, run: str, server: LoadServer, tasks: int, each: int) -> dict[str, Any]:
    """Check that every wait ended once, and well; return what it cost."""
    state = airflow.wait_for_run(DAG_ID, run, timeout=1500)
    waits = [task for task in airflow.task_instances(DAG_ID, run) if task["task_id"] == "wait"]
    finished = 0
    for task in waits:
        value = airflow.xcom(DAG_ID, run, "wait", map_index=task["map_index"])
        finished += sum(one["status"] == "complete" for one in value or [])
    stats = server.stats()
    return {
        "state": state,
        "tasks": len(waits),
        "tasks_succeeded": sum(task["state"] == "success" for task in waits),
        "tries": sorted({task["try_number"] for task in waits}),
        "projects": tasks * each,
        "projects_complete": finished,
        "requests": stats["requests"],
        "most_sockets": stats["most_open"],
    }


def conf(tasks: int, each: int, durations: tuple[float, float], **more: Any) -> dict[str, Any]:
    """Return the conf of the DAG run."""
    return {"tasks": tasks, "each": each, "shortest": durations[0], "longest": durations[1], **more}


def many(rate: float = 400, probe: float = 200) -> dict[str, Any]:
    """10,000 waits in 10 deferred tasks on one triggerer."""
    with (
        tempfile.TemporaryDirectory() as home,
        load_server() as server,
        airflow_for(home, server, rate) as airflow,
    ):
        figures = Path(home) / "probe.json"
        more = {"probe": probe, "probe_file": str(figures)}
        started = time.monotonic()
        run = airflow.trigger(DAG_ID, conf(10, 1000, (60, 240), **more))
        found = outcome(airflow, run, server, 10, 1000)
        return {**found, **json.loads(figures.read_text()), "seconds": time.monotonic() - started}


def killed(
    sig: int = signal.SIGKILL, tasks: int = 5, each: int = 200, durations: Any = (60, 90)
) -> dict[str, Any]:
    """1,000 waits whose triggerer is lost and started again."""
    with (
        tempfile.TemporaryDirectory() as home,
        load_server() as server,
        airflow_for(home, server, 200) as airflow,
    ):
        run = airflow.trigger(DAG_ID, conf(tasks, each, durations))
        wait_until_deferred(airflow, run, tasks)
        time.sleep(5)  # in the middle of checks
        airflow.kill("triggerer", sig)
        airflow.start("triggerer")
        return outcome(airflow, run, server, tasks, each)


def two(tasks: int = 6, each: int = 100) -> dict[str, Any]:
    """Two triggerers that share the waits; one is stopped by SIGTERM, and the other takes over its waits."""
    with (
        tempfile.TemporaryDirectory() as home,
        load_server() as server,
        airflow_for(home, server, 200, triggerers=2) as airflow,
    ):
        run = airflow.trigger(DAG_ID, conf(tasks, each, (90, 120)))
        wait_until_deferred(airflow, run, tasks)
        time.sleep(5)
        shared = triggers_by_triggerer(airflow)
        airflow.kill("triggerer", signal.SIGTERM)
        return {"shared": shared, **outcome(airflow, run, server, tasks, each)}


SCENARIOS = {
    "many": many,
    "killed": killed,
    "stopped": lambda: killed(signal.SIGTERM),
    "two": two,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    print(json.dumps(SCENARIOS[parser.parse_args().scenario](), indent=2))

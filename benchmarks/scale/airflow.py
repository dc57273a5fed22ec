"""
What a task costs each of Airflow's processes, its database and its logs: tasks that do nothing, projects as
mapped tasks, projects in lists. A real Airflow, LocalExecutor, its own PostgreSQL.

    python -m benchmarks.scale.airflow [--rounds N]

CPU is user and system time, less what the same process takes idle in the same time; not so the scheduler,
which does not idle while it has work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy

from benchmarks.dags.magichour_scale import LIST, NOTHINGS, TASKS
from benchmarks.file_server import connection_to, file_server
from scripts.local import LocalAirflow
from scripts.local.services import start_services

SLOTS = 4
#: By DAG: how many projects it makes (tasks that do nothing count as such), and how many tasks it starts; a
#: task that defers is started twice.
RUNS = {
    "scale_nothing": (NOTHINGS, NOTHINGS),
    "scale_mapped": (TASKS, 2 * TASKS),
    "scale_listed": (2 * LIST, 4),
    "scale_steps": (LIST, 4),
}
#: What one project or task leaves in the database: in these the rows grow with the work.
TABLES = ("task_instance", "rendered_task_instance_fields", "xcom", "task_state_store", "log", "dag_run")


class Observed:
    """Reads what one Airflow has used so far."""

    def __init__(self, airflow: LocalAirflow, database_url: str) -> None:
        self.airflow = airflow
        self.engine = sqlalchemy.create_engine(database_url)
        with self.engine.connect() as connection:
            backend = connection.execute(sqlalchemy.text("select pg_backend_pid()")).scalar_one()
            self.postgresql = psutil.Process(backend).parent()

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds of each component so far, those of its ended children among them."""
        roots = {name: psutil.Process(self.airflow.processes.pid(name)) for name in self.airflow.components}
        found = {name: cpu_seconds(process_tree(root)) for name, root in roots.items() if name != "scheduler"}
        found["scheduler"] = cpu_seconds([roots["scheduler"]], ended=False)
        found["workers"] = cpu_seconds(process_tree(roots["scheduler"])) - found["scheduler"]
        found["postgresql"] = cpu_seconds(process_tree(self.postgresql))
        return found

    def database(self) -> dict[str, float]:
        """Return the bytes of the database, and of the rows in the tables that grow."""
        with self.engine.connect() as connection:
            ask = "select pg_database_size(current_database())"
            found = {"all": float(connection.execute(sqlalchemy.text(ask)).scalar_one())}
            for table in TABLES:
                ask = f"select coalesce(sum(pg_column_size(t.*)), 0) from {table} t"  # noqa: S608
                found[table] = float(connection.execute(sqlalchemy.text(ask)).scalar_one())
        return found

    def logs(self) -> float:
        """Return the bytes of all task logs."""
        return float(sum(one.stat().st_size for one in (self.airflow.home / "logs").rglob("*.log")))

    def wait(self, dag_id: str, run_id: str) -> None:
        """Wait for a run's end, without the API server, whose work is measured."""
        ends = time.monotonic() + 900
        ask = sqlalchemy.text("select state from dag_run where run_id = :run")
        while time.monotonic() < ends:
            with self.engine.connect() as connection:
                state = connection.execute(ask, {"run": run_id}).scalar_one()
            if state in ("success", "failed"):
                if state == "success":
                    return
                raise RuntimeError(self.airflow.failed_task_logs(dag_id, run_id))
            time.sleep(0.5)
        raise TimeoutError(run_id)

    @contextmanager
    def memory(self) -> Iterator[list[int]]:
        """Sample the memory of the workers' processes, shared pages counted once."""
        samples: list[int] = []
        ended = threading.Event()
        scheduler = psutil.Process(self.airflow.processes.pid("scheduler"))

        def sample() -> None:
            while not ended.wait(1):
                samples.append(sum(_pss(one) for one in scheduler.children(recursive=True)))

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield samples
        finally:
            ended.set()
            thread.join()


def process_tree(root: psutil.Process) -> list[psutil.Process]:
    """Return a process and all that it has started, directly or not."""
    return [root, *root.children(recursive=True)]


def cpu_seconds(processes: list[psutil.Process], ended: bool = True) -> float:
    """Return the CPU seconds of processes so far, those of their ended children among them."""
    found = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found += times.user + times.system
            found += times.children_user + times.children_system if ended else 0.0
    return found


def _pss(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0


def observe(observed: Observed, dag_id: str, destination: str, idle: dict[str, float]) -> dict[str, Any]:
    """Run a DAG once and return what it cost."""
    cpu, database, logs = observed.cpu(), observed.database(), observed.logs()
    started = time.monotonic()
    with observed.memory() as samples:
        observed.wait(dag_id, observed.airflow.trigger(dag_id, {"destination": destination}))
    seconds = time.monotonic() - started
    time.sleep(3)  # what ends after the run
    lasted = time.monotonic() - started
    return {
        "seconds": seconds,
        "cpu": {name: value - cpu[name] - idle[name] * lasted for name, value in observed.cpu().items()},
        "database": {name: value - database[name] for name, value in observed.database().items()},
        "logs": observed.logs() - logs,
        "memory_each": max(samples, default=0) / SLOTS,
    }


def measure(rounds: int) -> dict[str, Any]:
    """Return, by DAG, the CPU seconds and bytes of one project, by component and table."""
    with tempfile.TemporaryDirectory() as name, start_services(Path(name, "services")) as services:
        folder = Path(name)
        content = folder / "content"
        content.write_bytes(os.urandom(1_000_000))
        with (
            file_server(content) as url,
            LocalAirflow(
                folder / "home",
                [Path(__file__).parents[1] / "dags"],
                database_url=services.database_url,
                connections={"magichour_default": connection_to(url)},
                parallelism=SLOTS,
            ) as airflow,
        ):
            observed = Observed(airflow, services.database_url)
            return _measure(observed, rounds, str(folder / "files"))


def _measure(observed: Observed, rounds: int, destination: str) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {dag_id: [] for dag_id in RUNS}
    nothing = dict.fromkeys(observed.cpu(), 0.0)
    for dag_id in RUNS:  # first-time work is not what is measured
        observe(observed, dag_id, destination, nothing)
    time.sleep(10)
    before, started = observed.cpu(), time.monotonic()
    time.sleep(30)
    idle = {
        name: (value - before[name]) / (time.monotonic() - started) for name, value in observed.cpu().items()
    }
    load = []
    for _ in range(rounds):
        for dag_id, runs in found.items():
            runs.append(observe(observed, dag_id, destination, idle | {"scheduler": 0.0}))
            load.append(os.getloadavg()[0])
            print(dag_id, json.dumps(runs[-1]), file=sys.stderr, flush=True)
    return {
        "rounds": rounds,
        "load_average": statistics.median(load),
        "idle": idle,
        **{dag_id: _summary(runs, *RUNS[dag_id]) for dag_id, runs in found.items()},
    }


def _summary(runs: list[dict[str, Any]], projects: int, starts: int) -> dict[str, Any]:
    """Return the median CPU of the runs, and the mean bytes: a database grows by leaps."""
    grown: Counter[str] = Counter()
    for run in runs:
        grown.update(run["database"])
    return {
        "projects": projects,
        "starts": starts,
        "starts_per_second": statistics.median(starts / run["seconds"] for run in runs),
        "cpu": {
            name: statistics.median(run["cpu"][name] for run in runs) / projects for name in runs[0]["cpu"]
        },
        "database": {name: value / len(runs) / projects for name, value in grown.items()},
        "logs": statistics.mean(run["logs"] for run in runs) / projects,
        "memory_each": statistics.median(run["memory_each"] for run in runs),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    print(json.dumps(measure(parser.parse_args().rounds), indent=2))

"""
What a mapped generate task costs the workers, in pairs with a task that does nothing.

    python -m benchmarks.starts [--rounds N] [--write]

A real Airflow with LocalExecutor, whose scheduler's children are the workers. Python with and without
bytecode: without (PYTHONDONTWRITEBYTECODE, as in some images), each task compiles what it imports.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.dags.magichour_starts import TASKS
from benchmarks.file_server import connection_to, file_server
from benchmarks.object_files import store_server
from benchmarks.report import Figure, at_most, figures_table, write_section
from benchmarks.scale.airflow import cpu_seconds, process_tree
from scripts.local import LocalAirflow

#: What one generate task may take, in CPU seconds of the workers.
GOAL = 1.5
#: By name: the DAG, and what its run is given. ``later`` projects are not complete at once.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "nothing": ("starts_nothing", {}),
    "disk": ("starts_generate", {"destination": "{folder}", "defer_after": 30, "name": "d"}),
    "S3": ("starts_generate", {"destination": "s3://aws_bench@media", "defer_after": 30, "name": "s"}),
    "S3, deferred": (
        "starts_generate",
        {"destination": "s3://aws_bench@media", "defer_after": 0, "name": "later"},
    ),
}


@contextmanager
def airflow(folder: Path, bytecode: bool) -> Iterator[LocalAirflow]:
    """Run an Airflow that is connected to a Magic Hour and to an S3."""
    content = folder / "content"
    content.write_bytes(os.urandom(1_000_000))
    with file_server(content) as url, store_server(0, "0"):
        connections = {
            "magichour_default": connection_to(url),
            "aws_bench": os.environ["AIRFLOW_CONN_AWS_BENCH"],
        }
        env = {
            "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
            "PYTHONDONTWRITEBYTECODE": "" if bytecode else "1",
        }
        dags = Path(__file__).parent / "dags"
        with LocalAirflow(
            folder / "home", [dags], connections=connections, parallelism=2, env=env
        ) as running:
            yield running


def workers_cpu(running: LocalAirflow) -> float:
    """Return the CPU seconds of the workers and their tasks so far."""
    scheduler = psutil.Process(running.processes.pid("scheduler"))
    return cpu_seconds(process_tree(scheduler)) - cpu_seconds([scheduler], ended=False)


def run_once(running: LocalAirflow, kind: str, folder: Path, number: int) -> float:
    """Run a DAG and return the CPU seconds of one task."""
    dag_id, conf = KINDS[kind]
    given = {**conf, "destination": str(conf.get("destination", "")).format(folder=folder / "files")}
    given["name"] = f"{conf.get('name', '')}{number}"
    before = workers_cpu(running)
    run = running.trigger(dag_id, given)
    if running.wait_for_run(dag_id, run, timeout=600) != "success":
        raise RuntimeError(running.failed_task_logs(dag_id, run))
    time.sleep(2)  # what ends after the run
    return (workers_cpu(running) - before) / TASKS


def measure(rounds: int) -> dict[str, Any]:
    """Return, with bytecode and without, the CPU seconds of one task of each kind, medians of the rounds."""
    found: dict[str, Any] = {}
    for bytecode in (True, False):
        with tempfile.TemporaryDirectory() as name, airflow(Path(name), bytecode) as running:
            seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
            load = []
            for number in range(rounds + 1):
                for kind, values in seconds.items():
                    values.append(run_once(running, kind, Path(name), number))
                    load.append(os.getloadavg()[0])
                    print(bytecode, kind, values[-1], load[-1], file=sys.stderr, flush=True)
            # the first round is not measured: it writes the bytecode
            medians = {kind: statistics.median(values[1:]) for kind, values in seconds.items()}
            found["with" if bytecode else "without"] = {**medians, "load": statistics.median(load)}
    return found


def figures(found: dict[str, Any]) -> list[Figure]:
    """Return the rows: each task with the ratio to one that does nothing, and the load."""
    rows = []
    for bytecode, one in found.items():
        for kind in KINDS:
            if kind == "nothing":
                continue
            ratio = one[kind] / one["nothing"]
            what = (
                f"{kind}, {bytecode} bytecode: CPU ({ratio:.1f} x of the {one['nothing']:.2f} s of a task "
                f"that does nothing; load average {one['load']:.1f})"
            )
            rows.append(at_most(what, one[kind], GOAL, "s"))
    return rows


METHOD = """\
A mapped generate task has one project. It submits, waits, downloads 10 kB to local disk or to S3, and
writes its submit records and the catalogue. CPU is the user and system time of one task in the workers
(LocalExecutor), with Airflow's supervisor. Tasks of each kind run in turn with tasks that do nothing. A
deferred task starts twice.

Most of this time is for imports: Airflow forks a process for each task, and the task imports what its
worker has not imported yet. Without bytecode (`PYTHONDONTWRITEBYTECODE`, and packages that were installed
without it), Python also compiles these modules in each task.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    rows = figures(measure(arguments.rounds))
    text = f"{METHOD}\n{figures_table(rows)}\n"
    print(text)
    if arguments.write:
        write_section("Task starts", text)
    return 0 if all(one.met for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

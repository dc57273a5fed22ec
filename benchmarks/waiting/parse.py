"""
What importing the operators and the sensor adds to a DAG file that imports Airflow.

    python -m benchmarks.waiting.parse                            this checkout
    python -m benchmarks.waiting.parse --against ../old --runs 15    another one as well, in turn

Each run is a fresh process. Airflow's base classes are imported first; what the package's import takes after
that is measured: as pip installs it, with bytecode, and without (PYTHONDONTWRITEBYTECODE, as in some images).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RUNS = 7
CODE = """
import airflow.sdk
from airflow.sdk import BaseHook, BaseOperator, BaseSensorOperator, dag, task
import gc, sys, time
gc.collect()  # when Airflow's garbage is due next is not what is measured
before, wall, cpu = set(sys.modules), time.perf_counter(), time.process_time()
from airflow_provider_magichour.operators import *
from airflow_provider_magichour.sensors import *
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
heavy = {"requests", "aiohttp", "tenacity", "fastapi"} & (set(sys.modules) - before)
import airflow_provider_magichour, json
print(json.dumps([wall * 1000, cpu * 1000, sorted(heavy), airflow_provider_magichour.__file__]))
"""


def run(checkout: Path, bytecode: Path | None) -> tuple[float, float, list[str]]:
    """Return the milliseconds of wall and CPU time in one fresh process, and the heavy libraries."""
    env = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    if bytecode:
        env |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(bytecode)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=checkout, env=env, capture_output=True, text=True, check=True
    )
    wall, cpu, heavy, path = json.loads(done.stdout.splitlines()[-1])
    assert Path(path).is_relative_to(checkout), f"imported {path} instead of {checkout}"
    return wall, cpu, heavy


def measure(against: Path | None = None, runs: int = RUNS) -> dict[str, Any]:
    """Return the medians of this checkout and of another one, run in turn, in milliseconds."""
    checkouts = {"": ROOT, **({"old_": against.resolve()} if against else {})}
    result: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        for kind, bytecode in (("", Path(folder)), ("_without_bytecode", None)):
            found: dict[str, list[tuple[float, float, list[str]]]] = {name: [] for name in checkouts}
            for number in range(runs + 1):
                for name, checkout in checkouts.items():
                    one = run(checkout, bytecode)
                    if number:  # the first writes the bytecode
                        found[name].append(one)
            for name, every in found.items():
                walls, cpus, heavy = zip(*every, strict=True)
                result[f"{name}added_ms{kind}"] = statistics.median(walls)
                result[f"{name}added_cpu_ms{kind}"] = statistics.median(cpus)
                result[f"{name}heavy"] = sorted({library for each in heavy for library in each})
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout of the package")
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.against, arguments.runs), indent=2))

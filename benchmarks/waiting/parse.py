"""The CPU time that importing the operators and the sensor adds to a DAG file that imports Airflow."""

from __future__ import annotations

import statistics
import subprocess
import sys

RUNS = 9
CODE = """
import airflow.sdk
from airflow.sdk import BaseHook, BaseOperator, BaseSensorOperator, dag, task
import sys, time
before, started = set(sys.modules), time.process_time()
from airflow_provider_magichour.operators import *
from airflow_provider_magichour.sensors import *
took = time.process_time() - started
heavy = {"requests", "aiohttp", "tenacity", "fastapi"} & (set(sys.modules) - before)
print(took * 1000, ",".join(sorted(heavy)) or "-")
"""


def measure() -> dict[str, object]:
    found, heavy = [], set()
    for _ in range(RUNS):
        done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        took, loaded = done.stdout.split()[-2:]
        found.append(float(took))
        heavy.add(loaded)
    return {"added_ms_median": statistics.median(found), "added_ms_best": min(found), "heavy": sorted(heavy)}

"""
CPU that our code costs its process by itself: checks, submits, downloads, deletes.

    python -m benchmarks.scale.process [--rounds N]

Each is the median of some rounds. The servers are processes of their own on loopback, so that they are not
what is measured. User and system time of the measured process alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.cleanup import write_history
from benchmarks.file_server import connection_to, file_server
from benchmarks.files import MIB, Bench
from benchmarks.load_server import load_server
from benchmarks.waiting import cpu
from scripts.local.processes import free_port

CHECKS = 5_000
SUBMITS = 200
SMALL_FILES, SMALL = 200, 1_000
LARGE = 256 * MIB
DELETES = 1_000


def checks(rounds: int) -> float:
    """Return the CPU seconds of one check in a poller that is busy."""
    with load_server() as server:
        asyncio.run(cpu.ours(server, 100))
        found = []
        for _ in range(rounds):
            started = time.process_time()
            done = asyncio.run(cpu.ours(server, CHECKS))
            found.append((time.process_time() - started) / done)
    return statistics.median(found)


def submits(each: int) -> float:
    """Return the CPU seconds of one submitted project, in tasks that have so many; the store is in memory."""
    from airflow_provider_magichour.operators import MagicHourCreateProjectOperator
    from tests.support.tasks import TaskStateStore, task_context

    logging.getLogger("airflow_provider_magichour").setLevel(logging.WARNING)

    def submit(number: int) -> None:
        bodies = [{"name": f"1.1.0.0.{number}x{n}", "style": {"prompt": "a door"}} for n in range(each)]
        operator = MagicHourCreateProjectOperator(
            task_id="make", tool="ai-image-generator", body=bodies if each > 1 else bodies[0]
        )
        execute = MagicHourCreateProjectOperator.execute
        # what Airflow wraps around it warns of calls outside of its task runner
        getattr(execute, "__wrapped__", execute)(operator, task_context(store=TaskStateStore()))

    submit(0)
    started = time.process_time()
    for number in range(SUBMITS // each):
        submit(number + 1)
    return (time.process_time() - started) / SUBMITS


def _s3(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start a local S3."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    time.sleep(5)
    url = f"http://127.0.0.1:{port}"
    extra = {"endpoint_url": url, "region_name": "us-east-1"}
    os.environ["BENCH_S3"] = url
    os.environ["AIRFLOW_CONN_AWS_BENCH"] = json.dumps(
        {"conn_type": "aws", "login": "x", "password": "x", "extra": extra}
    )
    return process, url


def _files(rounds: int) -> dict[str, float]:
    """Return the CPU seconds of files, by their number and by their MB, and of what is deleted."""

    def median(side: str, arguments: Callable[[int], list[str]]) -> float:
        return statistics.median(bench.child(side, *arguments(n))["cpu"] for n in range(rounds))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = folder / "content"
        with content.open("wb") as file:
            for _ in range(LARGE // (16 * MIB)):
                file.write(os.urandom(16 * MIB))
        with file_server(content) as url:
            bench = Bench(url, folder)
            small = median("ours", lambda n: [f"1.{SMALL}.0.0.{n}x{i}" for i in range(SMALL_FILES)])
            found = {
                "download": small / SMALL_FILES,
                "megabyte": median("ours", lambda n: [f"1.{LARGE}.0.0.{n}"]) / (LARGE / 1e6),
                "delete": median("delete_ours", lambda n: [str(DELETES), "0"]) / DELETES,
            }

            def due(number: int) -> list[str]:
                write_history(folder / "receipts", 100, f"due{number}-", due=True)
                return [str(folder / "receipts")]

            found["clean_up"] = median("clean_up", due) / 100
            cpu = []
            for number in range(rounds):
                process, _ = _s3(folder)  # a new one each time: it keeps all in memory
                try:
                    cpu.append(bench.child("to_s3", f"1.{LARGE}.0.0.{number}")["cpu"] / (LARGE / 1e6))
                finally:
                    process.kill()
                    process.wait()
            found["megabyte_s3"] = statistics.median(cpu)
            shutil.rmtree(folder / "receipts")
    return found


def _submits(rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        content = Path(name, "content")
        content.write_bytes(b"x")
        with file_server(content) as url:
            os.environ["AIRFLOW_CONN_MAGICHOUR_DEFAULT"] = connection_to(url)
            return {
                "submit_single": statistics.median(submits(1) for _ in range(rounds)),
                "submit_in_list": statistics.median(submits(100) for _ in range(rounds)),
            }


def measure(rounds: int) -> dict[str, float]:
    """Return the CPU seconds of each, and how busy the machine was."""
    found = {"status_check": checks(rounds), **_submits(rounds), **_files(rounds)}
    return {**found, "load_average": os.getloadavg()[2]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    print(json.dumps(measure(parser.parse_args().rounds), indent=2))

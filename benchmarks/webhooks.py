"""
How many webhooks the receiver hands to a real Airflow on PostgreSQL, while a DAG consumes them.

    python -m benchmarks.webhooks [--rates N ...] [--duration SECONDS] [--parallel N] [--write]

``--write`` puts the table into docs/benchmarks.md.

PostgreSQL, all of Airflow, the receiver and the sender share this machine. Deliveries are sent at a fixed
rate, whether or not the earlier ones got a response, as Magic Hour does; each is for its own project.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import statistics
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from benchmarks.report import at_least, at_most, figures_table, table, write_section
from scripts.local import LocalAirflow
from scripts.local.processes import free_port
from scripts.local.services import start_services
from scripts.local.webhooks import start_receiver

SECRET = "whsec_benchmark"
DAG_ID = "consumes_webhooks"
DAG_FILE = """
from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, dag, task
from airflow_provider_magichour.webhooks import magichour_asset, triggering_projects

VIDEO = magichour_asset("video")

@dag(
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("* * * * *", timezone="UTC"), assets=VIDEO),
    max_active_runs=1,
)
def consumes_webhooks():
    @task(inlets=[VIDEO])
    def count(**context):
        return [project["id"] for project in triggering_projects(context)]

    count()

consumes_webhooks()
"""
WHAT = """\
The benchmark sends webhooks to the receiver at a fixed rate, whether or not earlier ones got a response.
Each is for another project. The receiver sends them to a real Airflow with one API server process and
PostgreSQL, and a DAG reads them. Airflow, the database, the receiver and the sender share {cores} cores.
The load average before the first row was {load:.1f}.

"Other" is another call of the API server, `GET /api/v2/version`, ten times a second. Magic Hour delivers a
webhook again if the response is 503."""
HEAD = [
    "sent/s",
    "events",
    "responses/s",
    "p50 s",
    "p95 s",
    "p99 s",
    "longest s",
    "longest other s",
    "CPU ms each",
]


@dataclass
class Load:
    """What came of a number of deliveries at one rate."""

    rate: float
    seconds: list[float] = field(default_factory=list)
    other_seconds: list[float] = field(default_factory=list)
    responses: Counter[str] = field(default_factory=Counter)
    lasted: float = 0.0
    cpu: float = 0.0

    @property
    def p99(self) -> float:
        """Return the time that 99 of 100 responses took no longer than."""
        return statistics.quantiles(self.seconds, n=100)[98]

    def row(self) -> list[str]:
        """Return the row of the table."""
        p50, p95, p99 = (statistics.quantiles(self.seconds, n=100)[n - 1] for n in (50, 95, 99))
        times = [p50, p95, p99, max(self.seconds), max(self.other_seconds, default=0.0)]
        count = len(self.seconds)
        figures = [f"{self.rate:g}", str(count), f"{count / self.lasted:.1f}", *(f"{t:.3f}" for t in times)]
        return [*figures, f"{1000 * self.cpu / count:.1f}", str(dict(self.responses))]


def delivery(project_id: str) -> tuple[bytes, dict[str, str]]:
    """Return a webhook as Magic Hour sends it: body and headers."""
    project = {
        "id": project_id,
        "name": "Benchmark",
        "status": "complete",
        "type": "TEXT_TO_VIDEO",
        "created_at": "2026-11-01T10:00:00Z",
        "enabled": True,
        "credits_charged": 450,
        "width": 1280,
        "height": 720,
        "fps": 30,
        "start_seconds": 0,
        "end_seconds": 15,
        "downloads": [
            {"url": f"https://files/{project_id}?{'s' * 300}", "expires_at": "2026-11-02T10:00:00Z"}
        ],
        "error": None,
    }
    body = json.dumps({"type": "video.completed", "payload": project}).encode()
    timestamp = str(int(time.time()))
    digest = hmac.new(SECRET.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return body, {"magic-hour-event-timestamp": timestamp, "magic-hour-event-signature": digest}


async def run_load(airflow_url: str, receiver_url: str, rate: float, duration: float) -> Load:
    """Send at a rate for some seconds, and request something else of the API server on the side."""
    load = Load(rate)

    async def deliver(session: aiohttp.ClientSession) -> None:
        body, headers = delivery(uuid.uuid4().hex)
        sent = time.monotonic()
        try:
            target = f"{receiver_url}/magichour/webhooks/benchmark"
            async with session.post(target, data=body, headers=headers) as response:
                status = (await response.json())["status"] if response.ok else str(response.status)
                load.responses[status] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            load.responses[type(error).__name__] += 1
        load.seconds.append(time.monotonic() - sent)

    async def call_something_else(session: aiohttp.ClientSession) -> None:
        while True:
            asked = time.monotonic()
            async with session.get(f"{airflow_url}/api/v2/version") as response:
                await response.read()
            load.other_seconds.append(time.monotonic() - asked)
            await asyncio.sleep(0.1)

    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        other = asyncio.create_task(call_something_else(session))
        started = time.monotonic()
        deliveries = []
        for number in range(int(rate * duration)):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            deliveries.append(asyncio.create_task(deliver(session)))
        await asyncio.gather(*deliveries)
        load.lasted = time.monotonic() - started
        other.cancel()
    return load


def cpu_seconds(airflow: LocalAirflow) -> float:
    """Return the CPU time that API server and receiver have used."""
    found = [psutil.Process(airflow.processes.pid(name)) for name in ("api-server", "webhooks")]
    times = [each.cpu_times() for process in found for each in [process, *process.children(recursive=True)]]
    return sum(each.user + each.system for each in times)


def consumed(airflow: LocalAirflow) -> Counter[str]:
    """Return how often the DAG's runs were given each project."""
    runs = airflow.runs(DAG_ID)
    done = [run["dag_run_id"] for run in runs if run["state"] == "success"]
    return Counter(project_id for run in done for project_id in airflow.xcom(DAG_ID, run, "count"))


def main() -> None:
    """Run the loads and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--rates", type=float, nargs="+", default=[30, 45, 60])
    parser.add_argument("--duration", type=float, default=60, help="seconds for each rate")
    parser.add_argument("--parallel", type=int, default=4, help="the receiver's calls of Airflow at once")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, start_services(Path(folder)) as services:
        dags = Path(folder, "dags")
        dags.mkdir()
        (dags / "consumes_webhooks.py").write_text(DAG_FILE)
        with LocalAirflow(Path(folder, "home"), [dags], database_url=services.database_url) as airflow:
            airflow.unpause(DAG_ID)
            text = measure(airflow, arguments.rates, arguments.duration, arguments.parallel)
    print(text)
    if arguments.write:
        write_section("Webhooks", text)


def measure(airflow: LocalAirflow, rates: list[float], duration: float, parallel: int) -> str:
    """Run one load after another, and count what the DAG was given of them; return the section."""
    receiver = start_receiver(airflow, {"benchmark": SECRET}, free_port(), parallel)
    warm = asyncio.run(run_load(airflow.url, receiver, 10, 3))
    accepted = warm.responses["accepted"]
    what = WHAT.format(cores=os.cpu_count(), load=os.getloadavg()[0])
    loads = []
    for rate in rates:
        cpu = cpu_seconds(airflow)
        load = asyncio.run(run_load(airflow.url, receiver, rate, duration))
        load.cpu = cpu_seconds(airflow) - cpu
        print(load.row(), os.getloadavg(), flush=True)
        loads.append(load)
        accepted += load.responses["accepted"]
        time.sleep(10)
    deadline = time.monotonic() + 180
    while len(found := consumed(airflow)) < accepted and time.monotonic() < deadline:
        time.sleep(5)
    figures = [
        at_most(f"99 of 100 responses at {rates[0]:g} a second, s", loads[0].p99, 1),
        at_least(
            f"accepted at {rates[0]:g} a second, %",
            100 * loads[0].responses["accepted"] / len(loads[0].seconds),
            100,
        ),
        at_least("given to runs of the DAG, % of those accepted", 100 * len(found) / accepted, 100),
        at_most("times that a project was given to a run, at most", max(found.values(), default=0), 1),
    ]
    rows = table([*HEAD, "responses"], [load.row() for load in loads])
    return f"{what}\n\n{rows}\n\n{figures_table(figures)}"


if __name__ == "__main__":
    main()

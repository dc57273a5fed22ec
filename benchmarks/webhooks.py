"""
How many webhooks a real API server takes, on PostgreSQL, while a DAG consumes them.

    python -m benchmarks.webhooks [--database URL] [--rates N ...] [--duration SECONDS] [--write]

``--write`` puts the table into docs/benchmarks.md.

Makes a database of its own on that server and drops it. Deliveries are sent at a fixed rate, whether or not
the earlier ones were answered, as Magic Hour does; each is for a project of its own. "Other" is another call
of the same API server, `GET /api/v2/version`, ten times a second: a blocked event loop would show there.
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
import sqlalchemy

from benchmarks.report import write_section
from scripts.local import LocalAirflow

SECRET = "whsec_benchmark"
DAG_ID = "consumes_webhooks"
DAG_FILE = """
from airflow.sdk import dag, task
from airflow_provider_magichour.webhooks import magichour_asset, triggering_projects

@dag(schedule=magichour_asset("video"), max_active_runs=1)
def consumes_webhooks():
    @task
    def count(triggering_asset_events=None):
        return len(triggering_projects(triggering_asset_events))

    count()

consumes_webhooks()
"""


@dataclass
class Load:
    """What came of a number of deliveries at one rate."""

    rate: float
    seconds: list[float] = field(default_factory=list)
    other_seconds: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    lasted: float = 0.0
    cpu: float = 0.0

    def line(self) -> str:
        """Return the row of the table."""
        p50, p95, p99 = (statistics.quantiles(self.seconds, n=100)[n - 1] for n in (50, 95, 99))
        other = max(self.other_seconds, default=0.0)
        return (
            f"| {self.rate:g} | {len(self.seconds)} | {len(self.seconds) / self.lasted:.1f} | {p50:.3f} | "
            f"{p95:.3f} | {p99:.3f} | {max(self.seconds):.3f} | {other:.3f} | "
            f"{1000 * self.cpu / len(self.seconds):.1f} | {dict(self.answers)} |"
        )


WHAT = """\
Deliveries to a real API server (one worker) on PostgreSQL, at a fixed rate, whether or not the earlier ones
were answered; each for a project of its own, while a DAG consumes them. All of Airflow, the database and the
sender shared {cores} cores; the load average before the first row was {load:.1f}. "Other" is another call,
`GET /api/v2/version`, ten times a second: a blocked event loop would show there. What is answered 503, or not
within 10 s, Magic Hour delivers again; it may have been accepted, which the last line shows."""
HEAD = """
| sent/s | events | answered/s | p50 s | p95 s | p99 s | longest s | longest other s | CPU ms each | answers |
|---|---|---|---|---|---|---|---|---|---|"""


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


async def run_load(url: str, rate: float, duration: float) -> Load:
    """Send at a rate for some seconds, and ask for something else of the API server on the side."""
    load = Load(rate)

    async def deliver(session: aiohttp.ClientSession) -> None:
        body, headers = delivery(uuid.uuid4().hex)
        sent = time.monotonic()
        try:
            target = f"{url}/magichour/webhooks/benchmark"
            async with session.post(target, data=body, headers=headers) as answer:
                status = (await answer.json())["status"] if answer.ok else str(answer.status)
                load.answers[status] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            load.answers[type(error).__name__] += 1
        load.seconds.append(time.monotonic() - sent)

    async def look_on(session: aiohttp.ClientSession) -> None:
        while True:
            asked = time.monotonic()
            async with session.get(f"{url}/api/v2/version") as answer:
                await answer.read()
            load.other_seconds.append(time.monotonic() - asked)
            await asyncio.sleep(0.1)

    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        onlooker = asyncio.create_task(look_on(session))
        started = time.monotonic()
        deliveries = []
        for number in range(int(rate * duration)):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            deliveries.append(asyncio.create_task(deliver(session)))
        await asyncio.gather(*deliveries)
        load.lasted = time.monotonic() - started
        onlooker.cancel()
    return load


def cpu_seconds(airflow: LocalAirflow) -> float:
    """Return the CPU time that the API server has used."""
    server = psutil.Process(airflow.processes.pid("api-server"))
    times = [process.cpu_times() for process in [server, *server.children(recursive=True)]]
    return sum(each.user + each.system for each in times)


def consumed(airflow: LocalAirflow) -> int:
    """Return how many projects the DAG's runs were given."""
    runs = airflow.runs(DAG_ID)
    done = [run["dag_run_id"] for run in runs if run["state"] == "success"]
    return sum(airflow.xcom(DAG_ID, run, "count") for run in done)


def main() -> None:
    """Run the loads and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--database",
        default="postgresql+psycopg2://postgres@127.0.0.1:5432/postgres",
        help="SQLAlchemy URL of a PostgreSQL server (default: %(default)s)",
    )
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--rates", type=float, nargs="+", default=[30, 50, 70, 90])
    parser.add_argument("--duration", type=float, default=30, help="seconds for each rate")
    arguments = parser.parse_args()
    server = sqlalchemy.create_engine(arguments.database, isolation_level="AUTOCOMMIT")
    name = f"magichour_webhooks_{uuid.uuid4().hex[:8]}"
    with server.connect() as connection, tempfile.TemporaryDirectory() as folder:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
        dags = Path(folder, "dags")
        dags.mkdir()
        (dags / "consumes_webhooks.py").write_text(DAG_FILE)
        database_url = server.url.set(database=name).render_as_string(hide_password=False)
        secret = json.dumps({"conn_type": "magichour", "extra": {"webhook_secret": SECRET}})
        try:
            with LocalAirflow(
                Path(folder, "home"), [dags], database_url=database_url, connections={"benchmark": secret}
            ) as airflow:
                airflow.wait_for_dag(DAG_ID)
                airflow.api("PATCH", f"/dags/{DAG_ID}", json={"is_paused": False})
                text = measure(airflow, arguments.rates, arguments.duration)
        finally:
            connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))
    print(text)
    if arguments.write:
        write_section("Webhooks", text)


def measure(airflow: LocalAirflow, rates: list[float], duration: float) -> str:
    """Run one load after another, and count what the DAG was given of them; return the section."""
    asyncio.run(run_load(airflow.url, 10, 3))  # warm
    accepted = 30
    lines = [WHAT.format(cores=os.cpu_count(), load=os.getloadavg()[0]), HEAD]
    for rate in rates:
        cpu = cpu_seconds(airflow)
        load = asyncio.run(run_load(airflow.url, rate, duration))
        load.cpu = cpu_seconds(airflow) - cpu
        print(load.line(), flush=True)
        lines.append(load.line())
        accepted += load.answers["accepted"]
    deadline = time.monotonic() + 120
    while consumed(airflow) < accepted and time.monotonic() < deadline:
        time.sleep(2)
    lines.append(f"\nAccepted in all: {accepted}; given to runs of the DAG: {consumed(airflow)}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

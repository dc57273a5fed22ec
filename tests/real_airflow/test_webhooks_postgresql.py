"""Two replicas of the webhook endpoint on one PostgreSQL: races, and a database that goes away."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from scripts.local.processes import Processes, free_port
from tests.support.airflow import AIRFLOW_VERSION

psycopg2 = pytest.importorskip("psycopg2")

SERVER = os.environ.get("MAGICHOUR_TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432")
SECRET = "whsec_postgresql"
DATABASE = f"magichour_test_{uuid.uuid4().hex[:8]}"

#: What the API server does with the plugin, without the rest of it.
SERVE = """
import sys
import uvicorn
from fastapi import FastAPI
from airflow_provider_magichour.webhooks.app import create_app

root = FastAPI()
root.mount("/magichour/webhooks", create_app())
uvicorn.run(root, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""

PREPARE = """
from tests.webhooks.support import schedule_dags
schedule_dags("first", "second")
schedule_dags("third", kind="image")
"""


def query(statement: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(psycopg2.connect(f"{SERVER}/{DATABASE}")) as connection:
        cursor = connection.cursor()
        cursor.execute(statement)
        return list(cursor.fetchall())


def administer(statement: str) -> None:
    with contextlib.closing(psycopg2.connect(f"{SERVER}/postgres")) as connection:
        connection.autocommit = True
        connection.cursor().execute(statement)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The URLs of two servers, each a process of its own."""
    if AIRFLOW_VERSION < (3, 3):
        pytest.skip("the endpoint needs Airflow 3.3")
    try:
        administer(f"CREATE DATABASE {DATABASE}")
    except psycopg2.OperationalError:
        pytest.skip("no PostgreSQL: set MAGICHOUR_TEST_POSTGRESQL to the URL of a server")
    home = tmp_path_factory.mktemp("postgresql")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_CONN_")},
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"{SERVER}/{DATABASE}".replace("://", "+psycopg2://", 1),
        "AIRFLOW_CONN_HOOKED": json.dumps({"conn_type": "magichour", "extra": {"webhook_secret": SECRET}}),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    try:
        with Processes(home / "processes", env) as processes:
            for command in (["-m", "airflow", "db", "migrate"], ["-c", PREPARE]):
                subprocess.run([sys.executable, *command], env=env, check=True, stdout=subprocess.DEVNULL)
            ports = [free_port(), free_port()]
            for port in ports:
                processes.start(f"replica-{port}", [sys.executable, "-c", SERVE, str(port)])
            for port in ports:
                wait_for_port(port)
            yield [f"http://127.0.0.1:{port}/magichour/webhooks/hooked" for port in ports]
    finally:
        administer(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def wait_for_port(port: int, timeout: float = 90) -> None:
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < deadline, "the replica did not start"
        time.sleep(0.2)


def deliver(url: str, kind: str, project_id: str) -> requests.Response:
    body = json.dumps({"type": f"{kind}.completed", "payload": {"id": project_id, "name": "a\x00b"}}).encode()
    now = str(int(time.time()))
    digest = hmac.new(SECRET.encode(), now.encode() + b"." + body, hashlib.sha256).hexdigest()
    headers = {"magic-hour-event-timestamp": now, "magic-hour-event-signature": digest}
    return requests.post(url, data=body, headers=headers, timeout=30)


@pytest.mark.xdist_group("webhooks_postgresql")
class TestReplicas:
    def test_delivery_to_two_servers_counts_once(self, replicas: list[str]) -> None:
        work = [(url, "video", f"race{number}") for number in range(10) for url in replicas * 2]
        with ThreadPoolExecutor(8) as executor:
            answers = list(executor.map(lambda one: deliver(*one), work))
        assert {answer.status_code for answer in answers} == {200}
        assert Counter(answer.json()["status"] for answer in answers) == {"accepted": 10, "duplicate": 30}
        events = query("SELECT extra ->> 'id' FROM asset_event")
        assert sorted(events) == sorted((f"race{number}",) for number in range(10))

    def test_events_of_two_servers_are_stamped_in_commit_order(self, replicas: list[str]) -> None:
        work = [
            (url, kind, f"order{n}{index}")
            for n in range(15)
            for index, url in enumerate(replicas)
            for kind in ("video", "image")
        ]
        with ThreadPoolExecutor(8) as executor:
            assert {answer.status_code for answer in executor.map(lambda one: deliver(*one), work)} == {200}
        stamps = query("SELECT timestamp FROM asset_event ORDER BY id")
        assert stamps == sorted(set(stamps))
        # Whichever run a scheduler makes now takes all of them.
        latest = query("SELECT asset_id, max(timestamp) FROM asset_event GROUP BY asset_id")
        for asset_id, stamp in latest:
            queued = query(f"SELECT created_at FROM asset_dag_run_queue WHERE asset_id = {asset_id}")  # noqa: S608  # a number
            assert queued
            assert min(created_at for (created_at,) in queued) >= stamp

    def test_concurrent_scheduler_run_loses_no_event(self, replicas: list[str]) -> None:
        # What the scheduler does: lock the queue, choose the events, delete the queue, commit.
        deliver(replicas[0], "image", "before")
        with contextlib.closing(psycopg2.connect(f"{SERVER}/{DATABASE}")) as scheduler:
            cursor = scheduler.cursor()
            cursor.execute("SELECT asset_id, target_dag_id FROM asset_dag_run_queue FOR UPDATE")
            with ThreadPoolExecutor(1) as executor:
                answer = executor.submit(deliver, replicas[1], "image", "meanwhile")
                time.sleep(0.5)
                assert not answer.done()
                cursor.execute("DELETE FROM asset_dag_run_queue")
                scheduler.commit()
                assert answer.result().json() == {"status": "accepted"}
        assert query("SELECT target_dag_id FROM asset_dag_run_queue") == [("third",)]

    def test_webhooks_survive_a_database_outage(self, replicas: list[str]) -> None:
        administer(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS false")
        try:
            administer(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{DATABASE}'"  # noqa: S608  # our own name
            )
            assert deliver(replicas[0], "video", "away").status_code == 503
        finally:
            administer(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true")
        assert deliver(replicas[0], "video", "away").json() == {"status": "accepted"}
        assert query("SELECT count(*) FROM asset_event WHERE extra ->> 'id' = 'away'") == [(1,)]

"""Waits through Airflow itself: every mode, and a triggerer lost while a thousand waits are in progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from airflow_provider_magichour import DEFAULT_MAX_CONNECTIONS
from benchmarks.load_server import KEY as LOAD_KEY
from benchmarks.load_server import load_server, project_id
from scripts.local import LocalAirflow
from tests.support.projects import KEY, Projects, project
from tests.support.scripted_server import scripted_server

DAG_FILE = Path(__file__).parents[1] / "dags" / "magichour_waits.py"
MANY = "magichour_many_waits"


def states(run: Any) -> dict[str, str]:
    return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}


@pytest.mark.xdist_group("dag_test")
@pytest.mark.parametrize("stored", [False, True])
def test_every_mode_works_under_dag_test(
    run_dag: Callable[..., Any], connect: Any, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """With a connection of the environment, and one of the metadata database."""
    with scripted_server() as server:
        projects = Projects(server)
        for name in ("p1", "p2"):
            projects.script(name, "rendering", "rendering", project(name))
        conn_id = "magichour_stored" if stored else connect(server.url, KEY)
        if stored:
            store_connection(conn_id, server.url)
        run = run_dag(DAG_FILE, "magichour_modes", {"ids": "p1", "kind": "image", "conn_id": conn_id})
        assert states(run) == dict.fromkeys(("poke", "reschedule", "deferred"), "success")
        assert projects.asked["p1"] >= 5


def store_connection(conn_id: str, url: str) -> None:
    from airflow.models import Connection
    from airflow.utils.session import create_session

    parts = urlsplit(url)
    with create_session() as session:
        session.add(
            Connection(
                conn_id=conn_id,
                conn_type="magichour",
                host=f"{parts.scheme}://{parts.hostname}",
                port=parts.port,
                password=KEY,
            )
        )


def test_killed_triggerer_loses_no_wait(real_airflow: LocalAirflow) -> None:
    with load_server() as server:
        real_airflow.api(
            "POST",
            "/connections",
            json={
                "connection_id": "magichour_load",
                "conn_type": "magichour",
                "host": server.url,
                "password": LOAD_KEY,
                "extra": '{"requests_per_second": 200}',
            },
        )
        made = time.time()
        batches = [[project_id(f"{task}x{n}", 100, made) for n in range(250)] for task in range(4)]
        run = real_airflow.trigger(MANY, {"batches": batches})
        ends = time.monotonic() + 100
        while time.monotonic() < ends:
            waits = [t for t in real_airflow.task_instances(MANY, run) if t["task_id"] == "wait"]
            if len(waits) == 4 and {t["state"] for t in waits} == {"deferred"} and server.stats()["requests"]:
                break
            time.sleep(0.5)
        else:
            pytest.fail("not all tasks were deferred before their projects were complete")
        real_airflow.kill("triggerer")
        real_airflow.start("triggerer")
        assert real_airflow.wait_for_run(MANY, run, timeout=400) == "success"
        assert real_airflow.xcom(MANY, run, "count") == 1000
        waits = [t for t in real_airflow.task_instances(MANY, run) if t["task_id"] == "wait"]
        assert [t["try_number"] for t in waits] == [1] * 4
        # A busy machine makes the API slow, and connections grow with its latency.
        assert server.stats()["most_open"] <= DEFAULT_MAX_CONNECTIONS + 1
    log = real_airflow.task_log(MANY, run, "wait", map_index=0)
    assert "of 250 projects finished" in log
    assert LOAD_KEY not in log

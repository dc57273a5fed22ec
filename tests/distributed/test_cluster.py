"""Airflow with Celery, PostgreSQL and Redis on this machine: what one can do to it, and that it heals."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from scripts.local import LocalAirflow
from scripts.local.client import wait_until
from scripts.local.services import Services, ServicesError, start_services
from tests.support.airflow import IS_AIRFLOW_3

pytestmark = [pytest.mark.real_airflow, pytest.mark.xdist_group("cluster")]

DAGS = Path(__file__).resolve().parents[1] / "dags"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    if not IS_AIRFLOW_3:
        pytest.skip("the tests with a whole Airflow are written for Airflow 3")
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(start_services(tmp_path_factory.mktemp("services")))
        except ServicesError as error:
            pytest.skip(str(error))
        yield running


@pytest.fixture(scope="module")
def cluster(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    with LocalAirflow(
        tmp_path_factory.mktemp("cluster") / "home",
        [DAGS],
        triggerers=2,
        celery_workers=2,
        database_url=services.database_url,
        broker_url=services.broker_url,
        result_backend=services.result_backend,
    ) as airflow:
        yield airflow


def worker_of(cluster: LocalAirflow, pid: int) -> str:
    (found,) = [name for name in ("worker", "worker-2") if pid in cluster.processes.marked_pids(name)]
    return found


def test_another_worker_takes_over_the_task_of_a_dead_one(cluster: LocalAirflow) -> None:
    run = cluster.trigger("plain", {"sleep": 600})
    pids = cluster.wait_for_task_pids("plain", run, "work")
    worker = worker_of(cluster, pids[-1])
    cluster.kill(worker)
    assert cluster.processes.marked_pids(worker) == []
    assert cluster.restart_dead() == []  # what was killed on purpose stays away
    assert cluster.wait_for_run("plain", run) == "success"
    assert cluster.xcom("plain", run, "work")["try"] > 1
    cluster.start(worker)
    cluster.wait_until_healthy()


def test_dead_process_is_restarted(cluster: LocalAirflow) -> None:
    before = cluster.processes.pid("triggerer-2")
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: not cluster.processes.is_running("triggerer-2"), 60, "its end")
    assert cluster.restart_dead() == ["triggerer-2"]
    assert cluster.restart_dead() == []
    assert cluster.processes.pid("triggerer-2") != before


def test_cluster_recovers_from_a_database_crash(cluster: LocalAirflow, services: Services) -> None:
    if not services.can_restart:
        pytest.skip(f"PostgreSQL cannot be restarted: {services.source}")
    run = cluster.trigger("plain", {"sleep": 20})
    cluster.wait_for_task_pids("plain", run, "work")
    services.restart_postgresql()

    def healed() -> bool:
        cluster.restart_dead()
        with contextlib.suppress(requests.RequestException):
            return cluster.run("plain", run)["state"] == "success"
        return False

    wait_until(healed, 300, "the run to succeed")

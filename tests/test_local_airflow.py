"""The real Airflow that demos and tests run in: what one can do to it, and that it finds this provider."""

from __future__ import annotations

import pytest

from airflow_provider_magichour import get_provider_info
from scripts.local import LocalAirflow
from scripts.local.client import wait_until


def test_run_leaves_logs_and_xcoms(real_airflow: LocalAirflow) -> None:
    run = real_airflow.trigger("plain", {"a": [1]})
    assert real_airflow.wait_for_run("plain", run) == "success"
    assert real_airflow.xcom("plain", run, "work") == {"try": 1, "conf": {"a": [1]}}
    assert real_airflow.xcom("plain", run, "work", key="none") is None
    assert "try 1" in real_airflow.task_log("plain", run, "work")
    assert real_airflow.import_errors() == []


def test_task_of_a_killed_worker_is_retried(real_airflow: LocalAirflow) -> None:
    run = real_airflow.trigger("plain", {"sleep": 300})
    supervisor, task = real_airflow.wait_for_task_pids("plain", run, "work")
    assert real_airflow.kill_task("plain", run, "work") == [supervisor, task]
    wait_until(lambda: not real_airflow.task_pids("plain", run, "work"), 60, "the end of the processes")
    assert real_airflow.wait_for_run("plain", run, timeout=300) == "success"
    assert real_airflow.xcom("plain", run, "work")["try"] == 2


def test_cleared_task_runs_again(real_airflow: LocalAirflow) -> None:
    run = real_airflow.trigger("plain")
    real_airflow.wait_for_run("plain", run)
    real_airflow.clear("plain", run, ["work"])
    assert real_airflow.wait_for_run("plain", run) == "success"
    assert real_airflow.task_instance("plain", run, "work")["try_number"] == 2


def test_killed_triggerer_can_be_restarted(real_airflow: LocalAirflow) -> None:
    before = real_airflow.processes.pid("triggerer")
    real_airflow.kill("triggerer")
    assert not real_airflow.processes.is_running("triggerer")
    real_airflow.start("triggerer")
    real_airflow.wait_until_healthy()
    assert real_airflow.processes.pid("triggerer") != before


def test_connection_is_written_and_replaced(real_airflow: LocalAirflow) -> None:
    writes = (real_airflow.replace_connection, real_airflow.store_connection)
    for port, write in enumerate([*writes, *writes]):
        write("listed", f"magichour://:key@http%3A%2F%2F127.0.0.1%3A{port}")
        asked = {"connection_id_pattern": "listed"}
        found = real_airflow.api("GET", "/connections", params=asked)["connections"]
        assert [each["host"] for each in found] == [f"http://127.0.0.1:{port}"]


def test_connection_form_is_served(real_airflow: LocalAirflow) -> None:
    forms = real_airflow.session.get(f"{real_airflow.url}/ui/connections/hook_meta", timeout=60).json()
    form = next((form for form in forms if form["connection_type"] == "magichour"), None)
    if form is None:
        pytest.skip("the package runs from its folder, it is not installed")
    described = get_provider_info()["connection-types"][0]
    assert form["hook_name"] == "Magic Hour"
    assert set(form["extra_fields"]) == set(described["conn-fields"])
    assert form["extra_fields"]["webhook_secret"]["schema"]["format"] == "password"
    assert form["standard_fields"]["password"]["title"] == "API key"
    assert form["standard_fields"]["url_schema"]["hidden"]

"""How a wait ends that did not succeed: timeouts, kills, skips; the same in all modes."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
)

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._polling.wait_request import WaitRequest
from airflow_provider_magichour.sensors import _run
from tests.sensors.support import run, sensor
from tests.support.projects import Projects, project
from tests.support.scripted_server import Reply


def test_all_modes_raise_the_same_timeout(mode: str, projects: Projects) -> None:
    projects.script("p1", "rendering")
    with pytest.raises(errors.MagicHourSensorTimeoutError) as caught:
        run(sensor(mode, ["p1", "p2"], timeout=1))
    assert isinstance(caught.value, errors.MagicHourTimeoutError)
    assert isinstance(caught.value, AirflowSensorTimeout)
    assert str(caught.value).startswith("Timed out waiting for 1 of 2 projects: p1 (status: rendering), at ")
    assert caught.value.project_id == "p1"


def test_all_modes_raise_the_same_timeout_when_the_server_is_down(mode: str, projects: Projects) -> None:
    projects.script("p1", Reply(503, {"message": "overloaded"}))
    with pytest.raises(errors.MagicHourSensorTimeoutError, match="overloaded"):
        run(sensor(mode, "p1", timeout=1))


@pytest.mark.parametrize("mode", ["poke", "reschedule"], indirect=True)  # deferred, Airflow does not watch it
@pytest.mark.parametrize("option", [{}, {"soft_fail": True}])
def test_execution_timeout_is_the_sensors_own_timeout(
    projects: Projects, mode: str, option: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.providers.common.compat.sdk import AirflowTaskTimeout

    def ring() -> None:
        raise AirflowTaskTimeout

    task = sensor(mode, "p1", execution_timeout=timedelta(seconds=9), **option)
    for name in ("wait", "check_once"):
        monkeypatch.setattr(f"airflow_provider_magichour.sensors._run.SensorRun.{name}", lambda _: ring())
    expected = AirflowSkipException if option else errors.MagicHourSensorTimeoutError
    with pytest.raises(expected, match="Timed out after execution_timeout"):
        run(task)


def test_wait_on_a_worker_ends_before_the_alarm_of_execution_timeout(
    projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects.script("p1", "rendering")
    left: list[float] = []

    class Request(WaitRequest):
        def __init__(self, kind: str, ids: Any, deadline: float, *arguments: Any, **more: Any) -> None:
            left.append(deadline - time.time())
            super().__init__(kind, ids, deadline, *arguments, **more)

    monkeypatch.setattr(_run, "WaitRequest", Request)
    with pytest.raises(errors.MagicHourSensorTimeoutError, match="Timed out waiting for project p1"):
        run(sensor("poke", "p1", execution_timeout=timedelta(seconds=1)))
    assert left[0] <= 0.9  # a tenth is left for the last status check


@pytest.mark.parametrize("option", ["soft_fail", "never_fail"])
@pytest.mark.parametrize(
    ("last", "why"),
    [
        ("canceled", "Project p1 was canceled in the Magic Hour web app"),
        ("rendering", r"Timed out waiting for project p1 \(status: rendering\), at "),
        (Reply(404, {"message": "none such"}), "GET /v1/image-projects/p1 returned 404: none such"),
    ],
)
def test_soft_fail_skips_with_the_reason(
    mode: str, projects: Projects, last: Any, why: str, option: str
) -> None:
    projects.script("p1", last)
    with pytest.raises(AirflowSkipException, match=f"^Skipping due to {option} is set to True: {why}"):
        run(sensor(mode, "p1", timeout=1 if last == "rendering" else 120, **{option: True}))


@pytest.mark.parametrize("option", ["soft_fail", "never_fail"])
def test_soft_fail_does_not_skip_a_running_project(mode: str, projects: Projects, option: str) -> None:
    projects.script("p1", "rendering", Reply(500), "complete")
    assert run(sensor(mode, "p1", **{option: True})) == project("p1", kind="image")


@pytest.mark.parametrize("mode", ["poke", "deferrable"], indirect=True)
def test_kill_ends_the_wait_on_the_worker(mode: str, projects: Projects) -> None:
    """As Airflow does it: a signal's handler on the main thread, which waits, calls ``on_kill``."""
    projects.script("p1", "rendering")
    task = sensor(mode, "p1", timeout=500, defer_after=300, poll_interval=300)
    killed_at = 0.0

    def kill(*_: Any) -> None:
        nonlocal killed_at
        killed_at = time.monotonic()
        task.on_kill()

    before = signal.signal(signal.SIGUSR1, kill)

    def kill_while_it_waits() -> None:
        while not projects.asked["p1"]:
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGUSR1)

    killer = threading.Thread(target=kill_while_it_waits, daemon=True)
    killer.start()
    try:
        with pytest.raises(errors.MagicHourError, match="killed"):
            run(task)
    finally:
        killer.join(60)
        signal.signal(signal.SIGUSR1, before)
    assert time.monotonic() - killed_at < 60

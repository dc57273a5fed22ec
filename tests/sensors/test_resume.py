"""How the sensor resumes from a deferral, whoever ended it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowSkipException,
)

from airflow_provider_magichour import exceptions as errors
from tests.sensors.support import sensor
from tests.support.airflow import IS_AIRFLOW_3
from tests.support.projects import Projects, project
from tests.support.tasks import task_context

#: What Airflow resumes a task with whose deferral took longer than its ``timeout``.
DEFERRAL_TIMEOUT = {"error": "Trigger timeout" if IS_AIRFLOW_3 else "Trigger/execution timeout"}


def test_task_deferred_by_the_first_version_resumes_with_the_event_alone(projects: Projects) -> None:
    event = {"kind": "image", "outcomes": {"p1": "complete", "p2": "complete"}}
    found = sensor("deferrable", ["p1", "p2"]).execute_complete(task_context("wait"), event)
    assert [one["id"] for one in found] == ["p1", "p2"]


@pytest.mark.parametrize(
    "event",
    [
        None,
        "complete",
        {},
        {"kind": "video", "outcomes": {"p1": "complete"}},
        {"kind": "image", "outcomes": {"p2": "complete"}},
        {"kind": "image", "outcomes": {"p1": "complete", "p2": "complete"}},
        {"kind": "image", "outcomes": {}},
        {"kind": "image", "outcomes": {"p1": "rendering"}},
        {"kind": "image", "outcomes": {"p1": ["complete"]}},
        {"kind": "image", "project_ids": ["p2"], "error": {"class": "MagicHourError", "args": ["x"]}},
        {"kind": "image", "project_ids": ["p1"], "error": {"class": "SystemExit", "args": []}},
        {"kind": "image", "project_ids": ["p1"], "error": None},
    ],
)
def test_foreign_event_fails_the_task(projects: Projects, event: Any) -> None:
    with pytest.raises(errors.MagicHourError):
        sensor("deferrable", "p1").execute_complete(task_context("wait"), event)
    assert not projects.asked


def test_event_contradicted_by_the_api_fails(projects: Projects) -> None:
    projects.script("p1", "rendering")
    event = {"kind": "image", "outcomes": {"p1": "complete"}}
    with pytest.raises(errors.MagicHourError, match="not finished"):
        sensor("deferrable", "p1").execute_complete(task_context("wait"), event)


@pytest.mark.parametrize("option", ["soft_fail", "never_fail"])
def test_soft_fail_skips_when_resumed_by_airflow(projects: Projects, option: str) -> None:
    task = sensor("deferrable", "p1", **{option: True})
    event = {"kind": "image", "outcomes": {"p1": "canceled"}}
    projects.script("p1", "canceled")
    with pytest.raises(AirflowSkipException):
        task.resume_execution("execute_complete", {"event": event}, task_context("wait"))


def test_soft_fail_skips_alike_when_resumed_and_on_a_worker(projects: Projects) -> None:
    task = sensor("deferrable", "p1", soft_fail=True)
    foreign = {"kind": "image", "outcomes": {"p2": "complete"}}
    with pytest.raises(errors.MagicHourError, match="not trusted"):
        task.resume_execution("execute_complete", {"event": foreign}, task_context("wait"))
    error = {"class": "MagicHourTimeoutError", "args": ["p1 was late"]}
    late = {"kind": "image", "project_ids": ["p1"], "error": error}
    with pytest.raises(AirflowSkipException, match="p1 was late"):
        task.resume_execution("execute_complete", {"event": late}, task_context("wait"))


@pytest.mark.parametrize("reason", [DEFERRAL_TIMEOUT, {"error": "Trigger failure", "traceback": ["Oops"]}])
@pytest.mark.parametrize("option", [{}, {"soft_fail": True}, {"never_fail": True}])
def test_complete_project_is_returned_where_the_deferral_failed(
    projects: Projects, option: dict[str, Any], reason: dict[str, Any]
) -> None:
    task = sensor("deferrable", "p1", **option)
    found = task.resume_execution("__fail__", reason, task_context("wait"))
    assert found == project("p1", kind="image")


def test_deferral_timeout_raises_the_same_error(projects: Projects) -> None:
    projects.script("p1", "rendering")
    context = task_context("wait", start_date=datetime.now(UTC) - timedelta(seconds=21))
    with pytest.raises(errors.MagicHourSensorTimeoutError, match=r"p1 \(status: rendering\)"):
        sensor("deferrable", "p1", timeout=20).resume_execution("__fail__", DEFERRAL_TIMEOUT, context)


@pytest.mark.parametrize("option", [{}, {"soft_fail": True}])
def test_broken_trigger_fails_the_task_whose_project_is_not_finished(
    projects: Projects, option: dict[str, Any]
) -> None:
    projects.script("p1", "rendering")
    task = sensor("deferrable", "p1", **option)
    with pytest.raises(AirflowSkipException if option else AirflowException, match="Trigger failure"):
        task.resume_execution("__fail__", {"error": "Trigger failure"}, task_context("wait"))

"""What the sensor does before it defers, and what it hands to the trigger."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    TaskDeferred,
)

from tests.sensors.support import deferred, sensor
from tests.support.projects import KEY, Projects, project
from tests.support.tasks import rebuilt, stored, task_context


def test_sensor_defers_once_without_a_secret(projects: Projects) -> None:
    ids = [f"p{n}" for n in range(1000)]
    for one in ids:
        projects.script(one, "rendering")
    context = task_context("wait")
    ended = deferred(sensor("deferrable", ids), context)
    assert KEY not in json.dumps(stored(ended.trigger.serialize()[1]))
    assert len(rebuilt(ended.trigger).project_ids) == 1000
    assert context["ti"].xcoms.pull("wait", "_link_MagicHourProjectLink").endswith("?imageId=p0")


def test_finished_project_is_not_deferred(projects: Projects) -> None:
    assert sensor("deferrable", "p1").execute(task_context("wait")) == project("p1", kind="image")


def test_short_render_is_waited_for_on_the_worker(projects: Projects) -> None:
    now = datetime.now(UTC).isoformat()
    projects.script("p1", project("p1", "rendering", created_at=now), project("p1", created_at=now))
    task = sensor("deferrable", "p1", poll_interval=0.05)
    assert task.execute(task_context("wait"))["status"] == "complete"


@pytest.mark.parametrize("defer_after", [0, "0", timedelta(0)])
def test_defer_after_zero_defers_at_once(projects: Projects, defer_after: Any) -> None:
    now = datetime.now(UTC).isoformat()
    projects.script("p1", project("p1", "rendering", created_at=now))
    deferred(sensor("deferrable", "p1", defer_after=defer_after), task_context("wait"))
    assert projects.asked["p1"] == 1


def test_defer_after_waits_so_long_on_the_worker(projects: Projects) -> None:
    projects.script("p1", *["rendering"] * 4, "complete")
    task = sensor("deferrable", "p1", kind="video", defer_after=60, poll_interval=0.05)
    assert task.execute(task_context("wait"))["status"] == "complete"


def test_deadline_counts_from_the_start_of_the_try(projects: Projects) -> None:
    projects.script("p1", "rendering")
    start = datetime.now(UTC) - timedelta(seconds=100)
    context = task_context("wait", start_date=start)
    ended = deferred(sensor("deferrable", "p1", timeout=3600), context)
    assert ended.trigger.deadline == start.timestamp() + 3600
    assert ended.timeout is not None
    assert ended.timeout.total_seconds() > 3500 + 60
    shorter = sensor("deferrable", "p1", timeout=3600, execution_timeout=timedelta(minutes=10))
    assert deferred(shorter, context).trigger.deadline == start.timestamp() + 600


def test_long_list_waits_in_several_triggers_with_one_deadline(
    projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.deferral.MAX_STORED_BYTES", 3_500)
    ids = [f"project-{number:04d}" for number in range(100)]
    for one in ids:
        projects.script(one, "rendering", "complete")
    context = task_context("wait")
    task = sensor("deferrable", ids, poll_interval=None, return_projects=False)
    parts, deadlines = [], set()
    ended = deferred(task, context)
    while True:
        trigger = rebuilt(ended.trigger)
        parts.append(trigger.project_ids)
        deadlines.add(trigger.deadline)
        event = {"kind": "image", "outcomes": dict.fromkeys(trigger.project_ids, "complete")}
        try:
            found = task.execute_complete(context, event, **stored(ended.kwargs or {}))
            break
        except TaskDeferred as again:
            ended = again
    assert [one for part in parts for one in part] == ids
    assert len(parts) > 1
    assert len(deadlines) == 1
    assert [one["id"] for one in found] == ids

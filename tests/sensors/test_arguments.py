"""The sensor's arguments, and what another task returned as one."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
)

from airflow_provider_magichour import exceptions as errors
from tests.sensors.support import deferred, run, sensor
from tests.support.projects import Projects, project
from tests.support.tasks import task_context


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"project_id": None}, "project_id"),
        ({"project_id": ""}, "project_id"),
        ({"project_id": "  "}, "project_id"),
        ({"kind": "sculpture"}, "kind"),
        ({"kind": None}, "kind"),
        ({"poll_interval": 0}, "poll_interval"),
        ({"poll_interval": -1}, "poll_interval"),
        ({"poll_interval": float("nan")}, "poll_interval"),
        ({"poll_interval": "soon"}, "poll_interval"),
        ({"timeout": -1}, "timeout"),
        ({"poke_interval": -1}, "poke_interval"),
    ],
)
def test_constructor_refuses_bad_arguments(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises((ValueError, AirflowException), match=named):
        sensor("poke", **{"project_id": "p1", **arguments})


@pytest.mark.parametrize("value", [None, "", ["p1", None], "../p1", {"name": "p1"}, 7])
def test_rendered_value_that_is_no_id_is_refused(mode: str, projects: Projects, value: Any) -> None:
    task = sensor(mode, "p1")
    task.project_id = value
    with pytest.raises(errors.MagicHourArgumentError, match="project_id"):
        run(task)
    assert not projects.asked


def test_empty_list_is_nothing_to_wait_for(mode: str, projects: Projects) -> None:
    assert run(sensor(mode, [])) == []
    assert not projects.asked


def test_explicit_poke_interval_is_the_poll_interval(projects: Projects) -> None:
    projects.script("p1", "rendering")
    plain = {"poll_interval": None}
    assert deferred(sensor("deferrable", "p1", **plain), task_context()).trigger.poll_interval is None
    explicit = sensor("deferrable", "p1", poke_interval=7, **plain)
    assert deferred(explicit, task_context()).trigger.poll_interval == 7
    both = sensor("deferrable", "p1", poke_interval=timedelta(seconds=7), poll_interval=3)
    assert deferred(both, task_context()).trigger.poll_interval == 3


@pytest.mark.parametrize("argument", ["exponential_backoff", "max_wait", "silent_fail"])
def test_argument_without_a_use_is_refused_with_a_sentence(argument: str) -> None:
    with pytest.raises(errors.MagicHourArgumentError, match=f"{argument} is not supported: "):
        sensor("poke", "p1", **{argument: 5})


def test_poke_interval_of_zero_is_a_second(monkeypatch: pytest.MonkeyPatch, projects: Projects) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.schedule.MIN_POLL_INTERVAL", 0.4)
    projects.script("p1", "rendering", "rendering", "complete")
    started = time.monotonic()
    run(sensor("poke", "p1", poll_interval=None, poke_interval=0))
    assert time.monotonic() - started >= 0.8


@pytest.mark.parametrize(
    "value",
    [
        {"id": "p1", "kind": "image", "tool": "ai-image-generator", "credits_charged": 5},
        {"project": {"id": "p1", "status": "complete"}, "files": [], "kind": "image"},
        {"id": "p1", "kind": "image", "status": "complete"},
    ],
)
def test_result_of_another_task_names_the_project_and_its_kind(
    mode: str, projects: Projects, value: dict[str, Any]
) -> None:
    assert run(sensor(mode, value, kind=None)) == project("p1", kind="image")
    found = run(sensor(mode, [value, {"id": "p2", "kind": "image"}], kind=None, return_projects=False))
    assert [one["id"] for one in found] == ["p1", "p2"]
    assert run(sensor(mode, run(sensor(mode, value, kind=None)), kind=None))["id"] == "p1"


def test_contradicting_kind_is_refused_without_printing_the_value(mode: str, projects: Projects) -> None:
    value = {"id": "p1", "kind": "video", "downloads": [{"url": "https://x/?signature=secret"}]}
    task = sensor(mode, "p1")
    task.project_id = value
    with pytest.raises(errors.MagicHourArgumentError, match="video") as caught:
        run(task)
    assert "secret" not in str(caught.value)

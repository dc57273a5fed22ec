"""What a person's kill deletes: nothing, unless the user asked for that."""

from __future__ import annotations

import asyncio
import time

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_magichour import exceptions
from airflow_provider_magichour import triggers as killing
from airflow_provider_magichour.simulator import Simulator
from airflow_provider_magichour.triggers import MagicHourGenerateTrigger
from tests.operators.support import CREATE, bodies, generate, only_project, posts
from tests.support.tasks import TaskStateStore, rebuilt, run_task, task_context

pytestmark = pytest.mark.usefixtures("no_pauses")


def test_kill_deletes_nothing_by_default(sim: Simulator) -> None:
    task = generate()
    run_task(task, task_context(store=TaskStateStore()))
    task.on_kill()
    assert sim.requests("delete_project") == []


def test_killed_operator_deletes_running_projects(sim: Simulator) -> None:
    task = generate(bodies(3), delete_on_kill=True)
    task.on_kill()  # before anything was submitted
    run_task(task, task_context(store=TaskStateStore()))
    task.on_kill()
    task.on_kill()  # what is gone is done
    assert not any(one["enabled"] for one in sim.state()["projects"].values())


def test_killed_trigger_deletes_running_projects(sim: Simulator) -> None:
    sim.faults({"match": CREATE, "duration": 60})
    context = task_context(store=TaskStateStore())
    with pytest.raises(TaskDeferred) as caught:
        generate(deferrable=True, delete_on_kill=True).execute(context)
    trigger = rebuilt(caught.value.trigger)
    assert isinstance(trigger, MagicHourGenerateTrigger)
    asyncio.run(trigger.on_kill())
    assert not sim.state()["projects"][only_project(sim)]["enabled"]


def test_kill_returns_soon_and_raises_nothing(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(killing, "MAX_SECONDS", 0.5)
    task = generate(bodies(2), delete_on_kill=True)
    run_task(task, task_context(store=TaskStateStore()))
    sim.faults({"match": {"route": "delete_project"}, "delay": 30})
    begun = time.monotonic()
    task.on_kill()
    assert time.monotonic() - begun < 10
    assert "not deleted" in caplog.text


def test_project_deleted_by_the_kill_is_submitted_again(sim: Simulator) -> None:
    store, task = TaskStateStore(), generate(delete_on_kill=True, timeout=0.2)
    sim.faults({"match": CREATE, "times": 1, "duration": 60})
    with pytest.raises(exceptions.MagicHourTimeoutError):
        run_task(task, task_context(store=store))
    sim.end_project(only_project(sim))
    task.on_kill()
    run_task(generate(), task_context(store=store, max_tries=1))
    assert posts(sim) == 2


def test_proxy_404_page_does_not_count_as_deleted(sim: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    task = generate(delete_on_kill=True)
    run_task(task, task_context(store=TaskStateStore()))
    sim.faults({"match": {"route": "delete_project"}, "status": 404, "body": "<html>blocked</html>"})
    task.on_kill()
    assert "was not deleted" in caplog.text

"""What a person's kill deletes: nothing, unless the user asked for that."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_magichour import exceptions
from airflow_provider_magichour import triggers as killing
from airflow_provider_magichour.operators import MagicHourGenerateOperator
from airflow_provider_magichour.simulator import Simulator
from airflow_provider_magichour.triggers import MagicHourGenerateTrigger
from tests.operators.support import (
    CREATE,
    bodies,
    execute,
    generate,
    only_project,
    operator,
    posts,
    wait_for,
)
from tests.support.tasks import TaskStateStore, rebuilt, run_task, task_context

pytestmark = pytest.mark.usefixtures("no_pauses")


def test_kill_deletes_nothing_by_default(sim: Simulator) -> None:
    task = generate()
    run_task(task, task_context(store=TaskStateStore()))
    task.on_kill()
    assert sim.requests("delete_project") == []


@pytest.fixture
def long(sim: Simulator) -> Simulator:
    """Renders take longer than the tests."""
    sim.faults({"match": CREATE, "duration": 600})
    return sim


def waiting_task(context: Any, count: int = 1, **arguments: Any) -> MagicHourGenerateOperator:
    """Return a task whose wait has timed out, so that its projects go on."""
    task = generate(bodies(count), timeout=0.3, **arguments)
    with pytest.raises(exceptions.MagicHourTimeoutError):
        run_task(task, context)
    return task


def test_killed_operator_deletes_running_projects(long: Simulator) -> None:
    generate(delete_on_kill=True).on_kill()  # before anything was submitted
    task = waiting_task(task_context(store=TaskStateStore()), 3, delete_on_kill=True)
    task.on_kill()
    task.on_kill()  # what is gone is done
    assert not any(one["enabled"] for one in long.state()["projects"].values())


def test_kill_spares_complete_projects(long: Simulator) -> None:
    store = TaskStateStore()
    task = waiting_task(task_context(store=store), 2, delete_on_kill=True)
    complete, running = long.state()["projects"]
    long.end_project(complete)
    task.on_kill()
    projects = long.state()["projects"]
    assert projects[complete]["enabled"]
    assert not projects[running]["enabled"]
    records = [json.loads(value) for value in store.values.values()]
    killed = [one["id"] for one in records if one.get("reported", {}).get("why") == "killed"]
    assert killed == [running]


def test_killed_project_is_paid_again_only_after_a_clear(long: Simulator) -> None:
    store = TaskStateStore()
    waiting_task(task_context(store=store), 2, delete_on_kill=True).on_kill()
    long.clear_faults()
    with pytest.raises(exceptions.MagicHourBatchFailedError, match="delete_on_kill"):
        run_task(generate(bodies(2)), task_context(store=store, try_number=2))
    assert posts(long) == 2
    run_task(generate(bodies(2)), task_context(store=store, try_number=3, max_tries=1))
    assert posts(long) == 4


def test_kill_deletes_nothing_where_it_cannot_be_recorded(
    long: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TaskStateStore()
    task = waiting_task(task_context(store=store), delete_on_kill=True)
    with monkeypatch.context() as away:
        away.setattr(store, "set", unavailable)
        task.on_kill()
    long.end_project(only_project(long))
    run_task(generate(bodies(1)), task_context(store=store, try_number=2))
    assert posts(long) == 1


def unavailable(*_: object, **__: object) -> None:
    raise ConnectionError("the store is away")


def test_kill_that_could_not_delete_goes_on_with_the_project(long: Simulator) -> None:
    store = TaskStateStore()
    task = waiting_task(task_context(store=store), delete_on_kill=True)
    long.faults({"match": {"route": "delete_project"}, "status": 500})
    task.on_kill()
    long.clear_faults()
    long.end_project(only_project(long))
    run_task(generate(bodies(1)), task_context(store=store, try_number=2))
    assert posts(long) == 1


def test_deletion_by_a_kill_that_takes_effect_after_a_retry_is_not_paid_again(long: Simulator) -> None:
    store = TaskStateStore()
    task = waiting_task(task_context(store=store, max_tries=3), delete_on_kill=True)
    long.faults({"match": {"route": "delete_project"}, "status": 504, "html": True})
    task.on_kill()
    long.clear_faults()
    with pytest.raises(exceptions.MagicHourTimeoutError):
        run_task(generate(bodies(1), timeout=0.3), task_context(store=store, try_number=2, max_tries=3))
    operator().hook.delete_project("image", only_project(long))
    with pytest.raises(exceptions.MagicHourNotFoundError, match="delete_on_kill"):
        run_task(generate(bodies(1)), task_context(store=store, try_number=3, max_tries=3))
    assert posts(long) == 1


@pytest.mark.parametrize("make", [operator, generate])
def test_kill_stops_submitting(sim: Simulator, make: Callable[..., Any]) -> None:
    sim.faults({"match": CREATE, "delay_after": 0.2, "duration": 600})
    store = TaskStateStore()
    task = make(bodies(40))
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(execute, task, task_context(store=store))
        wait_for(lambda: posts(sim) >= 8)
        task.on_kill()
        at_the_kill = posts(sim)
        with pytest.raises(exceptions.MagicHourError):
            running.result(15)  # of 30 s that the wait may last
    assert posts(sim) == at_the_kill < 20
    recorded = [json.loads(value) for key, value in store.values.items() if "submit" in key]
    assert sorted(one["id"] for one in recorded) == sorted(sim.state()["projects"])


def test_kill_deletes_what_was_being_submitted(sim: Simulator) -> None:
    sim.faults({"match": CREATE, "delay_after": 0.3, "duration": 600})
    task = generate(bodies(40), delete_on_kill=True, timeout=2)
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(execute, task, task_context(store=TaskStateStore()))
        wait_for(lambda: posts(sim) >= 4)
        task.on_kill()
        with pytest.raises(exceptions.MagicHourError):
            running.result(60)
    projects = sim.state()["projects"].values()
    assert len(projects) >= 4
    assert not any(one["enabled"] for one in projects)


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
    long: Simulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(killing, "MAX_SECONDS", 0.5)
    task = waiting_task(task_context(store=TaskStateStore()), 2, delete_on_kill=True)
    long.faults({"match": {"route": "delete_project"}, "delay": 30})
    begun = time.monotonic()
    task.on_kill()
    assert time.monotonic() - begun < 10
    assert "not deleted" in caplog.text


def test_proxy_404_page_does_not_count_as_deleted(long: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    task = waiting_task(task_context(store=TaskStateStore()), delete_on_kill=True)
    long.faults({"match": {"route": "delete_project"}, "status": 404, "body": "<html>blocked</html>"})
    task.on_kill()
    assert "was not deleted" in caplog.text

"""What a person's kill deletes: nothing, unless the user requested that."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_magichour import exceptions
from airflow_provider_magichour import triggers as killing
from airflow_provider_magichour.operators import MagicHourGenerateOperator, _create, _earlier_tries
from airflow_provider_magichour.operators._submit_records import SubmitRecords
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
from tests.support.airflow import AIRFLOW_VERSION
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
    with pytest.raises(exceptions.MagicHourNotFoundError, match=f"{running} was deleted"):
        run_task(generate(bodies(2)), task_context(store=store, try_number=2))
    assert posts(long) == 2


def test_kill_spares_what_completes_while_its_deletion_is_recorded(
    long: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TaskStateStore()
    task = waiting_task(task_context(store=store), delete_on_kill=True)
    record = SubmitRecords.mark_reported

    def record_slowly(*args: Any) -> bool:
        long.end_project(only_project(long))
        return record(*args)

    monkeypatch.setattr(SubmitRecords, "mark_reported", record_slowly)
    task.on_kill()
    assert long.state()["projects"][only_project(long)]["enabled"]
    run_task(generate(bodies(1)), task_context(store=store, try_number=2))
    assert posts(long) == 1


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


def test_killed_project_of_a_run_that_was_made_again_needs_one_clear(long: Simulator, tmp_path: Path) -> None:
    context = task_context(try_number=6, max_tries=7)
    waiting_task(context, delete_on_kill=True, destination=str(tmp_path)).on_kill()
    long.clear_faults()
    again = generate(bodies(1), destination=str(tmp_path))
    with pytest.raises(exceptions.MagicHourNotFoundError, match="delete_on_kill"):
        run_task(again, task_context(max_tries=1))
    run_task(again, task_context(try_number=2, max_tries=2))
    assert posts(long) == 2


def test_clear_that_went_on_with_a_killed_project_is_not_a_clear_of_a_later_404(
    long: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_earlier_tries, "NOT_FOUND_SECONDS", 0.0)
    store, cleared = TaskStateStore(), {"max_tries": 5}
    task = waiting_task(task_context(store=store, max_tries=3), delete_on_kill=True)
    long.faults({"match": {"route": "delete_project"}, "status": 504, "html": True})
    task.on_kill()
    long.clear_faults()
    with pytest.raises(exceptions.MagicHourTimeoutError):
        run_task(generate(bodies(1), timeout=0.3), task_context(store=store, try_number=2, **cleared))
    long.faults({"match": {"route": "get_project"}, "status": 404})
    with pytest.raises(exceptions.MagicHourNotFoundError):
        run_task(generate(bodies(1)), task_context(store=store, try_number=3, **cleared))
    assert posts(long) == 1


@pytest.mark.parametrize("make", [operator, generate])
def test_kill_stops_submitting(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any]
) -> None:
    monkeypatch.setattr(_create, "KILL_SECONDS", 60.0)
    sim.faults({"match": CREATE, "delay_after": 1.5, "duration": 600})
    store = TaskStateStore()
    task = make(bodies(40), timeout=400)
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(execute, task, task_context(store=store))
        wait_for(lambda: posts(sim) >= 8)
        task.on_kill()
        at_the_kill = posts(sim)
        with pytest.raises(exceptions.MagicHourError):
            running.result(100)  # of 400 s that the wait may last
    assert posts(sim) == at_the_kill < 20
    recorded = [json.loads(value) for key, value in store.values.items() if "submit" in key]
    assert sorted(one["id"] for one in recorded) == sorted(sim.state()["projects"])


@pytest.mark.parametrize("make", [operator, generate])
def test_kill_before_the_first_submit_submits_nothing(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any]
) -> None:
    task, of_task = make(bodies(4)), SubmitRecords.of_task

    def killed_meanwhile(*args: Any, **options: Any) -> SubmitRecords:
        task.on_kill()
        return of_task(*args, **options)

    monkeypatch.setattr(SubmitRecords, "of_task", killed_meanwhile)
    with pytest.raises(exceptions.MagicHourError, match="killed"):
        task.execute(task_context(store=TaskStateStore()))
    assert posts(sim) == 0


def test_error_of_a_killed_task_is_none_that_a_person_saw_before_the_clear(
    sim: Simulator, tmp_path: Path
) -> None:
    fault = {"status": 504, "html": True, "process": True, "times": 1}
    sim.faults({"match": CREATE, "delay_after": 3, **fault})
    task = generate(destination=str(tmp_path))
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(execute, task, task_context())
        wait_for(lambda: posts(sim) == 1)
        task.on_kill()  # the task is marked as failed, and cleared
        with pytest.raises(exceptions.MagicHourUncertainSubmitError):
            running.result(60)
    again = generate(destination=str(tmp_path))
    with pytest.raises(exceptions.MagicHourUncertainSubmitError):
        run_task(again, task_context(try_number=2, max_tries=1))
    assert posts(sim) == 1
    run_task(again, task_context(try_number=3, max_tries=2))
    assert posts(sim) == 2


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


@pytest.mark.skipif(AIRFLOW_VERSION < (3, 3), reason="Airflow does not notify the trigger")
@pytest.mark.parametrize("map_index", [-1, 3])
@pytest.mark.parametrize(
    ("state", "deletes"),
    [
        ("failed", True),
        ("success", True),
        ("skipped", True),
        ("deferred", False),  # another triggerer has started the wait again
        ("running", False),  # the next try, after a Clear
        ("scheduled", False),
        ("up_for_retry", False),
        (None, False),
        ("removed", True),
        ("upstream_failed", True),
        (ConnectionError("the API server is away"), False),
    ],
)
def test_stopped_trigger_deletes_only_if_the_task_has_ended(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, state: object, deletes: bool, map_index: int
) -> None:
    sim.faults({"match": CREATE, "duration": 60})
    context = task_context(store=TaskStateStore())
    with pytest.raises(TaskDeferred) as caught:
        generate(deferrable=True, delete_on_kill=True).execute(context)
    trigger = rebuilt(caught.value.trigger)
    assert isinstance(trigger, MagicHourGenerateTrigger)
    trigger.task_instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=map_index)
    name = "t" if map_index < 0 else f"t_{map_index}"

    def send(message: Any) -> Any:
        asked = (message.dag_id, message.task_ids, message.run_ids, message.map_index)
        assert asked == ("d", ["t"], ["r"], map_index)
        if isinstance(state, Exception):
            raise state
        return SimpleNamespace(task_states={"r": {name: state}, "other": {name: "failed"}})

    supervisor = SimpleNamespace(send=send)
    monkeypatch.setattr("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", supervisor, raising=False)
    asyncio.run(trigger.on_kill())
    assert sim.state()["projects"][only_project(sim)]["enabled"] is not deletes


@pytest.mark.skipif(AIRFLOW_VERSION < (3, 3), reason="Airflow does not notify the trigger")
def test_stopped_trigger_says_what_it_cannot_delete_without_its_connection(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    log = SimpleNamespace(warning=lambda text, *args: said.append(text % args))
    monkeypatch.setattr(MagicHourGenerateTrigger, "log", log)
    trigger = MagicHourGenerateTrigger("image", ["p1", "p2"], "magichour_default", 1)
    monkeypatch.setattr(trigger, "_task_state", lambda: "failed")
    monkeypatch.delenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT")
    asyncio.run(trigger.on_kill())
    assert len(said) == 1
    assert said[0].endswith("not deleted: p1, p2")


def test_kill_returns_soon_and_raises_nothing(
    long: Simulator,
    connect: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    connect(long.url, long.api_key, timeout=200)
    monkeypatch.setattr(killing, "MAX_SECONDS", 0.5)
    task = waiting_task(task_context(store=TaskStateStore()), 2, delete_on_kill=True)
    long.faults({"match": {"route": "delete_project"}, "delay": 200})
    begun = time.monotonic()
    task.on_kill()
    assert time.monotonic() - begun < 60
    assert "not deleted" in caplog.text


def test_proxy_404_page_does_not_count_as_deleted(long: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    task = waiting_task(task_context(store=TaskStateStore()), delete_on_kill=True)
    long.faults({"match": {"route": "delete_project"}, "status": 404, "body": "<html>blocked</html>"})
    task.on_kill()
    assert "was not deleted" in caplog.text

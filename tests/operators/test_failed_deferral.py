"""Generate where Airflow itself ends the deferral, because no triggerer did in time or the trigger broke."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_magichour import exceptions
from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import CREATE, bodies, created, generate, only_project, posts
from tests.support.airflow import IS_AIRFLOW_3
from tests.support.tasks import TaskStateStore, run_task, task_context

pytestmark = pytest.mark.usefixtures("no_pauses")

#: What Airflow resumes the task with.
REASON = {"error": "Trigger timeout" if IS_AIRFLOW_3 else "Trigger/execution timeout"}


def defer(task: Any, context: Any) -> None:
    with pytest.raises(TaskDeferred):
        task.execute(context)


def resume(task: Any, context: Any) -> Any:
    return task.resume_execution("__fail__", REASON, context)


@pytest.mark.parametrize("recorded", [True, False])
def test_complete_project_is_downloaded(long: Simulator, tmp_path: Path, recorded: bool) -> None:
    """Where nothing outlives the try, the id of a single body is still known."""
    context = task_context("generate", store=TaskStateStore() if recorded else None)
    task = generate(deferrable=True, durable=recorded, destination=str(tmp_path))
    defer(task, context)
    long.end_project(only_project(long))
    result = resume(task, context)
    assert Path(result["files"][0]["path"]).read_bytes().startswith(b"\x89PNG")
    assert posts(long) == 1


def test_complete_projects_of_a_list_are_downloaded_and_kept(long: Simulator, tmp_path: Path) -> None:
    store = TaskStateStore()
    context = task_context("generate", store=store)
    task = generate(bodies(3), deferrable=True, destination=str(tmp_path))
    defer(task, context)
    complete, *others = long.state()["projects"]
    long.end_project(complete)
    with pytest.raises(exceptions.MagicHourTimeoutError):
        resume(task, context)
    results = [one for one in context["ti"].xcoms.pull("generate", "results") if one]
    assert [one["project"]["id"] for one in results] == [complete]
    for one in others:
        long.end_project(one)
    again = task_context("generate", store=store, try_number=2, max_tries=1)
    assert len(run_task(generate(bodies(3), destination=str(tmp_path)), again)) == 3
    assert posts(long) == 3


def test_failed_project_is_not_submitted_anew_in_the_same_try(long: Simulator) -> None:
    context = task_context("generate", store=TaskStateStore())
    task = generate(deferrable=True)
    defer(task, context)
    long.end_project(only_project(long), "error")
    with pytest.raises(exceptions.MagicHourError, match="failed"):
        resume(task, context)
    assert posts(long) == 1


@pytest.mark.parametrize("body", [bodies(1)[0], bodies(2)])
def test_there_is_no_retry_where_nothing_is_recorded(long: Simulator, body: Any) -> None:
    context = task_context("generate")
    task = generate(body, deferrable=True, durable=False)
    defer(task, context)
    with pytest.raises(exceptions.MagicHourUnrecordedSubmitError) as caught:
        resume(task, context)
    if not isinstance(body, list):
        assert only_project(long) in str(caught.value)


def test_there_is_no_retry_where_the_connection_cannot_be_read(
    long: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = task_context("generate")
    defer(generate(deferrable=True), context)
    monkeypatch.delenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT")
    with pytest.raises(exceptions.MagicHourUnrecordedSubmitError):
        resume(generate(deferrable=True), context)


def test_retry_continues_where_the_connection_cannot_be_read_but_a_folder_has_the_records(
    long: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def task() -> Any:
        return generate(deferrable=True, destination=str(tmp_path))

    defer(task(), task_context("generate"))
    with monkeypatch.context() as away:
        away.delenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT")
        with pytest.raises(exceptions.MagicHourError) as caught:
            resume(task(), task_context("generate"))
    assert not isinstance(caught.value, exceptions.MagicHourUnrecordedSubmitError)
    long.end_project(only_project(long))
    assert run_task(task(), task_context("generate", try_number=2))["files"]
    assert posts(long) == 1


def test_uncertain_submit_before_the_deferral_is_said_before_a_clear_counts(sim: Simulator) -> None:
    sim.faults({"match": CREATE, "times": 1, "drop": "after"}, {"match": CREATE, "duration": 600})
    context = task_context("generate", store=TaskStateStore(), max_tries=3)
    task = generate(bodies(2), deferrable=True)
    defer(task, context)
    for one in sim.state()["projects"]:
        sim.end_project(one)
    with pytest.raises(exceptions.MagicHourUncertainSubmitError, match=r"named 'number [01]'"):
        resume(task, context)


def test_404_before_the_deferral_is_said_before_a_clear_counts(long: Simulator) -> None:
    store, task = TaskStateStore(), generate(bodies(2), deferrable=True)
    defer(task, task_context("generate", store=store, max_tries=3))
    missing = next(iter(long.state()["projects"]))
    path = f"/v1/image-projects/{missing}"
    long.faults({"match": {"path": path}, "status": 404})
    second = task_context("generate", store=store, try_number=2, max_tries=3)
    defer(task, second)
    with pytest.raises(exceptions.MagicHourError, match="retry asks again"):
        resume(task, second)
    cleared = task_context("generate", store=store, try_number=3, max_tries=5)
    with pytest.raises(exceptions.MagicHourError, match=f"{missing} was not found"):
        run_task(generate(bodies(2), timeout=0.5), cleared)
    assert created(long) == 2

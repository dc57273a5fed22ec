"""What a later try knows about a success: after a Clear, and if Airflow did not record it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour import exceptions
from airflow_provider_magichour._transfer import catalogue
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators._create import CreateTask
from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import CREATE, bodies, created, generate, operator, posts
from tests.support.tasks import run_task, task_context

pytestmark = pytest.mark.usefixtures("no_pauses")

#: Tries after one that ended permanently: (try_number, max_tries, clear_number).
RETRY, CLEAR, OTHER_CLEAR = (2, 1, 0), (2, 3, 1), (2, 1, 1)


class DiedError(BaseException):
    """A worker died."""


def run(folder: Path, count: int, start: tuple[int, int, int] = (1, 1, 0), **arguments: Any) -> Any:
    try_number, max_tries, clear_number = start
    context = task_context("generate", try_number=try_number, max_tries=max_tries)
    context["dag_run"].clear_number = clear_number
    return run_task(generate(bodies(count), destination=str(folder), **arguments), context)


@contextlib.contextmanager
def dying(owner: Any, name: str, calls: int = 0) -> Iterator[None]:
    """Let the worker die at a call, after so many others."""
    method, left = getattr(owner, name), [None] * calls

    def call_or_die(*args: Any, **kwargs: Any) -> Any:
        if not left:
            raise DiedError
        left.pop()
        return method(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call_or_die)
        with pytest.raises(DiedError):
            yield


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("start", [CLEAR, OTHER_CLEAR], ids=["other max_tries", "clear_number alone"])
def test_clear_of_a_success_submits_anew(
    sim: Simulator, tmp_path: Path, start: tuple[int, int, int], deferrable: bool
) -> None:
    run(tmp_path, 3, deferrable=deferrable)
    run(tmp_path, 3, start, deferrable=deferrable)
    assert posts(sim) == 6
    run(tmp_path, 3, (3, *start[1:]), deferrable=deferrable)  # its retry
    assert posts(sim) == 6


@pytest.mark.parametrize("deferrable", [False, True])
def test_clear_in_the_middle_of_the_downloads_goes_on(
    sim: Simulator, tmp_path: Path, deferrable: bool
) -> None:
    with dying(catalogue, "write", 2):
        run(tmp_path, 3, deferrable=deferrable, parallel=1)
    assert len(run(tmp_path, 3, CLEAR, deferrable=deferrable)) == 3
    assert posts(sim) == 3


def test_clear_before_the_rest_of_a_list_was_submitted_goes_on(sim: Simulator, tmp_path: Path) -> None:
    sim.faults({"match": {"route": "create_project"}, "skip": 2, "status": 404, "html": True})
    with pytest.raises(exceptions.MagicHourError):
        run(tmp_path, 3)
    sim.clear_faults()
    run(tmp_path, 3, CLEAR)
    assert created(sim) == 3


def test_projects_that_others_stored_prove_no_success(sim: Simulator, tmp_path: Path) -> None:
    with dying(MagicHourHook, "download_all"):
        run(tmp_path, 1)
    (project_id,) = sim.state()["projects"]
    operator().hook.download_project("image", project_id, str(tmp_path))
    (result,) = run(tmp_path, 1, CLEAR)
    assert result["project"]["id"] == project_id
    assert posts(sim) == 1


@pytest.mark.parametrize("start", [RETRY, CLEAR], ids=["retry", "clear"])
def test_task_that_fails_after_its_downloads_is_none_that_succeeded(
    sim: Simulator, tmp_path: Path, start: tuple[int, int, int]
) -> None:
    with dying(CreateTask, "_report_usage"):
        run(tmp_path, 2)
    assert len(run(tmp_path, 2, start)) == 2
    assert posts(sim) == 2


def test_clear_of_a_failure_after_an_unheard_success_goes_on(sim: Simulator, tmp_path: Path) -> None:
    with dying(CreateTask, "_raise_for_failed"):
        run(tmp_path, 2)
    sim.faults({"match": CREATE, "status": 403})
    with pytest.raises(exceptions.MagicHourPermissionError):
        run(tmp_path, 3, RETRY)  # with one body more
    sim.clear_faults()
    assert len(run(tmp_path, 3, (3, 4, 1))) == 3
    assert created(sim) == 3


def test_clear_of_a_killed_task_that_came_to_its_end_goes_on(sim: Simulator, tmp_path: Path) -> None:
    task = generate(bodies(2), destination=str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CreateTask, "_report_usage", lambda *_: task.on_kill())
        run_task(task, task_context("generate"))
    assert len(run(tmp_path, 2, CLEAR)) == 2
    assert posts(sim) == 2


@pytest.mark.parametrize("reuse", [False, True])
def test_retry_after_an_unheard_success_has_the_result_of_a_deleted_project(
    sim: Simulator, tmp_path: Path, reuse: bool
) -> None:
    with dying(CreateTask, "_raise_for_failed"):
        run(tmp_path, 2, reuse=reuse)
    projects = list(sim.state()["projects"])
    operator().hook.delete_project("image", projects)
    results = run(tmp_path, 2, RETRY, reuse=reuse)
    assert {one["project"]["id"] for one in results} == {*projects}
    assert all(Path(one["files"][0]["path"]).exists() for one in results)
    assert [one.get("reused") for one in results] == [False if reuse else None] * 2
    assert posts(sim) == 2
    assert [one["project"]["id"] for one in run(tmp_path, 2, (3, 1, 0), reuse=reuse)] == [
        one["project"]["id"] for one in results
    ]


def test_run_that_was_made_again_submits_anew(sim: Simulator, tmp_path: Path) -> None:
    for _ in range(2):
        run(tmp_path, 2)
    assert posts(sim) == 4


def test_clear_of_a_success_after_its_body_was_corrected_submits_anew(sim: Simulator, tmp_path: Path) -> None:
    sim.faults({"match": CREATE, "outcome": {"status": "error", "code": "no_source_face"}})
    with pytest.raises(exceptions.MagicHourError):
        run(tmp_path, 2)
    sim.clear_faults()
    run(tmp_path, 1, (2, 3, 1))  # cleared, and shorter
    run(tmp_path, 1, (3, 4, 2))  # the success was cleared
    assert posts(sim) == 4


def test_stored_result_is_kept_over_a_try_that_cannot_read_its_project(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.faults({"match": CREATE, "outcome": {"status": "error"}, "times": 1})
    with pytest.raises(exceptions.MagicHourError):
        run(tmp_path, 2)
    sim.clear_faults()
    complete = [one for one, project in sim.state()["projects"].items() if project["status"] == "complete"]
    sim.faults({"match": {"route": "get_project", "project_id": complete[0]}, "status": 503})
    with pytest.raises(exceptions.MagicHourError):
        run(tmp_path, 2, RETRY)
    sim.clear_faults()
    operator().hook.delete_project("image", complete)  # as a clean-up does
    assert len(run(tmp_path, 2, (3, 1, 0))) == 2
    assert created(sim) == 3


@pytest.mark.parametrize("status", [401, 404, 503])
def test_retry_after_an_unheard_success_asks_magic_hour_nothing(
    sim: Simulator, tmp_path: Path, status: int
) -> None:
    with dying(CreateTask, "_raise_for_failed"):
        run(tmp_path, 2)
    sim.faults({"match": {"route": "get_project"}, "status": status})
    assert len(run(tmp_path, 2, RETRY)) == 2
    assert posts(sim) == 2


def test_stored_result_of_a_deleted_project_is_kept_where_the_destination_changes(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.faults({"match": CREATE, "outcome": {"status": "error"}, "times": 1})
    with pytest.raises(exceptions.MagicHourError):
        run(tmp_path / "try-1", 2, index=str(tmp_path))
    complete = [one for one, project in sim.state()["projects"].items() if project["status"] == "complete"]
    operator().hook.delete_project("image", complete)
    run(tmp_path / "try-2", 2, RETRY, index=str(tmp_path))
    assert posts(sim) == 3

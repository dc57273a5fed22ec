"""MagicHourGenerateOperator against the simulator: one task from a body to files, paid once."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_magichour import exceptions
from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour.operators import MagicHourGenerateOperator
from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import BODY, CREATE, bodies, ended, only_project, posts
from tests.operators.support import generate as operator
from tests.support.tasks import TaskStateStore, run_task, stored, task_context

pytestmark = pytest.mark.usefixtures("no_pauses")


def results_of(context: Any) -> list[Any]:
    """Return the results that a failed task left, without the bodies that failed."""
    return [one for one in context["ti"].xcoms.pull("generate", "results") if one is not None]


MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferred"])


@MODES
class TestGenerate:
    def test_generate_returns_project_and_files(
        self, sim: Simulator, tmp_path: Path, deferrable: bool
    ) -> None:
        result = run_task(
            operator(deferrable=deferrable, destination=str(tmp_path)), task_context(store=TaskStateStore())
        )
        project_id = only_project(sim)
        assert result["project"]["id"] == project_id
        assert result["project"]["status"] == "complete"
        (file,) = result["files"]
        assert file["path"] == str(tmp_path / project_id / "output.png")
        assert Path(file["path"]).read_bytes().startswith(b"\x89PNG")

    def test_generate_works_without_a_store(self, sim: Simulator, tmp_path: Path, deferrable: bool) -> None:
        results = run_task(
            operator(bodies(3), deferrable=deferrable, destination=str(tmp_path)), task_context()
        )
        assert [one["project"]["name"] for one in results] == ["number 0", "number 1", "number 2"]
        assert all(one["files"] for one in results)

    def test_without_a_destination_nothing_is_stored(self, sim: Simulator, deferrable: bool) -> None:
        result = run_task(operator(deferrable=deferrable), task_context(store=TaskStateStore()))
        assert result["files"] == []
        assert result["project"]["downloads"]

    def test_list_returns_results_in_order(self, sim: Simulator, tmp_path: Path, deferrable: bool) -> None:
        results = run_task(
            operator(bodies(7), deferrable=deferrable, destination=str(tmp_path)),
            task_context(store=TaskStateStore()),
        )
        assert [one["project"]["name"] for one in results] == [f"number {n}" for n in range(7)]

    @pytest.mark.parametrize(
        ("outcome", "error"),
        [
            ({"code": "no_source_face", "message": "no face"}, exceptions.MagicHourProjectFailedError),
            ({"code": "unknown_error"}, exceptions.MagicHourRenderError),
            ({"code": "processing_timeout"}, exceptions.MagicHourRenderError),
            ({"status": "canceled"}, exceptions.MagicHourProjectCanceledError),
        ],
        ids=str,
    )
    def test_failed_project_raises_and_a_retry_submits_again(
        self, sim: Simulator, deferrable: bool, outcome: dict[str, str], error: type[Exception]
    ) -> None:
        sim.faults({"match": CREATE, "times": 1, "outcome": outcome})
        store = TaskStateStore()
        with pytest.raises(error) as caught:
            run_task(operator(deferrable=deferrable), task_context(store=store))
        may_be_retried = error is exceptions.MagicHourRenderError
        assert isinstance(caught.value, AirflowFailException) is not may_be_retried
        assert run_task(operator(deferrable=deferrable), task_context(store=store, try_number=2))["project"]
        assert posts(sim) == 2

    def test_retry_after_a_timeout_waits_for_the_same_project(
        self, sim: Simulator, deferrable: bool, tmp_path: Path
    ) -> None:
        sim.faults({"match": CREATE, "duration": 600})
        store = TaskStateStore()
        with pytest.raises(exceptions.MagicHourTimeoutError) as caught:
            run_task(operator(deferrable=deferrable, timeout=0.5), task_context(store=store))
        assert not isinstance(caught.value, AirflowFailException | exceptions.MagicHourSensorTimeoutError)
        assert only_project(sim) in str(caught.value)
        sim.end_project(only_project(sim))
        result = run_task(
            operator(deferrable=deferrable, destination=str(tmp_path)),
            task_context(store=store, try_number=2, max_tries=1),
        )
        assert result["files"]
        assert posts(sim) == 1

    def test_failed_project_does_not_lose_the_others(
        self, sim: Simulator, deferrable: bool, tmp_path: Path
    ) -> None:
        sim.faults({"match": CREATE, "skip": 1, "times": 1, "outcome": {"code": "unknown_error"}})
        store, task = TaskStateStore(), {"deferrable": deferrable, "destination": str(tmp_path)}
        context = task_context("generate", store=store)
        with pytest.raises(exceptions.MagicHourRenderError) as caught:
            run_task(operator(bodies(3), **task), context)
        assert "1 of 3 failed" in caught.value.__notes__[0]
        kept = results_of(context)
        assert len(kept) == 2
        assert all(Path(file["path"]).exists() for one in kept for file in one["files"])
        results = run_task(operator(bodies(3), **task), task_context(store=store, try_number=2))
        assert [one["project"]["name"] for one in results] == ["number 0", "number 1", "number 2"]
        assert posts(sim) == 4
        assert len(sim.requests("download")) == 3

    def test_bodies_not_submitted_are_reported_at_the_end(
        self, sim: Simulator, deferrable: bool, tmp_path: Path
    ) -> None:
        some = bodies(3)
        some[1] = {"style": {}}
        for store in (TaskStateStore(), None):
            context = task_context("generate", store=store)
            with pytest.raises(exceptions.MagicHourInvalidRequestError) as caught:
                run_task(operator(some, deferrable=deferrable, destination=str(tmp_path)), context)
            assert "body[1]" in caught.value.__notes__[0]
            assert len(results_of(context)) == 2

    def test_timeout_still_stores_completed_projects(
        self, sim: Simulator, deferrable: bool, tmp_path: Path
    ) -> None:
        sim.faults({"match": CREATE, "skip": 1, "times": 1, "duration": 60})
        context = task_context("generate", store=TaskStateStore())
        with pytest.raises(exceptions.MagicHourTimeoutError, match="1 of 2"):
            run_task(
                operator(bodies(2), deferrable=deferrable, destination=str(tmp_path), timeout=2), context
            )
        (kept,) = results_of(context)
        assert Path(kept["files"][0]["path"]).exists()

    def test_retry_repeats_only_the_failed_download(
        self, sim: Simulator, deferrable: bool, tmp_path: Path
    ) -> None:
        (tmp_path / "in the way").write_text("a file where a folder should be")
        store = TaskStateStore()
        wrong = str(tmp_path / "in the way" / "media")
        with pytest.raises(exceptions.MagicHourError):
            run_task(operator(deferrable=deferrable, destination=wrong), task_context(store=store))
        result = run_task(
            operator(deferrable=deferrable, destination=str(tmp_path / "media")),
            task_context(store=store, try_number=2),
        )
        assert result["files"]
        assert posts(sim) == 1

    def test_retry_of_a_success_returns_the_stored_result(
        self, sim: Simulator, deferrable: bool, tmp_path: Path
    ) -> None:
        store, task = TaskStateStore(), operator(deferrable=deferrable, destination=str(tmp_path))
        first = run_task(task, task_context(store=store))
        task.hook.delete_project("image", only_project(sim))
        second = run_task(
            operator(deferrable=deferrable, destination=str(tmp_path)),
            task_context(store=store, try_number=2),
        )
        assert second == first
        assert posts(sim) == 1

    def test_clear_of_a_success_submits_again(self, sim: Simulator, deferrable: bool) -> None:
        store = TaskStateStore()
        first = run_task(operator(deferrable=deferrable), task_context(store=store))
        second = run_task(operator(deferrable=deferrable), task_context(store=store, max_tries=1))
        assert first["project"]["id"] != second["project"]["id"]

    def test_stored_result_is_returned_though_its_project_is_deleted(
        self, sim: Simulator, deferrable: bool, tmp_path: Path
    ) -> None:
        """A clean-up between the tries of a list, which failed for another of its bodies."""
        sim.faults({"match": CREATE, "skip": 1, "times": 1, "outcome": {"code": "unknown_error"}})
        store, task = TaskStateStore(), {"deferrable": deferrable, "destination": str(tmp_path)}
        context = task_context("generate", store=store)
        with pytest.raises(exceptions.MagicHourRenderError):
            run_task(operator(bodies(2), **task), context)
        (kept,) = results_of(context)
        operator().hook.delete_project("image", kept["project"]["id"])
        results = run_task(operator(bodies(2), **task), task_context(store=store, try_number=2))
        assert [one["project"]["name"] for one in results] == ["number 0", "number 1"]
        assert kept in results
        assert posts(sim) == 3

    def test_project_deleted_during_the_wait_raises_not_found(self, sim: Simulator, deferrable: bool) -> None:
        sim.faults({"match": {"route": "get_project"}, "merge": {"enabled": False}})
        with pytest.raises(exceptions.MagicHourNotFoundError, match="deleted"):
            run_task(operator(deferrable=deferrable), task_context(store=TaskStateStore()))

    def test_credits_running_out_within_a_list_keep_earlier_projects(
        self, sim: Simulator, deferrable: bool, tmp_path: Path
    ) -> None:
        sim.faults({"match": CREATE, "skip": 2, "status": 402})
        context = task_context("generate", store=TaskStateStore())
        with pytest.raises(exceptions.MagicHourPaymentRequiredError):
            run_task(operator(bodies(30), deferrable=deferrable, destination=str(tmp_path)), context)
        assert len(results_of(context)) == 2
        assert posts(sim) < 12


@pytest.mark.usefixtures("long")
class TestDeferral:
    def deferred(self, task: MagicHourGenerateOperator, context: Any) -> TaskDeferred:
        with pytest.raises(TaskDeferred) as caught:
            task.execute(context)
        return caught.value

    def test_trigger_holds_no_key(self, sim: Simulator) -> None:
        found = self.deferred(operator(bodies(5), deferrable=True), task_context(store=TaskStateStore()))
        path, arguments = found.trigger.serialize()
        assert path == "airflow_provider_magichour.triggers.MagicHourProjectTrigger"
        assert len(arguments["project_ids"]) == 5
        assert sim.api_key not in str(arguments) + str(found.kwargs)
        assert found.timeout > timedelta(seconds=30)

    def test_dag_test_passes_the_event_alone(self, sim: Simulator) -> None:
        for store in (TaskStateStore(), None):
            task, context = operator(bodies(2), deferrable=True), task_context(store=store)
            event = ended(sim, self.deferred(task, context).trigger)
            again = operator(bodies(2), deferrable=True)
            names = [one["project"]["name"] for one in again.execute_complete(context, event)]
            assert names == ["number 0", "number 1"]

    @pytest.mark.parametrize("with_failure", [False, True])
    def test_dag_test_of_a_list_whose_event_is_about_a_part(
        self, sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_failure: bool
    ) -> None:
        monkeypatch.setattr("airflow_provider_magichour._polling.deferral.MAX_STORED_BYTES", 0)  # one each
        some = [*bodies(2), {"style": {}}] if with_failure else bodies(2)
        task = operator(some, deferrable=True, destination=str(tmp_path))
        context = task_context("generate", store=TaskStateStore())
        deferred = self.deferred(task, context)
        try:
            results = None
            while results is None:
                event = ended(sim, deferred.trigger)
                try:
                    results = task.execute_complete(context, event)
                except TaskDeferred as again:
                    deferred = again
        except exceptions.MagicHourInvalidRequestError:
            assert with_failure
            results = results_of(context)
        assert [one["project"]["name"] for one in results] == ["number 0", "number 1"]
        assert all(one["files"] for one in results)
        assert sum(sim.state()["created"].values()) == 2

    def test_failed_submits_survive_the_deferral(self, sim: Simulator) -> None:
        some = [*bodies(2), {"style": {}}]
        task, context = operator(some, deferrable=True), task_context("generate", store=TaskStateStore())
        deferred = self.deferred(task, context)
        event, kwargs = ended(sim, deferred.trigger), stored(deferred.kwargs)
        with pytest.raises(exceptions.MagicHourInvalidRequestError, match="400"):
            operator(some).execute_complete(context, event, **kwargs)
        assert context["ti"].xcoms.pull("generate", "results")[2] is None

    @pytest.mark.parametrize(
        "event",
        [
            None,
            {},
            "x",
            {"kind": "image", "outcomes": {}},
            {"kind": "image", "outcomes": {"other": "complete"}},
        ],
        ids=str,
    )
    def test_foreign_event_is_not_trusted(self, sim: Simulator, event: Any) -> None:
        for store in (TaskStateStore(), None):
            task, context = operator(bodies(2), deferrable=True), task_context(store=store)
            self.deferred(task, context)
            with pytest.raises(exceptions.MagicHourError, match="not trusted"):
                operator(bodies(2)).execute_complete(context, event)

    def test_body_rendered_differently_on_resume_keeps_the_project(self, sim: Simulator) -> None:
        context = task_context(store=TaskStateStore())
        event = ended(sim, self.deferred(operator(deferrable=True), context).trigger)
        other = operator({**BODY, "name": "rendered later"})
        assert other.execute_complete(context, event)["project"]["id"] == only_project(sim)

    def test_early_event_is_detected(self, sim: Simulator) -> None:
        task, context = operator(deferrable=True), task_context(store=TaskStateStore())
        self.deferred(task, context)
        event = {"kind": "image", "outcomes": {only_project(sim): "complete"}}
        with pytest.raises(exceptions.MagicHourError, match="is not") as caught:
            operator().execute_complete(context, event)
        assert not isinstance(caught.value, AirflowFailException)

    def test_task_does_not_defer_when_nothing_is_left_to_wait_for(self, sim: Simulator) -> None:
        """Airflow may lose track of a task whose trigger fires at once."""
        store = TaskStateStore()
        self.deferred(operator(deferrable=True), task_context(store=store))
        sim.end_project(only_project(sim))
        assert operator(deferrable=True).execute(task_context(store=store, try_number=2))["project"]

    def test_wait_ends_with_a_shorter_execution_timeout(self, sim: Simulator) -> None:
        task = operator(deferrable=True, execution_timeout=timedelta(minutes=5), timeout=3600)
        found = self.deferred(task, task_context(store=TaskStateStore()))
        assert found.trigger.serialize()[1]["deadline"] < time.time() + 301

    def test_failure_after_an_unrecorded_submit_is_final(self, sim: Simulator) -> None:
        with pytest.raises(exceptions.MagicHourUnrecordedSubmitError, match="pay again") as caught:
            run_task(operator(deferrable=True, timeout=0.3), task_context())
        assert only_project(sim) in str(caught.value)


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ({"timeout": 0}, "timeout"),
            ({"timeout": -1}, "timeout"),
            ({"poll_interval": 0}, "poll_interval"),
            ({"poll_interval": float("inf")}, "poll_interval"),
            ({"destination": " "}, "destination"),
            ({"defer_after": -1}, "defer_after"),
            ({"reuse": True}, "destination"),
        ],
    )
    def test_constructor_names_the_wrong_argument(self, arguments: dict[str, Any], named: str) -> None:
        with pytest.raises(exceptions.MagicHourArgumentError, match=named):
            operator(**arguments)

    def test_empty_rendered_destination_is_refused_before_any_request(self, sim: Simulator) -> None:
        task = operator(destination="{{ x }}")
        task.destination = ""
        with pytest.raises(exceptions.MagicHourArgumentError, match="destination"):
            task.execute(task_context())
        assert sim.requests() == []

    @pytest.mark.parametrize("destination", [7, ["/media"], "s3://", "no-such-store://bucket/folder"])
    def test_unusable_destination_is_refused_before_any_request(
        self, sim: Simulator, destination: Any
    ) -> None:
        task = operator(destination="{{ x }}")
        task.destination = destination
        with pytest.raises(exceptions.MagicHourError, match=r"destination|no-such-store"):
            task.execute(task_context())
        assert sim.requests() == []


@pytest.mark.parametrize(
    ("destination", "open_args", "named"),
    [
        ("s3://aws_test@{bucket}/media", {"StorageClass": "GLACIAL"}, "value that S3 does not accept"),
        ("s3://aws_test@{bucket}/media", "StorageClass=GLACIER", "must be a mapping"),
        ("memory://open-args/media", {"compression": "zipp"}, "zipp"),
        ("memory://open-args/media", {"mode": "wb"}, "mode"),
    ],
)
def test_wrong_open_args_cost_nothing(
    sim: Simulator, s3_store: Any, destination: str, open_args: Any, named: str
) -> None:
    task = operator(destination=destination.format(bucket=s3_store.bucket))
    task.open_args = open_args  # as Airflow renders it
    with pytest.raises(exceptions.MagicHourArgumentError, match=f"open_args.*{named}"):
        run_task(task, task_context(store=TaskStateStore()))
    assert posts(sim) == 0


def test_file_name_that_all_files_of_a_project_would_get_costs_nothing(
    sim: Simulator, tmp_path: Path
) -> None:
    some = [BODY, {**BODY, "image_count": 2}]
    given = {"destination": str(tmp_path), "file_name": "lamp{ext}"}
    with pytest.raises(
        exceptions.MagicHourArgumentError, match=r"2 files of a project one name: add \{index\}"
    ):
        run_task(operator(some, **given), task_context(store=TaskStateStore()))
    assert posts(sim) == 0
    run_task(operator([BODY], **given), task_context(store=TaskStateStore()))
    assert posts(sim) == 1


def test_right_open_args_leave_nothing_but_the_file(sim: Simulator) -> None:
    task = operator(destination="memory://right-open-args/media", open_args={"compression": None})
    (file,) = run_task(task, task_context(store=TaskStateStore()))["files"]
    names = open_destination("memory://right-open-args/media").walk("")
    assert file["path"].removeprefix("memory://right-open-args/media/") in names
    assert [name for name in names if "check" in name] == []


def test_records_of_a_large_list_are_small(sim: Simulator, tmp_path: Path) -> None:
    store = TaskStateStore()  # refuses what is larger than Airflow takes
    sim.faults({"match": CREATE, "skip": 20, "status": 400, "body": {"message": "x" * 2000}})
    with pytest.raises(exceptions.MagicHourError):
        run_task(operator(bodies(220), deferrable=True), task_context(store=store))
    assert max(len(value) for value in store.values.values()) < 62_000

"""What a task without submit records does, so that nothing is paid for twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout, TaskDeferred

from airflow_provider_magichour import exceptions
from airflow_provider_magichour.operators._generate import GenerateTask
from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import CREATE, bodies, ended, generate, only_project, operator, posts
from tests.support.tasks import run_task, stored, task_context

pytestmark = pytest.mark.usefixtures("no_pauses")


class AirflowTaskTerminated(BaseException):  # its name in Airflow 2
    """What Airflow 2 raises at SIGTERM."""


class TestWithoutRecords:
    def test_failure_after_the_submit_is_final(self, sim: Simulator) -> None:
        sim.faults({"match": CREATE, "skip": 1, "status": 503})
        with pytest.raises(exceptions.MagicHourUnrecordedSubmitError) as caught:
            operator(bodies(2)).execute(task_context())
        assert only_project(sim) in str(caught.value)
        assert isinstance(caught.value, AirflowFailException)

    def test_failure_after_an_uncertain_submit_is_final(self, sim: Simulator) -> None:
        sim.faults(
            {"match": CREATE, "times": 1, "drop": "after"}, {"match": CREATE, "status": 404, "html": True}
        )
        with pytest.raises(exceptions.MagicHourUnrecordedSubmitError, match=r"perhaps .*number"):
            operator(bodies(2)).execute(task_context())

    def test_failure_before_the_submit_is_retryable(self, sim: Simulator) -> None:
        sim.faults({"match": CREATE, "status": 503})
        with pytest.raises(exceptions.MagicHourServerError):
            operator(bodies(2)).execute(task_context())

    @pytest.mark.parametrize("interruption", [AirflowTaskTimeout, AirflowTaskTerminated])
    def test_interruption_of_the_task_is_final(
        self, sim: Simulator, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
    ) -> None:
        task = generate()
        monkeypatch.setattr(GenerateTask, "_wait", lambda *_: (_ for _ in ()).throw(interruption("5 s")))
        with pytest.raises(exceptions.MagicHourUnrecordedSubmitError, match="5 s"):
            task.execute(task_context())

    @pytest.mark.parametrize(
        ("state", "error"), [("success", AirflowTaskTerminated), ("running", KeyboardInterrupt)]
    )
    def test_what_a_person_did_is_no_failure(
        self, sim: Simulator, monkeypatch: pytest.MonkeyPatch, state: str, error: type[BaseException]
    ) -> None:
        monkeypatch.setattr(GenerateTask, "_wait", lambda *_: (_ for _ in ()).throw(error()))
        context = task_context()
        context["ti"].state, context["ti"].refresh_from_db = state, lambda: None
        with pytest.raises(error):
            generate().execute(context)

    def test_unexpected_error_after_the_submit_is_final(
        self, sim: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context = task_context()
        monkeypatch.setattr(context["ti"], "xcom_push", lambda **_: Path("/nowhere").read_bytes())
        with pytest.raises(exceptions.MagicHourUnrecordedSubmitError, match="FileNotFoundError") as caught:
            operator().execute(context)
        assert only_project(sim) in str(caught.value)

    @pytest.mark.usefixtures("long")
    @pytest.mark.parametrize("durable", [False, True])
    def test_connection_that_cannot_be_read_after_a_deferral_is_final(
        self, sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
    ) -> None:
        more = {} if durable else {"durable": False, "destination": str(tmp_path)}
        with pytest.raises(TaskDeferred) as deferred:
            generate(deferrable=True, **more).execute(task_context("generate"))
        event = ended(sim, deferred.value.trigger)
        monkeypatch.delenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT")
        resumed = generate(deferrable=True, **more)
        with pytest.raises(exceptions.MagicHourUnrecordedSubmitError) as caught:
            resumed.execute_complete(task_context("generate"), event=event, **stored(deferred.value.kwargs))
        assert only_project(sim) in str(caught.value)

    def test_destination_records_on_any_airflow(self, sim: Simulator, tmp_path: Path) -> None:
        sim.faults({"match": {"route": "download"}, "status": 500})
        destination = str(tmp_path / "{{ ds }}")
        with pytest.raises(exceptions.MagicHourDownloadError):
            run_task(rendered(destination, tmp_path / "monday"), task_context("generate"))
        sim.clear_faults()
        task = rendered(destination, tmp_path / "monday")
        assert run_task(task, task_context("generate", try_number=2))["files"]
        assert posts(sim) == 1
        assert (tmp_path / ".magichour" / "submits").is_dir()


def rendered(template: str, destination: Path, **arguments: Any) -> Any:
    task = generate(destination=template, **arguments)
    task.destination = str(destination)
    return task

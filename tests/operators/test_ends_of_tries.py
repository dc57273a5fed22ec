"""What a try ends with is recorded, also where a store fails; and what a kill or an update leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_magichour import exceptions
from airflow_provider_magichour.operators import _earlier_tries, _store_access
from airflow_provider_magichour.operators._generate import GenerateTask
from airflow_provider_magichour.simulator import Simulator
from airflow_provider_magichour.triggers import carry_error
from tests.operators.records import context_of
from tests.operators.support import CREATE, bodies, created, ended, generate, only_project, operator
from tests.support.tasks import RefusedError, TaskStateStore, run_task, stored

pytestmark = pytest.mark.usefixtures("no_pauses")


class UnwritableStore(TaskStateStore):
    """Airflow's own store, which cannot write some keys."""

    def __init__(self, values: dict[str, str], fails: Callable[[str], bool] = lambda _: False) -> None:
        super().__init__()
        self.values = values
        self.fails = fails

    def set(self, key: str, value: Any, *, retention: object = None) -> None:
        if self.fails(key):
            raise ConnectionError("503: the state store is away")
        super().set(key, value, retention=retention)


def after_clears(number: int, values: dict[str, str], fails: Callable[[str], bool]) -> dict[str, Any]:
    """Return the context of a try that a person's Clear has started, after one Clear for each earlier try."""
    store = UnwritableStore(values, fails)
    return context_of(store=store, try_number=number, max_tries=number + 1, clear_number=number - 1)


def test_each_clear_of_a_success_submits_where_its_end_was_not_written(
    sim: Simulator, tmp_path: Path
) -> None:
    values: dict[str, str] = {}
    for number in (1, 2, 3):
        context = after_clears(number, values, lambda key: "success" in key)
        run_task(generate(destination=str(tmp_path)), context)
        assert created(sim) == number


def test_clear_of_an_uncertain_submit_submits_where_airflows_store_cannot_be_written(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.faults({"match": CREATE, "status": 504, "html": True, "process": True, "times": 1})
    with pytest.raises(exceptions.MagicHourUncertainSubmitError):
        run_task(generate(destination=str(tmp_path)), after_clears(1, {}, lambda _: True))
    assert run_task(generate(destination=str(tmp_path)), after_clears(2, {}, lambda _: True))["project"]
    assert created(sim) == 2


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("is_recorded", [True, False])
def test_task_of_0_1_0_that_was_deferred_after_a_clear_pays_once(
    sim: Simulator, tmp_path: Path, is_recorded: bool
) -> None:
    values: dict[str, str] = {}
    numbers = {"max_tries": 3, "clear_number": 1}
    with pytest.raises(TaskDeferred) as deferred:
        generate(deferrable=True).execute(context_of(store=UnwritableStore(values), try_number=2, **numbers))
    event = ended(sim, deferred.value.trigger)
    record = json.loads(values["magichour_submit_0"])
    values.clear()  # as 0.1.0 stored it: a success, and after its Clear this submit
    stored = {"body": record["body"], "max_tries": 3, "id": record["id"], "credits_charged": 5}
    values["magichour_submit_0"] = json.dumps(stored)
    values["magichour_success"] = json.dumps({"max_tries": 2})
    task = generate(deferrable=True, destination=str(tmp_path))
    resumed = context_of(store=UnwritableStore(values), try_number=2, **numbers)
    if is_recorded:
        task.execute_complete(resumed, event=event, submitted=[record["id"]])
    else:
        sim.faults({"match": {"route": "get_project"}, "status": 503})
        with pytest.raises(exceptions.MagicHourError):
            task.execute_complete(resumed, event=event, submitted=[record["id"]])
        sim.clear_faults()
    retry = context_of(store=UnwritableStore(values), try_number=3, **numbers)
    run_task(generate(destination=str(tmp_path)), retry)
    assert created(sim) == 1


def test_refusal_and_outage_are_distinguished() -> None:
    sdk = pytest.importorskip("airflow.sdk.exceptions")
    comms = pytest.importorskip("airflow.sdk.execution_time.comms")

    def error(status: int) -> Exception:
        detail = {"status_code": status, "message": "", "detail": None}
        response = comms.ErrorResponse(error=sdk.ErrorType.API_SERVER_ERROR, detail=detail)
        raised: Exception = sdk.AirflowRuntimeError(response)
        return raised

    refused = [_store_access.is_refusal(one) for one in (RefusedError(), error(404), error(503), OSError())]
    assert refused == [True, True, False, False]


class TestKilled:
    """``delete_on_kill`` of a task whose project is complete, or whose deletion fails."""

    @pytest.fixture
    def given(self, tmp_path: Path) -> dict[str, Any]:
        return {"delete_on_kill": True, "destination": str(tmp_path)}

    def killed(self, sim: Simulator, given: dict[str, Any], *, complete: bool) -> str:
        """Return the project of a task that was killed while it waited."""
        sim.faults({"match": CREATE, "duration": 600, "times": 1})
        task = generate(timeout=1, **given)
        with pytest.raises(exceptions.MagicHourTimeoutError):
            run_task(task, context_of(try_number=1, max_tries=2, clear_number=0))
        project_id = only_project(sim)
        if complete:
            sim.end_project(project_id)
        else:
            sim.faults({"match": {"route": "get_project"}, "status": 403, "message": "No"})  # not repeated
        task.on_kill()
        sim.clear_faults()
        assert sim.state()["projects"][project_id]["enabled"]
        return project_id

    @pytest.mark.parametrize("complete", [True, False])
    def test_404_after_a_clear_does_not_pay_again(
        self, sim: Simulator, given: dict[str, Any], complete: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.killed(sim, given, complete=complete)
        sim.faults({"match": {"route": "get_project"}, "status": 404, "message": "Not found"})
        monkeypatch.setattr(_earlier_tries, "NOT_FOUND_SECONDS", 0.2)
        monkeypatch.setattr(_earlier_tries, "NOT_FOUND_PAUSE", 0.1)
        with pytest.raises(exceptions.MagicHourNotFoundError):
            run_task(generate(**given), context_of(try_number=2, max_tries=3, clear_number=1))
        assert created(sim) == 1

    def test_complete_project_that_its_owner_deletes_is_made_again(
        self, sim: Simulator, given: dict[str, Any]
    ) -> None:
        project_id = self.killed(sim, given, complete=True)
        generate().hook.delete_project("image", project_id)
        run_task(generate(**given), context_of(try_number=2, max_tries=2, clear_number=0))
        assert created(sim) == 2


@pytest.mark.parametrize("is_stored_twice", [False, True])
def test_run_that_is_made_again_twice_submits_again(
    sim: Simulator, tmp_path: Path, is_stored_twice: bool
) -> None:
    values: dict[str, str] = {}

    def context(try_number: int) -> dict[str, Any]:
        store = UnwritableStore(values) if is_stored_twice else None
        return context_of(store=store, try_number=try_number, max_tries=2, clear_number=0)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for number in (1, 2, 3):
        task = generate(destination=str(tmp_path))
        task.hook.download_all = die
        with pytest.raises(KeyboardInterrupt):
            run_task(task, context(number))
    for projects in (1, 2):  # it goes on with the project, and then succeeds anew
        values.clear()
        run_task(generate(destination=str(tmp_path)), context(1))
        assert created(sim) == projects


class RefusingStore(TaskStateStore):
    """Airflow's own store in a try that another one replaces."""

    is_refusing = False

    def set(self, key: str, value: Any, *, retention: object = None) -> None:
        if self.is_refusing:
            raise RefusedError
        super().set(key, value, retention=retention)


def test_replaced_try_submits_nothing_where_its_intent_is_refused(
    sim: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = RefusingStore()
    store.is_refusing = True
    with pytest.raises(exceptions.MagicHourSubmitRecordError, match="Another try has replaced this one"):
        run_task(generate(destination=str(tmp_path)), context_of(store=store))
    assert created(sim) == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert "could not be discarded" not in caplog.text
    store.is_refusing = False
    run_task(generate(destination=str(tmp_path)), context_of(store=store, try_number=2))
    assert created(sim) == 1


def test_project_is_named_at_once_where_its_id_is_refused(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, pauses = RefusingStore(), list[float]()
    monkeypatch.setattr(_store_access.time, "sleep", pauses.append)
    task = operator()
    send = task.hook.send_once

    def send_and_be_replaced(call: Any) -> Any:
        response = send(call)
        store.is_refusing = call.method == "POST"
        return response

    monkeypatch.setattr(task.hook, "send_once", send_and_be_replaced)
    with pytest.raises(exceptions.MagicHourUncertainSubmitError) as caught:
        run_task(task, context_of(store=store))
    assert only_project(sim) in str(caught.value)
    assert pauses == []


@pytest.mark.parametrize("deferrable", [True, False])
def test_clear_of_another_error_is_none_of_an_uncertain_submit(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    """The key is revoked during the wait, and the error does not name the uncertain submit."""
    sim.faults({"match": CREATE, "times": 1, "drop": "after"})
    store, task = TaskStateStore(), generate(bodies(2), deferrable=deferrable)
    revoked, first = exceptions.MagicHourAuthenticationError(401, "revoked"), context_of(store=store)
    if deferrable:
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(first)
        waiting = deferred.value.trigger
        event = {"kind": "image", "project_ids": waiting.project_ids, "error": carry_error(revoked)}
        with pytest.raises(exceptions.MagicHourAuthenticationError):
            task.execute_complete(first, event=event, **stored(deferred.value.kwargs))
    else:
        with monkeypatch.context() as refused:
            refused.setattr(GenerateTask, "_wait", lambda *_: (_ for _ in ()).throw(revoked))
            with pytest.raises(exceptions.MagicHourAuthenticationError):
                task.execute(first)
    with pytest.raises(exceptions.MagicHourUncertainSubmitError):
        run_task(task, context_of(try_number=2, max_tries=1, store=store, clear_number=1))
    assert created(sim) == 2
    run_task(task, context_of(try_number=3, max_tries=2, store=store, clear_number=2))
    assert created(sim) == 3

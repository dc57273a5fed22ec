"""Nothing is paid for twice: create and generate against the simulator, with records in each store."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour import exceptions
from airflow_provider_magichour.operators import _earlier_tries
from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import (
    BODY,
    CREATE,
    bodies,
    created,
    execute,
    generate,
    only_project,
    operator,
    posts,
    wait_for,
)
from tests.support.tasks import TaskStateStore, run_task, task_context

pytestmark = pytest.mark.usefixtures("no_pauses")

GET = {"route": "get_project"}
Context = Callable[..., Any]


@pytest.fixture(params=["task state", "submit_records"])
def context(
    request: pytest.FixtureRequest, sim: Simulator, connect: Callable[..., str], tmp_path: Path
) -> Context:
    """Return what makes the context of a try; its records are in one store or the other."""
    store = TaskStateStore() if request.param == "task state" else None
    more = {} if store else {"submit_records": f"file://{tmp_path}/records"}
    connect(sim.url, sim.api_key, timeout=30, **more)

    def make(try_number: int = 1, max_tries: int = 3, clear_number: int = 0) -> Any:
        made = task_context("create", store=store, try_number=try_number, max_tries=max_tries)
        made["dag_run"].clear_number = clear_number
        return made

    make.key = lambda key: connect(sim.url, key, timeout=30, **more)  # type: ignore[attr-defined]
    return make


def submitted_then_lost(context: Context, sim: Simulator, count: int = 1) -> list[str]:
    """Submit in a first try that fails after its submits; return the projects."""
    with pytest.raises(exceptions.MagicHourInvalidRequestError):
        operator([*bodies(count), {"style": {}}]).execute(context(1))
    return list(sim.state()["projects"])


class TestNotFound:
    def test_read_lag_is_waited_for(self, context: Context, sim: Simulator) -> None:
        (project_id,) = submitted_then_lost(context, sim)
        sim.faults({"match": GET, "times": 2, "status": 404})
        assert operator(bodies(1)).execute(context(2))[0]["id"] == project_id

    def test_lasting_404_fails_and_only_a_clear_submits_again(self, context: Context, sim: Simulator) -> None:
        submitted_then_lost(context, sim)
        sim.faults({"match": GET, "status": 404})
        for try_number in (2, 3):
            with pytest.raises(exceptions.MagicHourNotFoundError, match="does not prove"):
                operator(bodies(1)).execute(context(try_number))
        assert created(sim) == 1
        operator(bodies(1)).execute(context(4, max_tries=6, clear_number=1))
        assert created(sim) == 2

    def test_clear_goes_on_with_a_project_that_is_found_again(self, context: Context, sim: Simulator) -> None:
        (project_id,) = submitted_then_lost(context, sim)
        sim.faults({"match": GET, "status": 404})
        with pytest.raises(exceptions.MagicHourNotFoundError):
            operator(bodies(1)).execute(context(2))
        sim.clear_faults()
        assert operator(bodies(1)).execute(context(3, 5, 1))[0]["id"] == project_id
        assert created(sim) == 1

    def test_clear_counts_no_more_after_a_project_was_found_again(
        self, context: Context, sim: Simulator
    ) -> None:
        submitted_then_lost(context, sim)
        sim.faults({"match": GET, "status": 404})
        with pytest.raises(exceptions.MagicHourNotFoundError):
            operator(bodies(1)).execute(context(2))
        sim.clear_faults()
        with pytest.raises(exceptions.MagicHourInvalidRequestError):
            operator([*bodies(1), {"style": {}}]).execute(context(3, 5, 1))  # continues with the project
        sim.faults({"match": GET, "status": 404})
        with pytest.raises(exceptions.MagicHourNotFoundError, match="does not prove"):
            operator(bodies(1)).execute(context(4, 5, 1))
        assert created(sim) == 1

    def test_404_page_of_a_gateway_is_retryable(self, context: Context, sim: Simulator) -> None:
        submitted_then_lost(context, sim)
        sim.faults({"match": GET, "status": 404, "html": True})
        with pytest.raises(exceptions.MagicHourError) as caught:
            operator(bodies(1)).execute(context(2))
        assert not isinstance(caught.value, AirflowFailException)
        assert created(sim) == 1

    def test_key_of_another_account_never_pays(
        self, context: Context, sim: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            _earlier_tries, "NOT_FOUND_SECONDS", 60.0
        )  # the account's id makes it known at once
        first = submitted_then_lost(context, sim, 5)
        other = sim.add_account("mhk_other")
        context.key("mhk_other")  # type: ignore[attr-defined]
        for start in (context(2), context(3, 5, 1)):  # a retry and a Clear
            with pytest.raises(exceptions.MagicHourError, match=other):
                operator(bodies(6)).execute(start)
        assert created(sim) == 5
        context.key(sim.api_key)  # type: ignore[attr-defined]
        made = operator(bodies(5)).execute(context(4, 7, 2))
        assert sorted(one["id"] for one in made) == sorted(first)

    def test_kill_while_404_is_waited_for_is_no_lasting_404(
        self, context: Context, sim: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_earlier_tries, "NOT_FOUND_SECONDS", 60.0)
        submitted_then_lost(context, sim)
        sim.faults({"match": GET, "status": 404})
        task = operator(bodies(1))
        with ThreadPoolExecutor(1) as executor:
            running = executor.submit(execute, task, context(2))
            wait_for(lambda: bool(sim.requests("get_project")))
            task.on_kill()
            with pytest.raises(exceptions.MagicHourError, match="killed") as caught:
                running.result(50)
        assert not isinstance(caught.value, AirflowFailException)


class TestWrongKind:
    """A tool that this version does not know makes another kind than the user gave."""

    BODY: ClassVar[dict[str, Any]] = {"end_seconds": 5, "style": {"prompt": "x"}}

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_wrong_kind_is_said_and_no_clear_pays_again(
        self, context: Context, sim: Simulator, monkeypatch: pytest.MonkeyPatch, deferrable: bool
    ) -> None:
        for module in ("tools", "operators._create", "_client.api"):
            monkeypatch.setattr(
                f"airflow_provider_magichour.{module}.tool_kind", lambda tool, kind=None: kind
            )
        for start in (context(1), context(2, 5, 1), context(3, 6, 2)):
            task = generate(self.BODY, tool="text-to-video", kind="image", deferrable=deferrable)
            with pytest.raises(exceptions.MagicHourWrongKindError, match="kind='video'") as caught:
                run_task(task, start)
        assert created(sim) == 1
        advice = f"MagicHourDownloadOperator(project_id='{only_project(sim)}', kind='video', ...)"
        assert "pays again if you change its kind" in str(caught.value)
        assert advice in str(caught.value)


class TestLists:
    def test_of_equal_bodies_the_one_that_did_not_fail_is_taken(
        self, context: Context, sim: Simulator
    ) -> None:
        with pytest.raises(exceptions.MagicHourInvalidRequestError):
            operator([BODY, BODY, {"style": {}}]).execute(context(1))
        first, second = sim.state()["projects"]
        taken = operator([BODY, {"style": {}}])
        with pytest.raises(exceptions.MagicHourInvalidRequestError):
            taken.execute(context(2))
        (taken_id,) = taken._task.project_ids
        sim.end_project(taken_id, "error", "unknown_error")
        (left,) = {first, second} - {taken_id}
        assert operator([BODY]).execute(context(3))[0]["id"] == left
        assert created(sim) == 2

    def test_refused_bodies_hide_no_project_from_a_shorter_list(
        self, context: Context, sim: Simulator
    ) -> None:
        refused = [{"style": {}}] * 12
        with pytest.raises(exceptions.MagicHourInvalidRequestError):
            operator([*refused, *bodies(6)]).execute(context(1))
        made = list(sim.state()["projects"])
        again = operator(bodies(6)).execute(context(2))
        assert sorted(one["id"] for one in again) == sorted(made)
        assert created(sim) == 6

    def test_uncertain_submit_is_asked_about_after_a_success_of_a_shorter_list(
        self, context: Context, sim: Simulator
    ) -> None:
        sim.faults({"match": CREATE, "times": 1, "drop": "after"})
        with pytest.raises(exceptions.MagicHourUncertainSubmitError):
            operator([BODY, BODY]).execute(context(1))
        operator([BODY]).execute(context(2))  # Airflow never heard of it
        with pytest.raises(exceptions.MagicHourUncertainSubmitError):
            operator([BODY, BODY]).execute(context(3))
        assert created(sim) == 2


class TestClear:
    CLEARS = ((2, 4, 1), (2, 1, 1), (2, 3, 1))

    @pytest.mark.parametrize("start", CLEARS, ids=["higher", "lower", "same max_tries"])
    def test_clear_of_a_success_pays_again(
        self, context: Context, sim: Simulator, start: tuple[int, int, int]
    ) -> None:
        first = operator().execute(context(1))
        assert operator().execute(context(*start))["id"] != first["id"]

    def test_other_tasks_clear_does_not_count_while_up_for_retry(
        self, context: Context, sim: Simulator
    ) -> None:
        (project_id,) = submitted_then_lost(context, sim)
        assert operator(bodies(1)).execute(context(2, 3, clear_number=1))[0]["id"] == project_id

    def test_other_tasks_clear_and_edited_retries_do_not_count_while_up_for_retry(
        self, context: Context, sim: Simulator
    ) -> None:
        sim.faults(
            {"match": CREATE, "times": 1, "drop": "after"}, {"match": CREATE, "status": 404, "html": True}
        )
        with pytest.raises(exceptions.MagicHourBatchError) as caught:  # one uncertain submit, one page
            operator(bodies(2)).execute({**context(1, 1), "task": SimpleNamespace(retries=1)})
        assert not isinstance(caught.value, AirflowFailException)
        sim.clear_faults()
        with pytest.raises(exceptions.MagicHourUncertainSubmitError):
            operator(bodies(2)).execute({**context(2, 1, 1), "task": SimpleNamespace(retries=0)})
        assert created(sim) == 2
        operator(bodies(2)).execute({**context(3, 2, 2), "task": SimpleNamespace(retries=0)})
        assert created(sim) == 3

    def test_clear_of_a_failed_list_pays_only_for_what_failed(self, context: Context, sim: Simulator) -> None:
        sim.faults({"match": CREATE, "times": 1, "drop": "after"})
        with pytest.raises(exceptions.MagicHourUncertainSubmitError):
            operator(bodies(3)).execute(context(1))
        with pytest.raises(exceptions.MagicHourUncertainSubmitError):
            operator(bodies(3)).execute(context(2))
        assert posts(sim) == 3
        assert len(operator(bodies(3)[::-1]).execute(context(3, 5, 1))) == 3
        assert posts(sim) == 4

    def test_projects_that_failed_or_were_canceled_are_paid_again(
        self, context: Context, sim: Simulator
    ) -> None:
        failed, canceled, complete = submitted_then_lost(context, sim, 3)
        sim.end_project(failed, "error", "unknown_error")
        sim.end_project(canceled, "canceled")
        made = operator(bodies(3)).execute(context(2))
        assert created(sim) == 5
        assert complete in [one["id"] for one in made]

    def test_retry_after_a_second_submit_finds_the_second(self, context: Context, sim: Simulator) -> None:
        (failed,) = submitted_then_lost(context, sim)
        sim.end_project(failed, "error", "unknown_error")
        with pytest.raises(exceptions.MagicHourInvalidRequestError):
            operator([*bodies(1), {"style": {}}]).execute(context(2))
        operator(bodies(1)).execute(context(3))
        assert created(sim) == 2


class TestProxies:
    def test_gateways_uncertain_response_stops_the_list(self, context: Context, sim: Simulator) -> None:
        sim.faults({"match": CREATE, "status": 502, "html": True, "process": True})
        with pytest.raises(exceptions.MagicHourBatchError) as caught:
            operator(bodies(40)).execute(context(1))
        assert not isinstance(caught.value, AirflowFailException)  # a retry submits what was not sent
        paid = created(sim)
        assert paid <= 4
        sim.clear_faults()
        with pytest.raises(exceptions.MagicHourError, match="in the middle of submitting"):
            operator(bodies(40)).execute(context(2))
        assert created(sim) == 40

    @pytest.mark.parametrize("status", [403, 404])
    def test_firewalls_page_stops_the_list_and_is_retryable(
        self, context: Context, sim: Simulator, status: int
    ) -> None:
        sim.faults({"match": CREATE, "status": status, "html": True})
        with pytest.raises(exceptions.MagicHourGatewayError) as caught:
            operator(bodies(40)).execute(context(1))
        assert not isinstance(caught.value, AirflowFailException)
        assert posts(sim) <= 4

    def test_nothing_is_sent_where_something_else_responds(self, context: Context, sim: Simulator) -> None:
        sim.faults({"match": {"path": "/v1/account"}, "status": 200, "body": "<html>log in</html>"})
        with pytest.raises(exceptions.MagicHourError) as caught:
            operator().execute(context(1))
        assert not isinstance(caught.value, AirflowFailException)
        assert posts(sim) == 0

    def test_plan_code_fails_its_own_body_only(self, context: Context, sim: Simulator) -> None:
        sim.faults({"match": CREATE, "times": 1, "status": 402, "code": "plan_upgrade_required"})
        with pytest.raises(exceptions.MagicHourPaymentRequiredError) as caught:
            operator(bodies(6)).execute(context(1))
        assert "credits left" not in str(caught.value)
        assert created(sim) == 5


class TestBudget:
    def submit(self, context: Context, body: Any, limit: float, *start: int) -> Any:
        return operator(body, max_credits=limit).execute(context(*start))

    def test_uncertain_submit_counts_as_the_most_expensive(self, context: Context, sim: Simulator) -> None:
        sim.faults({"match": CREATE, "skip": 1, "times": 1, "drop": "after"})
        with pytest.raises(exceptions.MagicHourBatchFailedError, match="max_credits"):
            self.submit(context, bodies(4), 14)
        assert posts(sim) == 2

    def test_changed_bodies_count(self, context: Context, sim: Simulator) -> None:
        submitted_then_lost(context, sim, 2)
        changed = [{**BODY, "name": f"changed {n}"} for n in range(3)]
        with pytest.raises(exceptions.MagicHourBudgetError):
            self.submit(context, changed, 17, 2)
        assert created(sim) == 3

    def test_refunded_projects_do_not_count(self, context: Context, sim: Simulator) -> None:
        for project_id in submitted_then_lost(context, sim, 2):
            sim.end_project(project_id, "error", "unknown_error")
        assert len(self.submit(context, bodies(2), 10, 2)) == 2

    def test_missing_charge_refuses_the_rest(self, context: Context, sim: Simulator) -> None:
        sim.faults({"match": CREATE, "times": 1, "remove": ["credits_charged"]})
        with pytest.raises(exceptions.MagicHourBudgetError, match="not known"):
            self.submit(context, bodies(3), 1000)
        assert posts(sim) == 1

    @pytest.mark.parametrize(
        ("account", "paid"),
        [
            ({"credits": None}, 0),
            ({"credits": "many"}, 0),
            ({"credits": 0}, 0),
            ({"credits": 0, "subscription": None}, 1),
            ({"credits": 4, "subscription": None}, 0),
        ],
    )
    def test_unreadable_or_low_balance_refuses(
        self, context: Context, sim: Simulator, account: dict[str, Any], paid: int
    ) -> None:
        sim.faults({"match": {"path": "/v1/account"}, "merge": {"subscription": {"x": 1}, **account}})
        if paid:
            self.submit(context, BODY, 5)
        else:
            with pytest.raises(exceptions.MagicHourBudgetError):
                self.submit(context, BODY, 5)
        assert posts(sim) == paid

    def test_limit_may_be_a_template(self, context: Context) -> None:
        task = operator(max_credits="{{ params.limit }}")
        task.max_credits = "0"
        with pytest.raises(exceptions.MagicHourArgumentError, match="max_credits"):
            task.execute(context(1))

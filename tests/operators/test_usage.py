"""The costs of a task: the XCom ``usage``, the names of projects, and ``keep_credits``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from airflow.providers.common.compat.sdk import Asset

from airflow_provider_magichour import exceptions
from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import BODY, CREATE, bodies, created, generate, operator, posts
from tests.support.tasks import TaskStateStore, run_task, task_context

pytestmark = pytest.mark.usefixtures("no_pauses")


def usage_of(context: Any, task_id: str = "generate") -> dict[str, Any]:
    usage: dict[str, Any] = context["ti"].xcoms.pull(task_id, "usage")
    assert usage.pop("seconds") >= 0
    return usage


class TestUsage:
    @pytest.mark.parametrize("deferrable", [False, True])
    def test_generate_says_what_it_used(self, sim: Simulator, tmp_path: Path, deferrable: bool) -> None:
        context = task_context("generate", store=TaskStateStore())
        results = run_task(generate(bodies(2), destination=str(tmp_path), deferrable=deferrable), context)
        assert usage_of(context) == {
            "credits_charged": 10,
            "projects": 2,
            "complete": 2,
            "failed": 0,
            "reused": 0,
            "bytes": sum(file["bytes"] for one in results for file in one["files"]),
        }

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_failed_task_says_so_too_and_counts_no_refunds(
        self, sim: Simulator, tmp_path: Path, deferrable: bool
    ) -> None:
        sim.faults({"match": CREATE, "skip": 1, "times": 1, "outcome": {"code": "unknown_error"}})
        context = task_context("generate", store=TaskStateStore())
        with pytest.raises(exceptions.MagicHourError):
            run_task(generate(bodies(2), destination=str(tmp_path), deferrable=deferrable), context)
        usage = usage_of(context)
        assert usage.pop("bytes") > 0
        assert usage == {"credits_charged": 5, "projects": 2, "complete": 1, "failed": 1, "reused": 0}

    def test_what_is_reused_costs_nothing(self, sim: Simulator, tmp_path: Path) -> None:
        run_task(generate(destination=str(tmp_path)), task_context("generate"))
        context = task_context("generate", run_id="another")
        run_task(generate(destination=str(tmp_path), reuse=True), context)
        usage = usage_of(context)
        assert usage.pop("bytes") > 0
        assert usage == {"credits_charged": 0, "projects": 0, "complete": 0, "failed": 0, "reused": 1}

    def test_create_says_what_it_was_charged(self, sim: Simulator) -> None:
        context = task_context("create")
        with pytest.raises(exceptions.MagicHourInvalidRequestError):
            operator([*bodies(2), {"style": {}}]).execute(context)
        assert usage_of(context, "create") == {
            "credits_charged": 10,
            "projects": 2,
            "complete": 0,
            "failed": 1,
            "reused": 0,
            "bytes": 0,
        }

    def test_events_of_outlets_carry_files_and_credits(self, sim: Simulator, tmp_path: Path) -> None:
        class Events:
            extra: ClassVar[dict[str, Any]] = {}

            def __getitem__(self, asset: Any) -> Any:
                return self if asset == made else None

        made, context = Asset("magichour-tests://made"), task_context("generate", outlet_events=Events())
        result = run_task(generate(destination=str(tmp_path), outlets=[made]), context)
        extra = context["outlet_events"][made].extra
        assert extra["files"] == [result["files"][0]["path"]]
        assert extra["credits_charged"] == 5


class TestNames:
    def names(self, sim: Simulator) -> list[str]:
        return [project["name"] for project in sim.state()["projects"].values()]

    def test_project_is_found_by_dag_task_and_run(self, sim: Simulator) -> None:
        operator().execute(task_context("create"))
        operator([BODY, {**BODY, "name": "mine"}]).execute(task_context("create", map_index=3))
        operator(project_name=None).execute(task_context("create"))
        operator(project_name="nightly {run_id}").execute(task_context("create"))
        names = self.names(sim)
        assert names[0] == "dag.create run"
        assert sorted(names[1:3]) == ["dag.create run [3] [0]", "mine"]
        assert not (names[3] or "").startswith("dag.create")
        assert names[4] == "nightly run"

    def test_name_is_no_part_of_the_fingerprint(self, sim: Simulator) -> None:
        store = TaskStateStore()
        first = operator(project_name=None).execute(task_context("create", store=store))
        again = operator().execute(task_context("create", store=store, try_number=2))
        assert again == first

    @pytest.mark.parametrize("body", [BODY, {**BODY, "name": "dag.create run"}])
    def test_uncertain_submit_says_which_name_to_look_for(self, sim: Simulator, body: Any) -> None:
        sim.faults({"match": CREATE, "times": 1, "drop": "after"})
        store = TaskStateStore()
        for try_number in (1, 2):
            with pytest.raises(exceptions.MagicHourUncertainSubmitError, match=r"named 'dag\.create run'"):
                operator(body).execute(task_context("create", store=store, try_number=try_number))
        assert self.names(sim) == ["dag.create run"]


class TestKeepCredits:
    def test_list_stops_before_less_would_be_left(self, sim: Simulator) -> None:
        balance = operator().hook.get_account()["credits"]
        with pytest.raises(exceptions.MagicHourBudgetError, match="keep_credits"):
            operator(bodies(5), keep_credits=balance - 12).execute(task_context())
        assert created(sim) == 2
        assert operator().hook.get_account()["credits"] == balance - 10

    @pytest.mark.parametrize("account", [{"credits": None}, {"credits": "many"}, {"credits": 7}])
    def test_unreadable_or_low_balance_refuses(self, sim: Simulator, account: dict[str, Any]) -> None:
        sim.faults({"match": {"path": "/v1/account"}, "merge": account})
        with pytest.raises(exceptions.MagicHourBudgetError, match="keep_credits=7"):
            operator(keep_credits="7").execute(task_context())
        assert posts(sim) == 0

    def test_generate_takes_it_too(self, sim: Simulator) -> None:
        with pytest.raises(exceptions.MagicHourBudgetError, match="keep_credits"):
            generate(keep_credits=1e9).execute(task_context())
        assert posts(sim) == 0

    def test_wrong_number_is_refused_at_once(self) -> None:
        with pytest.raises(exceptions.MagicHourArgumentError, match="keep_credits"):
            operator(keep_credits=-1)

"""MagicHourCreateProjectOperator that is tried again, interrupted or kept to a budget pays once."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour import exceptions
from airflow_provider_magichour.operators import _submit
from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import CREATE, TOOL, bodies, created, operator, posts
from tests.support.scripted_server import Reply, scripted_server
from tests.support.tasks import TaskStateStore, task_context

pytestmark = pytest.mark.usefixtures("no_pauses")


ACCOUNT = Reply(200, {"id": "account-1", "credits": 100})


class TestRetry:
    def test_retry_returns_the_same_project(self, sim: Simulator, store: TaskStateStore) -> None:
        first = operator().execute(task_context(store=store))
        assert operator().execute(task_context(store=store, try_number=2)) == first
        assert posts(sim) == 1

    def test_clear_of_a_success_submits_again(self, sim: Simulator, store: TaskStateStore) -> None:
        first = operator().execute(task_context(store=store))
        second = operator().execute(task_context(store=store, try_number=2, max_tries=1))
        assert second["id"] != first["id"]

    @pytest.mark.parametrize("status", ["error", "canceled"])
    def test_failed_project_is_submitted_again(
        self, sim: Simulator, store: TaskStateStore, status: str
    ) -> None:
        first = operator().execute(task_context(store=store))
        store.delete("magichour_success")  # the worker was killed before it could return
        sim.end_project(first["id"], status)
        second = operator().execute(task_context(store=store, try_number=2))
        assert second["id"] != first["id"]

    def test_deleted_project_is_submitted_again(self, sim: Simulator, store: TaskStateStore) -> None:
        task = operator()
        first = task.execute(task_context(store=store))
        store.delete("magichour_success")
        task.hook.wait_for_project = None  # type: ignore[assignment, method-assign]  # it is not waited for
        sim.end_project(first["id"])
        task.hook.delete_project("image", first["id"])
        second = operator().execute(task_context(store=store, try_number=2))
        assert second["id"] != first["id"]

    @pytest.mark.parametrize("status", [401, 403, 500])
    def test_unreadable_project_is_not_submitted_again(
        self, sim: Simulator, store: TaskStateStore, status: int
    ) -> None:
        operator().execute(task_context(store=store))
        store.delete("magichour_success")
        sim.faults({"match": {"route": "get_project"}, "status": status})
        with pytest.raises(exceptions.MagicHourApiError):
            operator().execute(task_context(store=store, try_number=2))
        assert posts(sim) == 1

    @pytest.mark.parametrize(
        "said",
        [
            Reply(404, b"<html>default backend - 404</html>"),
            Reply(200, {"id": "another", "status": "error"}),
            Reply(200, []),
            Reply(200),
            Reply(200, {"id": "p1", "status": ["error"]}),
        ],
    )
    def test_unrelated_404_does_not_submit_again(
        self, connect: Callable[..., str], store: TaskStateStore, said: Reply
    ) -> None:
        with scripted_server() as server:
            connect(server.url, "mhk_live_test")
            server.script(ACCOUNT, Reply(200, {"id": "p1", "credits_charged": 5}), said)
            operator().execute(task_context(store=store))
            store.delete("magichour_success")
            with pytest.raises(exceptions.MagicHourError) as caught:
                operator().execute(task_context(store=store, try_number=2))
            assert not isinstance(caught.value, AirflowFailException)
            assert [seen.method for seen in server.seen] == ["GET", "POST", "GET"]

    @pytest.mark.parametrize("charged", ["1" + "0" * 400, "NaN", '"' + "9" * 70_000 + '"', "true", "[]"])
    def test_id_is_kept_whatever_the_credits_field_holds(
        self, connect: Callable[..., str], store: TaskStateStore, charged: str
    ) -> None:
        with scripted_server() as server:
            connect(server.url, "mhk_live_test")
            server.script(ACCOUNT, Reply(200, f'{{"id": "p1", "credits_charged": {charged}}}'.encode()))
            made = operator().execute(task_context(store=store))
        assert made == {"id": "p1", "kind": "image", "tool": TOOL, "credits_charged": None}
        assert store.get("magichour_submit_0")["id"] == "p1"

    def test_retry_submits_only_failed_bodies_again(
        self, sim: Simulator, store: TaskStateStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        good, bad = bodies(4), bodies(4)
        bad[2] = {"style": {}}
        context = task_context("create", store=store)
        with pytest.raises(exceptions.MagicHourInvalidRequestError) as caught:
            operator(bad).execute(context)
        assert any("body[2]" in note for note in caught.value.__notes__)
        assert "body[2]: POST" in caplog.text
        kept = context["ti"].xcoms.pull("create", "results")
        assert [one is None for one in kept] == [False, False, True, False]
        made = operator(good).execute(task_context(store=store, try_number=2, max_tries=1))
        assert created(sim) == 4
        assert [made[0], made[1], made[3]] == [kept[0], kept[1], kept[3]]

    @pytest.mark.parametrize("code", ["unknown_error", "processing_timeout", "no_source_face"])
    def test_log_blames_the_body_only_where_it_is_invalid(
        self, sim: Simulator, store: TaskStateStore, caplog: pytest.LogCaptureFixture, code: str
    ) -> None:
        project_id = operator().execute(task_context(store=store))["id"]
        store.delete("magichour_success")
        sim.end_project(project_id, "error", code)
        operator().execute(task_context(store=store, try_number=2))
        assert f"Project {project_id} failed ({code})" in caplog.text
        assert ("correct the input" in caplog.text) == (code == "no_source_face")

    def test_not_durable_submits_again(self, sim: Simulator, store: TaskStateStore) -> None:
        for _ in range(2):
            operator(durable=False).execute(task_context(store=store))
        assert posts(sim) == 2
        assert store.values == {}

    def test_missing_store_is_warned_of_once(self, sim: Simulator, caplog: pytest.LogCaptureFixture) -> None:
        operator().execute(task_context())
        assert caplog.text.count("a retry pays again") == 1
        assert "submit_records" in caplog.text


class TimeoutOfAirflowError(BaseException):
    """What Airflow raises in the main thread at ``execution_timeout``."""


@contextlib.contextmanager
def struck_during_a_create_call(sim: Simulator) -> Iterator[None]:
    """Let Airflow end the task when Magic Hour has the first create call, whose response takes longer."""
    over = threading.Event()

    def strike(*_: object) -> None:
        raise TimeoutOfAirflowError

    def send_signal() -> None:
        while not posts(sim):
            if over.wait(0.01):
                return
        over.wait(1)  # a signal while the threads start could leave one of them behind
        os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, strike)
    striking = threading.Thread(target=send_signal)
    try:
        with pytest.raises(TimeoutOfAirflowError):  # noqa: PT012  # the signal may come at once
            striking.start()
            yield
    finally:
        over.set()
        striking.join()
        signal.signal(signal.SIGALRM, before)


class TestInterrupted:
    def test_task_timeout_leaves_no_submit_without_id(self, sim: Simulator, store: TaskStateStore) -> None:
        """Airflow's execution_timeout raises in the main thread while others submit."""
        sim.faults({"match": CREATE, "delay_after": 10})
        with struck_during_a_create_call(sim):
            operator(bodies(12)).execute(task_context(store=store))
        first = created(sim)
        assert first <= _submit.MAX_PARALLEL
        sim.clear_faults()
        operator(bodies(12)).execute(task_context(store=store, try_number=2))
        assert created(sim) == 12

    def test_task_timeout_during_a_create_call_keeps_its_id(
        self, sim: Simulator, store: TaskStateStore
    ) -> None:
        sim.faults({"match": CREATE, "delay_after": 4})
        with struck_during_a_create_call(sim):
            operator().execute(task_context(store=store))
        (made,) = sim.state()["projects"]
        assert operator().execute(task_context(store=store, try_number=2))["id"] == made
        assert posts(sim) == 1


class TestBudget:
    def charge(self, sim: Simulator) -> float:
        made = operator().execute(task_context())
        return float(made["credits_charged"])

    def test_insufficient_balance_submits_nothing(self, sim: Simulator, store: TaskStateStore) -> None:
        with pytest.raises(exceptions.MagicHourBudgetError, match="100000 credits left") as caught:
            operator(max_credits=200_000).execute(task_context(store=store))
        assert isinstance(caught.value, AirflowFailException)
        assert posts(sim) == 0
        assert store.values == {}

    def test_list_stops_before_it_exceeds_max_credits(self, sim: Simulator, store: TaskStateStore) -> None:
        charge = self.charge(sim)
        context = task_context("create", store=store)
        with pytest.raises(exceptions.MagicHourBudgetError, match="max_credits"):
            operator(bodies(5), max_credits=2.5 * charge).execute(context)
        assert created(sim) == 1 + 2
        assert [one is None for one in context["ti"].xcoms.pull("create", "results")] == [False] * 2 + [
            True
        ] * 3

    def test_credits_of_earlier_tries_count(self, sim: Simulator, store: TaskStateStore) -> None:
        charge = self.charge(sim)
        for try_number in (1, 2):
            with pytest.raises(exceptions.MagicHourError):
                operator(bodies(5), max_credits=2.5 * charge).execute(
                    task_context(store=store, try_number=try_number)
                )
        assert created(sim) == 1 + 2

    def test_use_of_80_percent_of_the_budget_is_warned_of(
        self, sim: Simulator, caplog: pytest.LogCaptureFixture
    ) -> None:
        charge = self.charge(sim)
        operator(max_credits=charge * 1.3).execute(task_context())
        assert "of max_credits" not in caplog.text
        operator(max_credits=charge * 1.2).execute(task_context())
        assert "of max_credits" in caplog.text

    def test_sum_of_a_list_is_logged(self, sim: Simulator, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        made = operator(bodies(3)).execute(task_context())
        assert f"3 projects, {sum(one['credits_charged'] for one in made)} credits in all" in caplog.text

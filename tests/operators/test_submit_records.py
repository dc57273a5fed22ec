"""Submit records: what a retry and a Clear find, with each store."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour.exceptions import (
    MagicHourError,
)
from airflow_provider_magichour.operators._clear_or_retry import UNCERTAIN
from airflow_provider_magichour.operators._submit_record import INTENT
from airflow_provider_magichour.operators._submit_records import SubmitRecords
from tests.operators.records import Open, context_of, fail, submit, write_intent
from tests.support.tasks import TaskStateStore

pytestmark = pytest.mark.usefixtures("no_pauses")


class TestRetry:
    def test_nothing_recorded_is_submitted(self, open_records: Open) -> None:
        assert open_records().match(["b"]) == {}

    def test_retry_finds_the_project(self, open_records: Open) -> None:
        submit(open_records())
        record = open_records(try_number=2).match(["b"])[0]
        assert (record.id, record.credits_charged, record.account) == ("p1", 5, "account-1")

    def test_retry_finds_an_open_intent(self, open_records: Open) -> None:
        write_intent(open_records())
        assert open_records(try_number=2).match(["b"])[0].state == INTENT

    def test_discarded_intent_leaves_nothing(self, open_records: Open) -> None:
        records = open_records()
        records.discard(write_intent(records))
        assert open_records(try_number=2).match(["b"]) == {}

    def test_intent_after_a_discarded_one_counts(self, open_records: Open) -> None:
        records = open_records()
        records.discard(write_intent(records))
        write_intent(records)
        assert open_records(try_number=2).match(["b"])[0].state == INTENT

    def test_discarded_intent_does_not_bring_back_a_project_that_was_given_up(
        self, open_records: Open
    ) -> None:
        submit(open_records(), "a", "failed")
        retry = open_records(try_number=2)
        retry.give_up(retry.match(["a"])[0], refunded=True)
        started = retry.start({0: "b", 1: "a"})  # the list is in another order now
        retry.record_id(retry.write_intent(started[1]), "p2", 5, name="t")
        retry.discard(retry.write_intent(started[0]))
        found = open_records(try_number=3).match(["b", "a"])
        assert {position: one.id for position, one in found.items()} == {1: "p2"}

    def test_project_that_was_given_up_is_submitted_again_once(self, open_records: Open) -> None:
        submit(open_records())
        retry = open_records(try_number=2)
        retry.give_up(retry.match(["b"])[0])
        submit(retry, project_id="p2")
        assert open_records(try_number=3).match(["b"])[0].id == "p2"
        assert open_records(try_number=3).match(["b", "b"]).keys() == {0}

    def test_list_is_matched_by_content_in_any_order(self, open_records: Open) -> None:
        records = open_records()
        for body, project_id in (("a", "p1"), ("b", "p2"), ("b", "p3"), ("c", "p4")):
            submit(records, body, project_id)
        retry = open_records(try_number=2).match(["c", "b", "a", "b", "b"])
        assert {position: one.id for position, one in retry.items()} == {0: "p4", 1: "p2", 2: "p1", 3: "p3"}

    def test_shorter_list_finds_its_projects(self, open_records: Open) -> None:
        records = open_records()
        for number in range(30):
            submit(records, f"body {number}", f"p{number}")
        assert open_records(try_number=2).match(["body 29"])[0].id == "p29"

    def test_changed_body_is_another_submit_and_logged(
        self, open_records: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        submit(open_records())
        retry = open_records(try_number=2)
        assert retry.match(["other"]) == {}
        assert "p1" in caplog.text
        assert retry.charges() == ([5], 0)

    def test_tasks_do_not_mix(self, folder: Storage) -> None:
        names = [{}, {"dag_id": "other"}, {"run_id": "other"}, {"task_id": "other"}, {"map_index": 3}]
        for number, name in enumerate(names):
            submit(SubmitRecords.of_task(context_of(**name), storage=folder), project_id=f"p{number}")
        for number, name in enumerate(names):
            records = SubmitRecords.of_task(context_of(**name), storage=folder)
            assert records.match(["b", "b"])[0].id == f"p{number}"

    def test_names_may_hold_anything(self, folder: Storage) -> None:
        for run_id in ("manual__2026-01-01T00:00:00+00:00", "../../x", "ä" * 250, "ä" * 249 + "b"):
            submit(SubmitRecords.of_task(context_of(run_id=run_id), storage=folder), project_id="p")
            assert (
                len(SubmitRecords.of_task(context_of(run_id=run_id), storage=folder).match(["b", "b"])) == 1
            )


#: How a task that ended permanently starts again: (its try and the run's clear number), is it a Clear?
STARTS = {
    "retry": ({"try_number": 2, "max_tries": 3}, False),
    "clear with the same retries": ({"try_number": 2, "max_tries": 4, "clear_number": 1}, True),
    "clear with fewer retries": ({"try_number": 2, "max_tries": 1, "clear_number": 1}, True),
    "clear that leaves max_tries alone": ({"try_number": 2, "max_tries": 3, "clear_number": 1}, True),
    "clear on an Airflow without clear_number": (
        {"try_number": 2, "max_tries": 4, "clear_number": None},
        True,
    ),
}


@pytest.mark.parametrize(("start", "is_clear"), STARTS.values(), ids=STARTS)
class TestClear:
    def test_clear_of_a_success_submits_again(
        self, open_records: Open, start: dict[str, Any], is_clear: bool
    ) -> None:
        first = open_records(max_tries=3)
        submit(first)
        first.end(succeeded=True)
        again = open_records(**start)
        assert bool(again.match(["b"])) == again.succeeded == (not is_clear)
        assert again.was_cleared == is_clear

    def test_retry_after_the_clear_of_a_success_finds_only_what_came_after_it(
        self, open_records: Open, start: dict[str, Any], is_clear: bool
    ) -> None:
        first = open_records(max_tries=3)
        submit(first, "a", "p1")
        submit(first, "b", "p2")
        first.end(succeeded=True)
        if not is_clear:
            return
        again = open_records(**start)
        again.match(["a", "b"])
        submit(again, "a", "p3")  # then the worker was killed
        retry = open_records(**{**start, "try_number": 3})
        assert {position: one.id for position, one in retry.match(["a", "b"]).items()} == {0: "p3"}
        assert retry.charges() == ([5], 0)

    def test_clear_counts_only_after_the_error_was_reported(
        self, open_records: Open, start: dict[str, Any], is_clear: bool
    ) -> None:
        first = open_records(max_tries=3)
        intent = write_intent(first)
        assert not open_records(**start).is_cleared(intent)
        fail(first, intent)
        again = open_records(**start)
        assert again.is_cleared(again.match(["b"])[0]) == is_clear

    def test_clear_does_not_count_where_the_worker_died_before_the_error(
        self, open_records: Open, start: dict[str, Any], is_clear: bool
    ) -> None:
        first = open_records(max_tries=3)
        first.mark_reported(write_intent(first), UNCERTAIN)
        again = open_records(**start)
        assert not again.is_cleared(again.match(["b"])[0])

    def test_clear_of_a_failure_goes_on_with_the_project(
        self, open_records: Open, start: dict[str, Any], is_clear: bool
    ) -> None:
        first = open_records(max_tries=3)
        submit(first)
        first.end(succeeded=False, results={"p1": {"files": [1]}})
        again = open_records(**start)
        assert again.match(["b"])[0].id == "p1"
        assert again.result_of("p1") == {"files": [1]}
        assert not again.succeeded


class TestClearOfAnotherTask:
    """It changes the DAG run's number while this task waits for its retry, but does not clear this task."""

    @pytest.mark.parametrize("max_tries", [3, 7], ids=["as the DAG has it", "cleared before"])
    def test_retry_is_no_clear(self, open_records: Open, max_tries: int) -> None:
        task, began = SimpleNamespace(retries=3), max_tries - 3
        first = open_records(max_tries=max_tries, try_number=began + 1, task=task)
        intent = write_intent(first)
        submit(first, "c", "p2")
        fail(first, intent)
        first.end(succeeded=True)
        retry = open_records(max_tries=max_tries, try_number=began + 2, clear_number=1, task=task)
        assert not retry.is_cleared(retry.match(["b"])[0])
        assert retry.succeeded

    def test_retry_with_edited_retries_is_no_clear_of_what_may_be_tried_again(
        self, open_records: Open
    ) -> None:
        first = open_records(max_tries=1, task=SimpleNamespace(retries=1))
        fail(first, write_intent(first), MagicHourError)
        now = {"max_tries": 1, "try_number": 2, "clear_number": 1, "task": SimpleNamespace(retries=0)}
        retry = open_records(**now)
        assert not retry.is_cleared(retry.match(["b"])[0])

    def test_clear_with_edited_retries_is_one(self, open_records: Open) -> None:
        first = open_records(max_tries=1, task=SimpleNamespace(retries=1))
        submit(first)
        first.end(succeeded=True)
        now = {"max_tries": 1, "try_number": 2, "clear_number": 1, "task": SimpleNamespace(retries=0)}
        assert open_records(**now).match(["b"]) == {}


class TestRunMadeAgain:
    """A run that was deleted and made again has the same id; its objects are still there."""

    def test_new_run_submits_again_after_a_success(self, folder: Storage) -> None:
        for _ in range(2):
            records = SubmitRecords.of_task(context_of(store=TaskStateStore()), storage=folder)
            assert records.match(["b"]) == {}
            submit(records)
            records.end(succeeded=True)

    def test_try_that_succeeded_unheard_is_no_new_run(self, folder: Storage, store: TaskStateStore) -> None:
        records = SubmitRecords.of_task(context_of(store=store), storage=folder)
        submit(records)
        records.end(succeeded=True)
        assert SubmitRecords.of_task(context_of(store=store), storage=folder).succeeded  # the same try again
        assert SubmitRecords.of_task(context_of(try_number=2), storage=folder).succeeded


class TestRunThatWasMadeAgain:
    """A folder keeps the records of a deleted run, and the next run with this id finds them."""

    def test_tries_of_the_old_run_hide_no_clear(self, folder: Storage) -> None:
        def open_folder(**changes: Any) -> SubmitRecords:
            return SubmitRecords.of_task(context_of(**changes), storage=folder)

        cleared = {"try_number": 2, "max_tries": 3, "clear_number": 1}
        old = open_folder(**cleared)
        old.match(["b"])
        submit(old)
        old.end(succeeded=True)
        first = open_folder(max_tries=2)
        assert first.match(["b"]) == {}
        fail(first, write_intent(first))
        again = open_folder(**cleared)
        assert again.is_cleared(again.match(["b"])[0])


class TestWithoutAStore:
    def test_records_last_for_this_try(self) -> None:
        records = SubmitRecords.of_task(context_of())
        assert not records.is_persistent
        submit(records)
        assert records.charges() == ([5], 0)
        assert SubmitRecords.of_task(context_of()).match(["b"]) == {}

    def test_not_durable_leaves_the_stores_alone(self, store: TaskStateStore, folder: Storage) -> None:
        records = SubmitRecords.of_task(context_of(store=store), durable=False, storage=folder)
        submit(records)
        assert not records.is_persistent
        assert store.values == {}
        assert folder.walk("") == []

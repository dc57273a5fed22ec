"""Submit records: each rule of paying once, with Airflow's store in memory and a folder on disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour._transfer.storage import Storage, open_destination
from airflow_provider_magichour.exceptions import (
    MagicHourSubmitRecordError,
    MagicHourUncertainSubmitError,
)
from airflow_provider_magichour.operators import _submit_records
from airflow_provider_magichour.operators._fingerprints import fingerprint
from airflow_provider_magichour.operators._record import (
    CLOSED,
    INTENT,
    KILLED,
    MADE,
    UNCERTAIN,
    Record,
    Reported,
)
from airflow_provider_magichour.operators._submit_records import SubmitRecords
from airflow_provider_magichour.operators._submit_stores import (
    FOLDER,
    ObjectStore,
    _record_name,
    _record_of_name,
    remove_old_records,
)
from tests.support.tasks import TaskStateStore, task_context

Open = Callable[..., SubmitRecords]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_submit_records.time, "sleep", lambda seconds: None)


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return open_destination(str(tmp_path))


def context_of(clear_number: int | None = 0, **changes: Any) -> Any:
    context = task_context(**changes)
    if clear_number is not None:
        context["dag_run"].clear_number = clear_number
    return context


@pytest.fixture(params=["task state", "folder", "both"])
def open_records(request: pytest.FixtureRequest, store: TaskStateStore, folder: Storage) -> Open:
    """Return what opens the records of a try, in each place where they may be."""
    state = None if request.param == "folder" else store
    storage = None if request.param == "task state" else folder

    def open_(**changes: Any) -> SubmitRecords:
        return SubmitRecords.of_task(context_of(store=state, **changes), storage=storage)

    return open_


def submit(records: SubmitRecords, body: str = "b", project_id: str = "p1", charged: Any = 5) -> Record:
    return records.record_id(records.write_intent(body, "account-1"), project_id, charged, name="t")


class TestRetry:
    def test_nothing_recorded_is_submitted(self, open_records: Open) -> None:
        assert open_records().match(["b"]) == {}

    def test_retry_finds_the_project(self, open_records: Open) -> None:
        submit(open_records())
        record = open_records(try_number=2).match(["b"])[0]
        assert (record.id, record.credits_charged, record.account) == ("p1", 5, "account-1")

    def test_retry_finds_an_open_intent(self, open_records: Open) -> None:
        open_records().write_intent("b", None)
        assert open_records(try_number=2).match(["b"])[0].state == INTENT

    def test_discarded_intent_leaves_nothing(self, open_records: Open) -> None:
        records = open_records()
        records.discard(records.write_intent("b", None))
        assert open_records(try_number=2).match(["b"]) == {}

    def test_intent_after_a_discarded_one_counts(self, open_records: Open) -> None:
        records = open_records()
        records.discard(records.write_intent("b", None))
        records.write_intent("b", None)
        assert open_records(try_number=2).match(["b"])[0].state == INTENT

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


#: How a task that ended for good starts again: (its try and the run's clear number), is it a Clear?
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
        first.succeed()
        again = open_records(**start)
        assert bool(again.match(["b"])) == again.succeeded == (not is_clear)
        assert again.was_cleared == is_clear

    def test_retry_after_the_clear_of_a_success_finds_only_what_came_after_it(
        self, open_records: Open, start: dict[str, Any], is_clear: bool
    ) -> None:
        first = open_records(max_tries=3)
        submit(first, "a", "p1")
        submit(first, "b", "p2")
        first.succeed()
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
        intent = first.write_intent("b", None)
        assert not open_records(**start).is_cleared(intent)
        first.mark_reported(intent, UNCERTAIN)
        again = open_records(**start)
        assert again.is_cleared(again.match(["b"])[0]) == is_clear

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


class TestRunMadeAgain:
    """A run that was deleted and made again has the same id; its objects are still there."""

    def test_new_run_submits_again_after_a_success(self, folder: Storage) -> None:
        for _ in range(2):
            records = SubmitRecords.of_task(context_of(store=TaskStateStore()), storage=folder)
            assert records.match(["b"]) == {}
            submit(records)
            records.succeed()

    def test_try_that_succeeded_unheard_is_no_new_run(self, folder: Storage, store: TaskStateStore) -> None:
        records = SubmitRecords.of_task(context_of(store=store), storage=folder)
        submit(records)
        records.succeed()
        assert SubmitRecords.of_task(context_of(store=store), storage=folder).succeeded  # the same try again
        assert SubmitRecords.of_task(context_of(try_number=2), storage=folder).succeeded


class TestTwoStores:
    @pytest.fixture
    def open_both(self, store: TaskStateStore, folder: Storage) -> Open:
        return lambda **changes: SubmitRecords.of_task(context_of(store=store, **changes), storage=folder)

    def test_task_state_that_was_discarded_is_not_needed(
        self, open_both: Open, store: TaskStateStore
    ) -> None:
        records = open_both()
        submit(records, "a", "p1")
        records.write_intent("b", None)
        store.clear()
        found = open_both(try_number=2).match(["a", "b"])
        assert (found[0].id, found[1].state) == ("p1", INTENT)

    def test_folder_that_was_emptied_is_not_needed(self, open_both: Open, folder: Storage) -> None:
        submit(open_both())
        for path in folder.walk(FOLDER):
            folder.remove(f"{FOLDER}/{path}")
        assert open_both(try_number=2).match(["b"])[0].id == "p1"

    def test_highest_number_wins(self, open_both: Open, store: TaskStateStore, folder: Storage) -> None:
        intent = open_both().write_intent("b", None)
        for stores, expected in (({"storage": folder}, "p1"), ({"store": store}, "p2")):
            context = context_of(**({"store": store} if "store" in stores else {}))
            one = SubmitRecords.of_task(context, storage=stores.get("storage"))
            newest = open_both(try_number=2).match(["b"])[0]
            one.record_id(newest, expected, 5, name="t")
            assert open_both(try_number=2).match(["b"])[0].id == expected
        assert intent.number == 1

    def test_task_state_may_fail_where_there_is_a_folder(
        self, folder: Storage, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = FailingStore()
        store.failures = {"set": 99, "delete": 99}
        records = SubmitRecords.of_task(context_of(store=store), storage=folder)
        submit(records)
        assert "Could not write" in caplog.text
        assert SubmitRecords.of_task(context_of(), storage=folder).match(["b"])[0].id == "p1"

    def test_folder_must_take_the_intent(self, store: TaskStateStore, folder: Storage) -> None:
        records = SubmitRecords.of_task(context_of(store=store), storage=folder)
        records.match(["b"])
        (Path(folder.root) / ".magichour").write_text("a file where a folder should be")
        with pytest.raises(MagicHourSubmitRecordError, match="Nothing was submitted") as caught:
            records.write_intent("b", None)
        assert not isinstance(caught.value, AirflowFailException)
        assert SubmitRecords.of_task(context_of(store=store)).match(["b"]) == {}

    def test_id_in_one_store_is_enough(self, store: TaskStateStore, folder: Storage) -> None:
        records = SubmitRecords.of_task(context_of(store=store), storage=folder)
        intent = records.write_intent("b", None)
        (Path(folder.root) / ".magichour").rename(Path(folder.root) / "away")
        (Path(folder.root) / ".magichour").write_text("")
        records.record_id(intent, "p1", 5, name="t")
        assert SubmitRecords.of_task(context_of(store=store)).match(["b"])[0].id == "p1"


class FailingStore(TaskStateStore):
    """Fails so many times for each verb before it works."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, int] = {}

    def _fail(self, verb: str) -> None:
        if self.failures.get(verb, 0) > 0:
            self.failures[verb] -= 1
            raise ConnectionError("the API server is away")

    def get(self, key: str, default: Any = None) -> Any:
        self._fail("get")
        return super().get(key, default)

    def set(self, key: str, value: Any, *, retention: object = None) -> None:
        self._fail("set")
        super().set(key, value)

    def delete(self, key: str) -> None:
        self._fail("delete")
        super().delete(key)


class TestStoreThatFails:
    @pytest.fixture
    def failing(self) -> FailingStore:
        return FailingStore()

    def open(self, store: FailingStore) -> SubmitRecords:
        return SubmitRecords.of_task(context_of(store=store))

    def test_short_outage_is_waited_for(self, failing: FailingStore) -> None:
        failing.failures = {"get": 2, "set": 2}
        records = self.open(failing)
        assert records.match(["b"]) == {}
        intent = records.write_intent("b", None)
        failing.failures = {"set": 5}
        records.record_id(intent, "p1", 5, name="t")
        assert failing.get("magichour_submit_0")["id"] == "p1"

    @pytest.mark.parametrize("verb", ["get", "set"])
    def test_outage_before_the_submit_is_retryable(self, failing: FailingStore, verb: str) -> None:
        failing.failures = {verb: 99}
        records = self.open(failing)
        with pytest.raises(MagicHourSubmitRecordError, match="Nothing was submitted") as caught:
            records.match(["b"]) if verb == "get" else records.write_intent("b", None)
        assert not isinstance(caught.value, AirflowFailException)

    def test_outage_after_the_submit_names_the_project(self, failing: FailingStore) -> None:
        records = self.open(failing)
        intent = records.write_intent("b", None)
        failing.failures = {"set": 99}
        with pytest.raises(MagicHourUncertainSubmitError, match="project p1"):
            records.record_id(intent, "p1", 5, name="t")

    def test_intent_with_a_lost_confirmation_is_not_uncertain(
        self, open_records: Open, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lose_the_response(write: Callable[..., None]) -> Callable[..., None]:
            def written(*args: Any, **options: Any) -> None:
                write(*args, **options)
                raise TimeoutError

            return written

        records = open_records()
        records.match(["b"])
        monkeypatch.setattr(TaskStateStore, "set", lose_the_response(TaskStateStore.set))
        monkeypatch.setattr(Storage, "write", lose_the_response(Storage.write))
        with pytest.raises(MagicHourSubmitRecordError, match="Nothing was submitted"):
            records.write_intent("b", None)
        monkeypatch.undo()
        assert open_records(try_number=2).match(["b"]) == {}

    def test_what_is_written_if_possible_raises_nothing(self, failing: FailingStore) -> None:
        records = self.open(failing)
        record = submit(records)
        failing.failures = {"set": 99, "delete": 99}
        records.discard(record)
        records.succeed()
        records.mark_reported(record, UNCERTAIN)
        assert failing.get("magichour_submit_0")["id"] == "p1"

    def test_body_is_not_given_up_where_that_cannot_be_written(self, failing: FailingStore) -> None:
        records = self.open(failing)
        record = submit(records)
        failing.failures = {"set": 99}
        with pytest.raises(MagicHourSubmitRecordError):
            records.give_up(record)

    @pytest.mark.parametrize("junk", ["x", 7, [], {}, {"body": 1, "max_tries": 0}, {"body": "b"}])
    def test_unreadable_record_is_uncertain(self, store: TaskStateStore, junk: Any) -> None:
        store.set("magichour_submit_0", junk)
        with pytest.raises(MagicHourUncertainSubmitError, match="magichour_submit_0"):
            SubmitRecords.of_task(context_of(store=store)).match(["b"])

    def test_unreadable_object_is_uncertain(self, folder: Storage) -> None:
        submit(SubmitRecords.of_task(context_of(), storage=folder))
        (path, *_) = folder.walk(FOLDER)
        folder.write(f"{FOLDER}/{path.rpartition('/')[0]}/junk", b"")
        with pytest.raises(MagicHourUncertainSubmitError, match="junk"):
            SubmitRecords.of_task(context_of(), storage=folder).match(["b"])

    def test_temporary_file_of_a_killed_writer_is_passed_over(self, folder: Storage) -> None:
        submit(SubmitRecords.of_task(context_of(), storage=folder))
        (path, *_) = folder.walk(FOLDER)
        folder.write(f"{FOLDER}/{path.rpartition('/')[0]}/.x.json.0123.tmp", b"")
        assert SubmitRecords.of_task(context_of(), storage=folder).match(["b"])

    def test_newer_fields_are_ignored(self, store: TaskStateStore) -> None:
        value = {"body": "b", "state": "made", "number": 2, "id": "p1", "newer": True}
        store.set("magichour_submit_0", value)
        assert SubmitRecords.of_task(context_of(store=store)).match(["b"])[0].id == "p1"


class TestSize:
    def test_list_of_thousands_needs_one_list_request(
        self, folder: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bodies = [fingerprint("c", "t", "image", {"n": number}) for number in range(3000)]
        records = SubmitRecords.of_task(context_of(), storage=folder)
        assert records.match(bodies) == {}
        began = time.monotonic()
        for number, body in enumerate(bodies):
            submit(records, body, f"p{number}")
        calls: list[str] = []
        for name in ("walk", "read", "names", "sizes"):
            method = getattr(Storage, name)
            monkeypatch.setattr(
                Storage, name, lambda self, *args, n=name, m=method: (calls.append(n), m(self, *args))[1]
            )
        found = SubmitRecords.of_task(context_of(try_number=2), storage=folder).match(bodies[::-1])
        assert [found[n].id for n in range(3000)] == [f"p{n}" for n in reversed(range(3000))]
        assert calls == ["walk"]
        assert time.monotonic() - began < 120

    def test_list_of_thousands_fits_into_the_task_state_store(self, store: TaskStateStore) -> None:
        bodies = [f"{number:064x}" for number in range(1000, 4000)]
        records = SubmitRecords.of_task(context_of(store=store))
        results = {f"p{number}": {"files": ["x" * 100]} for number in range(3000)}
        for number, body in enumerate(bodies):
            submit(records, body[::-1], f"p{number}")
        records.end(succeeded=True, results=results)
        assert (
            len(SubmitRecords.of_task(context_of(store=store)).match([one[::-1] for one in bodies])) == 3000
        )

    def test_threads_take_different_slots(self, open_records: Open) -> None:
        records = open_records()
        records.match([])
        barrier = threading.Barrier(4)

        def work(number: int) -> None:
            barrier.wait()
            for each in range(20):
                submit(records, f"{number} {each}", f"p{number}-{each}")

        with ThreadPoolExecutor(4) as executor:
            list(executor.map(work, range(4)))
        names = [f"{number} {each}" for number in range(4) for each in range(20)]
        assert len(open_records(try_number=2).match(names)) == 80


class TestNames:
    @pytest.mark.parametrize(
        "record",
        [
            Record(0, 1, "b" * 32, INTENT),
            Record(7, 12, "b" * 32, MADE, 3, "cm9-x_.y", "account-1", 2.5),
            Record(99999, 2, "b" * 32, CLOSED, 0, "p,=%", None, 5.0, Reported(KILLED, 3, None)),
            Record(1, 2, "b" * 32, MADE, 0, "p", "a/b", None, Reported(UNCERTAIN, 0, 4)),
        ],
        ids=lambda record: record.state,
    )
    def test_name_of_an_object_is_the_record(self, record: Record) -> None:
        assert _record_of_name(_record_name(record)) == record

    def test_long_id_is_read_from_the_content(self, folder: Storage) -> None:
        store = ObjectStore(folder, ("dag", "run", "task", -1))
        record = Record(0, 2, "b" * 32, MADE, id="p" * 128, account="a" * 128, credits_charged=5)
        store.write(record)
        assert ObjectStore(folder, ("dag", "run", "task", -1)).read_records(1) == [record]

    def test_old_records_are_removed(self, folder: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        now = time.time()
        for days, run_id in ((100, "old"), (10, "new")):
            clock = SimpleNamespace(time=lambda days=days: now - days * 86400)
            monkeypatch.setattr("airflow_provider_magichour.operators._submit_stores.time", clock)
            records = SubmitRecords.of_task(context_of(run_id=run_id), storage=folder)
            submit(records)
            records.succeed()
        assert remove_old_records(folder, datetime.now(UTC) - timedelta(days=90)) == 3
        assert {path.split("/")[1] for path in folder.walk(FOLDER)} == {"new"}

    def test_nothing_to_remove_is_no_error(self, folder: Storage) -> None:
        assert remove_old_records(folder, datetime.now(UTC)) == 0


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


BODY = {"name": "x", "assets": {"image_file_path": "https://h/a.png?id=1"}}


class TestFingerprint:
    def print_of(self, **changes: Any) -> str:
        asked = {"conn_id": "c", "tool": "t", "kind": "image", "body": BODY, **changes}
        return fingerprint(**asked)

    def test_equal_bodies_have_equal_fingerprints(self) -> None:
        assert self.print_of() == self.print_of(body=dict(reversed(BODY.items())))
        assert self.print_of(body={"a": Path("/x")}) == self.print_of(body={"a": "/x"})

    @pytest.mark.parametrize(
        "change",
        [
            {"conn_id": "other"},
            {"tool": "other"},
            {"kind": "video"},
            {"body": {**BODY, "name": "y"}},
            {"body": {**BODY, "assets": {"image_file_path": "https://h/a.png?id=2"}}},
            {"body": {**BODY, "assets": {"image_file_path": "https://h/b.png?id=1"}}},
        ],
        ids=str,
    )
    def test_fingerprint_differs_for_another_submit(self, change: dict[str, Any]) -> None:
        assert self.print_of(**change) != self.print_of()

    SIGNED = (
        (
            "https://b.s3.amazonaws.com/a.png?X-Amz-Date=1&X-Amz-Signature=2",
            "https://b.s3.amazonaws.com/a.png?X-Amz-Date=3&X-Amz-Signature=4",
        ),
        ("https://h/a.png?Expires=1&Signature=2&id=1", "https://h/a.png?id=1&Expires=3&Signature=4"),
        (
            "https://x.blob.core.windows.net/c/a?sv=1&se=2&sig=3",
            "https://x.blob.core.windows.net/c/a?sv=1&se=8&sig=9",
        ),
    )

    @pytest.mark.parametrize(("one", "other"), SIGNED)
    def test_url_that_is_signed_again_is_the_same(self, one: str, other: str) -> None:
        for make in (lambda url: {"assets": {"face_mappings": [{"new_face": url}]}}, _reference):
            assert self.print_of(body=make(one)) == self.print_of(body=make(other))

    @pytest.mark.parametrize("query", ["st=10", "sp=1", "expires=1", "policy=x", "x-amz-date=1"])
    def test_parameter_of_an_unsigned_url_counts(self, query: str) -> None:
        with_it = {"assets": {"image_file_path": f"https://h/a.png?{query}"}}
        without = {"assets": {"image_file_path": "https://h/a.png"}}
        assert self.print_of(body=with_it) != self.print_of(body=without)

    def test_record_holds_no_part_of_the_body(self, open_records: Open, store: TaskStateStore) -> None:
        secret = self.print_of(body={"style": {"prompt": "my secret prompt"}})
        submit(open_records(), secret)
        assert "secret prompt" not in "".join(store.values.values())


def _reference(url: str) -> dict[str, Any]:
    return {"references": [{"name": "x", "file_path": url}]}

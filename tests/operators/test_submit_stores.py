"""Where submit records are kept: Airflow's store in memory, and a folder on disk."""

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

from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour.exceptions import (
    MagicHourSubmitRecordError,
    MagicHourUncertainSubmitError,
)
from airflow_provider_magichour.operators._bodies import fingerprint
from airflow_provider_magichour.operators._clear_or_retry import KILLED, UNCERTAIN, Reported
from airflow_provider_magichour.operators._submit_record import CLOSED, INTENT, MADE, Record
from airflow_provider_magichour.operators._submit_records import SubmitRecords
from airflow_provider_magichour.operators._submit_stores import (
    FOLDER,
    ObjectStore,
    _record_name,
    _record_of_name,
    remove_old_records,
)
from tests.operators.records import Open, context_of, submit, write_intent
from tests.support.tasks import TaskStateStore

pytestmark = pytest.mark.usefixtures("no_pauses")


class TestTwoStores:
    @pytest.fixture
    def open_both(self, store: TaskStateStore, folder: Storage) -> Open:
        return lambda **changes: SubmitRecords.of_task(context_of(store=store, **changes), storage=folder)

    def test_task_state_that_was_discarded_is_not_needed(
        self, open_both: Open, store: TaskStateStore
    ) -> None:
        records = open_both()
        submit(records, "a", "p1")
        write_intent(records)
        store.clear()
        found = open_both(try_number=2).match(["a", "b"])
        assert (found[0].id, found[1].state) == ("p1", INTENT)

    def test_folder_that_was_emptied_is_not_needed(self, open_both: Open, folder: Storage) -> None:
        submit(open_both())
        for path in folder.walk(FOLDER):
            folder.remove(f"{FOLDER}/{path}")
        assert open_both(try_number=2).match(["b"])[0].id == "p1"

    def test_highest_number_wins(self, open_both: Open, store: TaskStateStore, folder: Storage) -> None:
        intent = write_intent(open_both())
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
            write_intent(records)
        assert not isinstance(caught.value, AirflowFailException)
        assert SubmitRecords.of_task(context_of(store=store)).match(["b"]) == {}

    def test_id_in_one_store_is_enough(self, store: TaskStateStore, folder: Storage) -> None:
        records = SubmitRecords.of_task(context_of(store=store), storage=folder)
        intent = write_intent(records)
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
        intent = write_intent(records)
        failing.failures = {"set": 5}
        records.record_id(intent, "p1", 5, name="t")
        assert failing.get("magichour_submit_0")["id"] == "p1"

    @pytest.mark.parametrize("verb", ["get", "set"])
    def test_outage_before_the_submit_is_retryable(self, failing: FailingStore, verb: str) -> None:
        failing.failures = {verb: 99}
        records = self.open(failing)
        with pytest.raises(MagicHourSubmitRecordError, match="Nothing was submitted") as caught:
            records.match(["b"]) if verb == "get" else write_intent(records)
        assert not isinstance(caught.value, AirflowFailException)

    def test_outage_after_the_submit_names_the_project(self, failing: FailingStore) -> None:
        records = self.open(failing)
        intent = write_intent(records)
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
            write_intent(records)
        monkeypatch.undo()
        assert open_records(try_number=2).match(["b"]) == {}

    def test_intent_is_discarded_after_a_short_outage(
        self, folder: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        records = SubmitRecords.of_task(context_of(), storage=folder)
        intent, outages, remove = write_intent(records), [1], Storage.remove

        def fail_once(self: Storage, path: str) -> None:
            if outages:
                outages.pop()
                raise ConnectionError
            remove(self, path)

        monkeypatch.setattr(Storage, "remove", fail_once)
        records.discard(intent)
        assert SubmitRecords.of_task(context_of(try_number=2), storage=folder).match(["b"]) == {}

    def test_intent_is_outnumbered_where_the_connection_may_not_delete(
        self, folder: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(self: Storage, path: str) -> None:
            raise PermissionError(path)

        records = SubmitRecords.of_task(context_of(), storage=folder)
        intent = write_intent(records)
        monkeypatch.setattr(Storage, "remove", refuse)
        records.discard(intent)
        assert SubmitRecords.of_task(context_of(try_number=2), storage=folder).match(["b"]) == {}

    def test_what_is_written_if_possible_raises_nothing(self, failing: FailingStore) -> None:
        records = self.open(failing)
        record = submit(records)
        failing.failures = {"set": 99, "delete": 99}
        records.discard(record)
        records.end(succeeded=True)
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
        for number, record in records.start(dict(enumerate(bodies))).items():
            records.record_id(records.write_intent(record), f"p{number}", 5, name="t")
        calls: list[str] = []
        for name in ("walk", "read", "names", "sizes"):
            method = getattr(Storage, name)
            monkeypatch.setattr(
                Storage, name, lambda self, *args, n=name, m=method: (calls.append(n), m(self, *args))[1]
            )
        found = SubmitRecords.of_task(context_of(try_number=2), storage=folder).match(bodies[::-1])
        assert [found[n].id for n in range(3000)] == [f"p{n}" for n in reversed(range(3000))]
        assert calls == ["names"]
        assert time.monotonic() - began < 400

    def test_list_of_thousands_fits_into_the_task_state_store(self, store: TaskStateStore) -> None:
        bodies = [f"{number:064x}" for number in range(1000, 4000)]
        records = SubmitRecords.of_task(context_of(store=store))
        results = {f"p{number}": {"files": ["x" * 100]} for number in range(3000)}
        for number, record in records.start(dict(enumerate(one[::-1] for one in bodies))).items():
            records.record_id(records.write_intent(record), f"p{number}", 5, name="t")
        records.end(succeeded=True, results=results)
        assert (
            len(SubmitRecords.of_task(context_of(store=store)).match([one[::-1] for one in bodies])) == 3000
        )

    def test_threads_write_into_different_slots(self, open_records: Open) -> None:
        records = open_records()
        names = [f"body {number}" for number in range(80)]
        records.match(names)
        started = list(records.start(dict(enumerate(names))).values())
        barrier = threading.Barrier(4)

        def work(part: int) -> None:
            barrier.wait()
            for record in started[part::4]:
                records.record_id(records.write_intent(record), f"p-{record.body}", 5, name="t")
                records.charges()  # a kill reads them meanwhile

        with ThreadPoolExecutor(4) as executor:
            list(executor.map(work, range(4)))
        found = open_records(try_number=2).match(names)
        assert [found[position].id for position in range(80)] == [f"p-{name}" for name in names]


class TestNames:
    @pytest.mark.parametrize(
        "record",
        [
            Record(0, 1, "b" * 32, INTENT),
            Record(7, 12, "b" * 32, MADE, 3, "cm9-x_.y", "account-1", 2.5),
            Record(99999, 2, "b" * 32, CLOSED, 0, "p,=%", None, 5.0, Reported(KILLED, 3, None)),
            Record(1, 2, "b" * 32, MADE, 0, "p", "a/b", None, Reported(UNCERTAIN, 0, 4)),
            Record(1, 2, "b" * 32, INTENT, reported=Reported(UNCERTAIN, 3, None, 2)),
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

    @pytest.mark.parametrize("length", range(40, 129, 8))
    def test_record_of_any_id_can_be_written_to_a_disk(self, folder: Storage, length: int) -> None:
        store = ObjectStore(folder, ("dag", "run", "task", -1))
        reported = Reported(UNCERTAIN, 3, 1, 2)
        record = Record(99_999, 12, "b" * 32, MADE, 3, "p" * length, "a" * 25, 5.0, reported, None, "w" * 8)
        store.write(record)
        assert ObjectStore(folder, ("dag", "run", "task", -1)).read_records(1) == [record]

    def test_old_records_are_removed(self, folder: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        now = time.time()
        for days, run_id in ((100, "old"), (10, "new")):
            clock = SimpleNamespace(time=lambda days=days: now - days * 86400)
            monkeypatch.setattr("airflow_provider_magichour.operators._submit_stores.time", clock)
            records = SubmitRecords.of_task(context_of(run_id=run_id), storage=folder)
            submit(records)
            records.end(succeeded=True)
        assert remove_old_records(folder, datetime.now(UTC) - timedelta(days=90)) == 3
        assert {path.split("/")[1] for path in folder.walk(FOLDER)} == {"new"}

    def test_nothing_to_remove_is_no_error(self, folder: Storage) -> None:
        assert remove_old_records(folder, datetime.now(UTC)) == 0

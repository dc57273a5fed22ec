"""Two tries of a task submit at once, because Airflow or a person took the first one for dead."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import ClassVar

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour.exceptions import MagicHourServerError, MagicHourSubmitRecordError
from airflow_provider_magichour.operators import _submit_records
from airflow_provider_magichour.operators._clear_or_retry import UNCERTAIN
from airflow_provider_magichour.operators._submit_record import INTENT, Record
from airflow_provider_magichour.operators._submit_records import SubmitRecords
from tests.operators.records import Open, context_of, fail, submit, write_intent
from tests.support.tasks import RefusedError, TaskStateStore

pytestmark = pytest.mark.usefixtures("no_pauses")


class TestTwoTriesAtOnce:
    """Airflow took a try for dead, but it continues on a worker that was not reachable."""

    @pytest.fixture
    def open_folder(self, folder: Storage) -> Open:
        return lambda **changes: SubmitRecords.of_task(context_of(**changes), storage=folder)

    @pytest.fixture(params=["folder", "both"])
    def open_files(self, request: pytest.FixtureRequest, folder: Storage, store: TaskStateStore) -> Open:
        state = store if request.param == "both" else None
        return lambda **changes: SubmitRecords.of_task(context_of(store=state, **changes), storage=folder)

    def test_discarded_intent_hides_no_intent_of_the_other_try(self, open_files: Open) -> None:
        lost, retry = open_files(), open_files(try_number=2)
        lost.match(["a"])
        retry.match(["a"])
        write_intent(lost, "a")  # its call is in progress, and it dies
        intent = retry.start({0: "a"})[0]
        with contextlib.suppress(MagicHourSubmitRecordError):
            retry.discard(retry.write_intent(intent))
        assert open_files(try_number=3).match(["a"])[0].state == INTENT

    def test_discarded_intent_hides_no_project_of_the_other_try(self, open_files: Open) -> None:
        lost, retry = open_files(), open_files(try_number=2)
        lost.match(["a"])
        retry.match(["a"])
        started = retry.start({0: "a"})[0]
        retry.discard(retry.write_intent(started))  # a 429, and a pause
        submit(lost, "a")
        with contextlib.suppress(MagicHourSubmitRecordError):
            retry.write_intent(started)
        assert open_files(try_number=3).match(["a"])[0].id == "p1"

    def test_lost_try_sees_the_next_one(self, open_folder: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        lost, retry = open_folder(), open_folder(try_number=2)
        lost.match(["a", "b"])
        submit(lost, "a", "p1")
        assert retry.match(["a", "b"])[0].id == "p1"
        submit(retry, "b", "p2")
        monkeypatch.setattr(_submit_records, "FRESH_SECONDS", -1)  # as much later
        with pytest.raises(MagicHourSubmitRecordError, match="Another try"):
            write_intent(lost, "b")
        assert open_folder(try_number=3).match(["a", "b", "b"]).keys() == {0, 1}

    def test_try_that_a_person_has_just_replaced_sees_the_next_one(
        self, open_folder: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Marked as failed and cleared, it goes on until Airflow kills it some seconds later."""
        monkeypatch.setattr(_submit_records, "ALIVE_SECONDS", 30)
        now = [time.time()]
        clock = SimpleNamespace(time=lambda: now[0], sleep=lambda seconds: None)
        for module in ("_submit_records", "_submit_stores"):
            monkeypatch.setattr(f"airflow_provider_magichour.operators.{module}.time", clock)
        replaced, retry = open_folder(), open_folder(try_number=2)
        replaced.match(["a", "b", "c"])
        submit(replaced, "a", "p1")
        retry.match(["a", "b", "c"])
        now[0] += retry.seconds_to_settle()
        submit(retry, "b", "p2")
        now[0] += 1
        with pytest.raises(MagicHourSubmitRecordError, match="Another try"):
            write_intent(replaced, "b")
        now[0] += 60
        later = open_folder(try_number=3)
        later.match(["a", "b", "c"])
        assert later.seconds_to_settle() == 0

    def test_lost_try_that_was_refused_looks_before_it_tries_again(self, open_folder: Open) -> None:
        lost, retry = open_folder(), open_folder(try_number=2)
        lost.match(["a"])
        started = lost.start({0: "a"})[0]
        lost.discard(lost.write_intent(started))  # a 429, and a pause
        assert retry.match(["a"]) == {}
        submit(retry, "a", "p2")
        with pytest.raises(MagicHourSubmitRecordError, match="Another try"):
            lost.write_intent(started)

    def test_success_of_a_lost_try_after_a_clear_was_not_cleared(self, open_folder: Open) -> None:
        lost = open_folder(max_tries=3)
        lost.match(["a"])
        submit(lost, "a")
        cleared = {"max_tries": 4, "clear_number": 1}
        open_folder(try_number=2, **cleared).match(["a"])
        lost.end(succeeded=True)
        assert open_folder(try_number=3, **cleared).match(["a"])[0].id == "p1"

    @pytest.mark.parametrize("has_paid", [False, True], ids=["reads last", "resumes"])
    def test_success_of_a_try_that_reads_after_the_next_one_was_not_cleared(
        self, open_files: Open, has_paid: bool
    ) -> None:
        if has_paid:  # and is deferred
            submit(open_files(max_tries=2), "a")
        cleared = {"max_tries": 3, "clear_number": 1}
        second = open_files(try_number=2, **cleared)
        if not second.match(["a"]):
            submit(second, "a")
        open_files(max_tries=2).end(succeeded=True)
        retry = open_files(try_number=3, **cleared)
        assert retry.match(["a"])[0].id == "p1"
        again = open_files(try_number=4, max_tries=6, clear_number=2)
        assert again.match(["a"]) == {}

    @pytest.mark.parametrize("ends", [False, True])
    def test_lost_try_that_resumes_takes_no_success_of_the_next_one_for_cleared(
        self, open_files: Open, ends: bool
    ) -> None:
        submit(open_files(max_tries=2), "a")  # and is deferred
        second = open_files(try_number=2, max_tries=2)
        assert second.match(["a"])
        second.end(succeeded=True)
        resumed = open_files(max_tries=2)
        if ends:
            resumed.end(succeeded=True)
        else:
            with pytest.raises(MagicHourServerError), resumed.ending(lambda: False):
                raise MagicHourServerError(503, "busy")
        assert open_files(try_number=3, max_tries=2).match(["a"])[0].id == "p1"

    @pytest.mark.parametrize("is_retried", [False, True])
    def test_clear_counts_for_the_retry_of_a_try_that_ended_early(
        self, open_folder: Open, is_retried: bool
    ) -> None:
        first = open_folder(max_tries=3)
        fail(first, write_intent(first, "a"))
        cleared = {"max_tries": 4, "clear_number": 1}
        if is_retried:
            open_folder(try_number=2, **cleared).match(["a"])
        again = open_folder(try_number=3, **cleared)
        assert again.is_cleared(again.match(["a"])[0])

    def test_report_of_a_lost_try_after_a_clear_was_not_cleared(self, open_folder: Open) -> None:
        lost = open_folder(max_tries=3)
        lost.match(["a"])
        intent = write_intent(lost, "a")
        cleared = {"max_tries": 4, "clear_number": 1}
        open_folder(try_number=2, **cleared).match(["a"])
        fail(lost, intent)
        again = open_folder(try_number=3, **cleared)
        assert not again.is_cleared(again.match(["a"])[0])

    def test_lost_try_takes_no_report_of_the_next_one_for_cleared(self, open_folder: Open) -> None:
        retry = open_folder(try_number=2, max_tries=4)
        fail(retry, write_intent(retry, "a"))
        lost = open_folder(max_tries=3)
        assert not lost.is_cleared(lost.match(["a"])[0])

    def test_lost_try_takes_no_success_of_the_next_one_for_cleared(
        self, folder: Storage, store: TaskStateStore
    ) -> None:
        retry = SubmitRecords.of_task(
            context_of(store=store, try_number=2, max_tries=4, clear_number=1), storage=folder
        )
        submit(retry)
        retry.end(succeeded=True)
        lost = SubmitRecords.of_task(context_of(store=store, max_tries=3), storage=folder)
        assert lost.match(["b"])[0].id == "p1"

    def test_next_try_sees_what_the_lost_one_began_meanwhile(self, open_folder: Open) -> None:
        lost, retry = open_folder(), open_folder(try_number=2)
        lost.match(["a"])
        assert retry.match(["a"]) == {}
        submit(lost, "a")
        with pytest.raises(MagicHourSubmitRecordError, match="Another try") as caught:
            write_intent(retry, "a")
        assert not isinstance(caught.value, AirflowFailException)
        assert open_folder(try_number=3).match(["a"])[0].id == "p1"

    def test_both_at_the_same_moment_do_not_both_submit(self, open_folder: Open) -> None:
        tries = [open_folder(try_number=2), open_folder(try_number=2)]
        for records in tries:
            records.match(["a"])
        barrier, intended = threading.Barrier(2), []

        def work(records: SubmitRecords) -> None:
            record = records.start({0: "a"})[0]
            barrier.wait()
            with contextlib.suppress(MagicHourSubmitRecordError):
                intended.append(records.write_intent(record))

        with ThreadPoolExecutor(2) as executor:
            list(executor.map(work, tries))
        assert len(intended) <= 1

    def test_no_thread_goes_on_before_the_check(self, folder: Storage, open_folder: Open) -> None:
        lost, retry = open_folder(), open_folder(try_number=2)
        for records in (lost, retry):
            records.match(["a", "b", "c", "d"])
        submit(lost, "d")
        started = retry.start(dict(enumerate("abcd")))
        barrier, intended = threading.Barrier(4), []

        def work(record: Record) -> None:
            barrier.wait()
            with contextlib.suppress(MagicHourSubmitRecordError):
                intended.append(retry.write_intent(record))

        with ThreadPoolExecutor(4) as executor:
            list(executor.map(work, started.values()))
        assert intended == []

    @pytest.mark.parametrize("is_confirmed", [False, True])
    def test_id_of_the_lost_try_counts_beside_a_report(self, open_folder: Open, is_confirmed: bool) -> None:
        lost, retry = open_folder(), open_folder(try_number=2)
        intent = write_intent(lost, "a")
        found = retry.match(["a"])[0]
        if is_confirmed:
            fail(retry, found)
        else:
            retry.mark_reported(found, UNCERTAIN)
        lost.record_id(intent, "p1", 5, name="t")
        cleared = open_folder(try_number=3, max_tries=3, clear_number=1)
        assert cleared.match(["a"])[0].id == "p1"

    def test_try_alone_is_not_disturbed(self, open_folder: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        first = open_folder()
        first.match(["a", "b", "c"])
        submit(first, "a")
        monkeypatch.setattr(_submit_records, "FRESH_SECONDS", -1)
        submit(first, "b", "p2")
        retry = open_folder(try_number=2)
        retry.match(["a", "b", "c"])
        submit(retry, "c", "p3")
        assert len(open_folder(try_number=3).match(["a", "b", "c"])) == 3

    def test_first_try_reads_its_folder_once(
        self, open_folder: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_submit_records, "FRESH_SECONDS", 600)  # the machine may be slow
        reads: list[str] = []
        original = Storage.names
        monkeypatch.setattr(
            Storage, "names", lambda self, path: (reads.append(path), original(self, path))[1]
        )
        records = open_folder()
        records.match(["a", "b", "c"])
        for body in ("a", "b", "c"):
            submit(records, body, f"p-{body}")
        assert len(reads) == 1

    def test_body_that_is_given_up_after_a_clear_stays_given_up(self, open_folder: Open) -> None:
        first = open_folder()
        fail(first, submit(first, "a"))
        cleared = open_folder(try_number=2, max_tries=2, clear_number=1)
        cleared.give_up(cleared.match(["a"])[0])
        assert open_folder(try_number=3, max_tries=2, clear_number=1).match(["a"]) == {}

    def test_success_after_a_clear_is_not_one_that_was_cleared(self, open_folder: Open) -> None:
        lost, cleared = open_folder(max_tries=2), {"max_tries": 3, "clear_number": 1}
        lost.match(["a"])
        retry = open_folder(try_number=2, **cleared)
        assert retry.match(["a"]) == {}
        submit(lost, "a", "p1")
        lost.end(succeeded=True)
        with pytest.raises(MagicHourSubmitRecordError, match="Another try"):
            write_intent(retry, "a")
        assert open_folder(try_number=3, **cleared).match(["a"])[0].id == "p1"

    def test_lost_try_that_reads_last_begins_nothing(self, open_folder: Open) -> None:
        cleared = {"max_tries": 3, "clear_number": 1}
        asked = open_folder(try_number=2, **cleared)
        asked.match(["a"])
        fail(asked, write_intent(asked, "a"))
        lost = open_folder(max_tries=2)
        fail(lost, lost.match(["a"])[0])
        retry = open_folder(try_number=3, **cleared)
        assert not retry.is_cleared(retry.match(["a"])[0])

    def test_intent_stays_where_the_key_may_not_delete(
        self, open_folder: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError("no right to delete")

        monkeypatch.setattr(Storage, "remove", refuse)
        lost, other = open_folder(), open_folder(try_number=2)
        lost.match(["a"])
        other.match(["a"])
        write_intent(lost, "a")  # its call is on its way
        with pytest.raises(MagicHourSubmitRecordError, match="Another try"):
            write_intent(other, "a")
        assert open_folder(try_number=3).match(["a"])[0].state == INTENT

    def test_intent_of_an_older_epoch_hides_no_project(
        self, open_folder: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_submit_records, "FRESH_SECONDS", -1)
        lost, cleared = open_folder(), {"max_tries": 5, "clear_number": 1}
        lost.match(["a"])
        record = lost.start({0: "a"})[0]
        for _ in range(4):  # it waits for its turn
            record = lost.discard(lost.write_intent(record))
        second = open_folder(try_number=2)
        second.match(["a"])
        submit(second, "a", "p1")
        second.end(succeeded=True)
        third = open_folder(try_number=3, **cleared)
        assert third.match(["a"]) == {}
        submit(third, "a", "p2")
        monkeypatch.setattr(lost, "_check_alone", lambda: None)  # it dies before it looks
        lost.write_intent(record)
        assert open_folder(try_number=4, **cleared).match(["a"])[0].id == "p2"

    @pytest.mark.parametrize("is_report", [False, True])
    def test_term_of_the_later_try_counts(self, open_folder: Open, is_report: bool) -> None:
        open_folder(max_tries=2).match(["a"])
        lost, cleared = open_folder(try_number=2, max_tries=2), {"max_tries": 5, "clear_number": 1}
        assert not lost.succeeded  # it has read how the task ended, and then loses the network
        after = open_folder(try_number=3, **cleared)
        assert after.match(["a"]) == {}
        lost.match(["a"])
        intent = write_intent(lost, "a")
        with pytest.raises(MagicHourSubmitRecordError, match="Another try"):
            write_intent(after, "a")
        if is_report:
            fail(lost, intent)
        else:
            lost.record_id(intent, "p1", 5, name="t")
            lost.end(succeeded=True)
        retry = open_folder(try_number=4, **cleared)
        record = retry.match(["a"])[0]
        assert not retry.is_cleared(record)
        assert record.id == (None if is_report else "p1")


class TestReplacedTry:
    """Marked as failed and cleared, a try ends by itself before the next one begins."""

    CLEARED: ClassVar[dict[str, int]] = {"try_number": 2, "max_tries": 3, "clear_number": 1}

    @pytest.fixture
    def open_both(self, folder: Storage, store: TaskStateStore) -> Open:
        return lambda **changes: SubmitRecords.of_task(context_of(store=store, **changes), storage=folder)

    @pytest.fixture
    def first(self, open_both: Open, store: TaskStateStore) -> SubmitRecords:
        first = open_both(max_tries=2)
        first.match(["a"])
        return first

    @staticmethod
    def refuse(*_: object, **__: object) -> None:
        raise RefusedError

    def test_its_success_was_not_cleared(
        self, open_both: Open, store: TaskStateStore, first: SubmitRecords
    ) -> None:
        submit(first, "a")
        with pytest.MonkeyPatch.context() as replaced:
            replaced.setattr(store, "set", self.refuse)
            first.end(succeeded=True)
        assert open_both(**self.CLEARED).match(["a"])[0].id == "p1"

    def test_its_report_was_not_cleared(
        self, open_both: Open, store: TaskStateStore, first: SubmitRecords
    ) -> None:
        intent = write_intent(first, "a")
        with pytest.MonkeyPatch.context() as replaced:
            replaced.setattr(store, "set", self.refuse)
            fail(first, intent)
        again = open_both(**self.CLEARED)
        assert not again.is_cleared(again.match(["a"])[0])

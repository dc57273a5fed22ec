"""What a task remembers of its submits: each case of the money rule, with Airflow's store in memory."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour.exceptions import MagicHourError, MagicHourUncertainSubmitError
from airflow_provider_magichour.operators import _submit_records
from airflow_provider_magichour.operators._submit_records import Submit, SubmitRecords, fingerprint
from tests.support.tasks import TaskStateStore, task_context


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_submit_records.time, "sleep", lambda seconds: None)


def records(store: Any, max_tries: int = 0) -> SubmitRecords:
    return SubmitRecords.of_task(task_context(store=store, max_tries=max_tries))


def submitted(store: Any, max_tries: int = 0, body: str = "b") -> Submit:
    mine = records(store, max_tries)
    return mine.record_id(0, mine.write_intent(0, body, name="t"), "p1", 5, name="t")


class TestRecall:
    def test_retry_submits_nothing_again(self, store: TaskStateStore) -> None:
        assert records(store).find(0, "b", name="t") is None

    def test_retry_continues_with_the_id(self, store: TaskStateStore) -> None:
        submitted(store)
        found = records(store).find(0, "b", name="t")
        assert found is not None
        assert (found.id, found.credits_charged) == ("p1", 5)

    def test_clear_after_a_failure_continues_with_the_id(self, store: TaskStateStore) -> None:
        submitted(store)
        found = records(store, max_tries=1).find(0, "b", name="t")
        assert found is not None
        assert found.id == "p1"

    def test_intent_without_id_is_uncertain_in_every_retry(self, store: TaskStateStore) -> None:
        records(store).write_intent(0, "b", name="text-to-video")
        for _ in range(3):
            with pytest.raises(MagicHourUncertainSubmitError, match=r"text-to-video.*my-library") as caught:
                records(store).find(0, "b", name="text-to-video")
            assert isinstance(caught.value, AirflowFailException)

    def test_unconfirmed_intent_is_not_uncertain(
        self, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def write_and_lose_the_answer(key: str, value: Any, **options: Any) -> None:
            TaskStateStore.set(store, key, value)
            raise TimeoutError

        monkeypatch.setattr(store, "set", write_and_lose_the_answer)
        with pytest.raises(MagicHourError, match="Nothing was submitted"):
            records(store).write_intent(0, "b", name="t")
        assert records(store).find(0, "b", name="t") is None

    def test_clear_before_the_uncertain_error_is_uncertain(self, store: TaskStateStore) -> None:
        records(store).write_intent(0, "b", name="t")
        with pytest.raises(MagicHourUncertainSubmitError):
            records(store, max_tries=1).find(0, "b", name="t")

    def test_clear_after_the_uncertain_error_submits_again(self, store: TaskStateStore) -> None:
        records(store).write_intent(0, "b", name="t")
        with pytest.raises(MagicHourUncertainSubmitError):
            records(store).find(0, "b", name="t")
        assert records(store, max_tries=1).find(0, "b", name="t") is None

    def test_intent_after_a_clear_is_uncertain_again(self, store: TaskStateStore) -> None:
        records(store).mark_reported(0, records(store).write_intent(0, "b", name="t"))
        records(store, max_tries=1).write_intent(0, "b", name="t")
        with pytest.raises(MagicHourUncertainSubmitError):
            records(store, max_tries=1).find(0, "b", name="t")

    def test_refused_create_call_leaves_no_record(self, store: TaskStateStore) -> None:
        mine = records(store)
        mine.write_intent(0, "b", name="t")
        mine.discard_intent(0)
        assert store.values == {}

    def test_changed_body_is_submitted_and_logged(
        self, store: TaskStateStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        submitted(store)
        assert records(store).find(0, "other", name="t") is None
        assert "p1 is left alone" in caplog.text

    def test_bodies_are_matched_to_their_own_records(self, store: TaskStateStore) -> None:
        submitted(store)
        assert records(store).find(1, "b", name="t") is None

    @pytest.mark.parametrize("junk", ["x", 7, [], {}, {"body": 1, "max_tries": 0}, {"body": "b"}])
    def test_unreadable_record_is_uncertain(self, store: TaskStateStore, junk: Any) -> None:
        store.set("magichour_submit_0", junk)
        with pytest.raises(MagicHourUncertainSubmitError, match="magichour_submit_0"):
            records(store).find(0, "b", name="t")

    def test_fields_of_a_newer_version_are_ignored(self, store: TaskStateStore) -> None:
        store.set("magichour_submit_0", {"body": "b", "max_tries": 0, "id": "p1", "newer": True})
        found = records(store).find(0, "b", name="t")
        assert found is not None
        assert found.id == "p1"


class TestSuccess:
    def test_retry_of_a_success_continues_with_it(self, store: TaskStateStore) -> None:
        submitted(store)
        records(store).succeed()
        again = records(store)
        assert again.succeeded
        assert again.find(0, "b", name="t") is not None

    def test_clear_of_a_success_submits_again(self, store: TaskStateStore) -> None:
        submitted(store)
        records(store).succeed()
        cleared = records(store, max_tries=1)
        assert not cleared.succeeded
        assert cleared.find(0, "b", name="t") is None

    def test_retry_after_a_clear_continues_with_the_new_project(self, store: TaskStateStore) -> None:
        submitted(store)
        records(store).succeed()
        submitted(store, max_tries=1)
        retry = records(store, max_tries=1)
        assert retry.find(0, "b", name="t") is not None
        assert retry.find(1, "b", name="t") is None

    def test_retry_after_a_cleared_success_submits_the_rest(self, store: TaskStateStore) -> None:
        for position in (0, 1):
            mine = records(store)
            mine.record_id(position, mine.write_intent(position, "b", name="t"), f"p{position}", 5, name="t")
        records(store).succeed()
        submitted(store, max_tries=1)  # position 0, then the worker was killed
        assert records(store, max_tries=1).find(1, "b", name="t") is None

    def test_success_after_a_cleared_failure_counts_as_success(self, store: TaskStateStore) -> None:
        submitted(store)  # max_tries 0; the task failed, was cleared and then succeeded
        records(store, max_tries=1).succeed()
        assert records(store, max_tries=1).find(0, "b", name="t") is not None
        assert records(store, max_tries=2).find(0, "b", name="t") is None

    def test_result_is_stored_with_its_project(self, store: TaskStateStore) -> None:
        records(store).finish(0, submitted(store), {"files": [1]})
        found = records(store).find(0, "b", name="t")
        assert found is not None
        assert found.result == {"files": [1]}

    def test_too_large_result_is_not_stored(self, store: TaskStateStore) -> None:
        records(store).finish(0, submitted(store), {"files": ["x" * 70_000]})
        found = records(store).find(0, "b", name="t")
        assert found is not None
        assert (found.id, found.result) == ("p1", None)


class FailingStore(TaskStateStore):
    """A store whose API server is away for some of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, int] = {}

    def _maybe_fail(self, verb: str) -> None:
        if self.failures.get(verb, 0) > 0:
            self.failures[verb] -= 1
            raise RuntimeError("API server away")

    def get(self, key: str, default: Any = None) -> Any:
        self._maybe_fail("get")
        return super().get(key, default)

    def set(self, key: str, value: Any, *, retention: object = None) -> None:
        self._maybe_fail("set")
        super().set(key, value)

    def delete(self, key: str) -> None:
        self._maybe_fail("delete")
        super().delete(key)


class TestStoreThatFails:
    @pytest.fixture
    def store(self) -> FailingStore:
        return FailingStore()

    def test_short_store_outage_is_retried(self, store: FailingStore) -> None:
        store.failures = {"get": 2, "set": 2}
        mine = records(store)
        assert mine.find(0, "b", name="t") is None
        intent = mine.write_intent(0, "b", name="t")
        store.failures = {"set": 5}
        mine.record_id(0, intent, "p1", 5, name="t")
        assert store.get("magichour_submit_0")["id"] == "p1"

    @pytest.mark.parametrize("verb", ["get", "set"])
    def test_store_error_before_the_submit_is_retryable(self, store: FailingStore, verb: str) -> None:
        store.failures = {verb: 99}
        mine = records(store)
        step = mine.find if verb == "get" else mine.write_intent
        with pytest.raises(MagicHourError, match="Nothing was submitted") as caught:
            step(0, "b", name="t")
        assert not isinstance(caught.value, AirflowFailException)

    def test_store_error_after_the_submit_names_the_project(self, store: FailingStore) -> None:
        mine = records(store)
        intent = mine.write_intent(0, "b", name="t")
        store.failures = {"set": 99}
        with pytest.raises(MagicHourUncertainSubmitError, match="project p1"):
            mine.record_id(0, intent, "p1", 5, name="t")

    def test_failed_optional_write_raises_nothing(self, store: FailingStore) -> None:
        record = submitted(store)
        store.failures = {"set": 99, "delete": 99}
        mine = records(store)
        mine.discard_intent(0)
        mine.succeed()
        mine.finish(0, record, {})
        mine.mark_reported(0, record)
        assert store.get("magichour_submit_0")["id"] == "p1"


class TestWithoutAStore:
    def test_without_a_store_records_last_for_one_try(self) -> None:
        mine = records(None)
        assert not mine.is_persistent
        mine.record_id(0, mine.write_intent(0, "b", name="t"), "p1", 5, name="t")
        found = mine.find(0, "b", name="t")
        assert found is not None
        assert found.id == "p1"
        assert records(None).find(0, "b", name="t") is None

    def test_not_durable_does_not_touch_the_store(self, store: TaskStateStore) -> None:
        mine = SubmitRecords.of_task(task_context(store=store), durable=False)
        mine.write_intent(0, "b", name="t")
        assert not mine.is_persistent
        assert store.values == {}


BODY = {"name": "x", "assets": {"image_file_path": "https://h/a.png?id=1"}}


class TestFingerprint:
    def print_of(self, **changes: Any) -> str:
        asked = {"conn_id": "c", "tool": "t", "kind": "image", "body": BODY, **changes}
        return fingerprint(**asked)

    def test_fingerprint_is_stable_for_one_body(self) -> None:
        assert self.print_of() == self.print_of(body=dict(reversed(BODY.items())))

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
    def test_fingerprint_differs_for_another_body(self, change: dict[str, Any]) -> None:
        assert self.print_of(**change) != self.print_of()

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (
                "https://b.s3.amazonaws.com/a.png?X-Amz-Date=1&X-Amz-Signature=2",
                "https://b.s3.amazonaws.com/a.png?X-Amz-Date=3&X-Amz-Signature=4",
            ),
            ("https://h/a.png?Expires=1&Signature=2&id=1", "https://h/a.png?id=1&Expires=3&Signature=4"),
            (
                "https://x.blob.core.windows.net/c/a?sv=1&se=2&sig=3",
                "https://x.blob.core.windows.net/c/a?sig=9",
            ),
        ],
    )
    def test_url_with_a_new_signature_has_the_same_fingerprint(self, one: str, other: str) -> None:
        body = {"assets": {"face_mappings": [{"new_face": one}]}}
        again = {"assets": {"face_mappings": [{"new_face": other}]}}
        assert self.print_of(body=body) == self.print_of(body=again)

    def test_record_holds_no_part_of_the_body(self, store: TaskStateStore) -> None:
        secret = self.print_of(body={"style": {"prompt": "my secret prompt"}})
        submitted(store, body=secret)
        assert "secret prompt" not in "".join(store.values.values())

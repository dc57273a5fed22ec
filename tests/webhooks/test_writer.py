"""The thread that records deliveries: in batches, and with what it does now and then."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from tests.webhooks.support import (
    Endpoint,
    asset_events,
    delete_queue,
    event_body,
    eventually,
    needs_airflow_3_3,
    queue,
    remember_something_else,
    remembered,
    schedule_dags,
    set_remembered,
)

pytestmark = needs_airflow_3_3


class TestBatches:
    def test_deliveries_that_wait_share_a_transaction(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from airflow_provider_magichour.webhooks import store

        batches: list[int] = []
        record = store.record

        def slowly(deliveries: Any) -> Any:
            batches.append(len(deliveries))
            time.sleep(0.3)
            return record(deliveries)

        schedule_dags("consumer")
        monkeypatch.setattr(store, "record", slowly)
        bodies = [event_body(project_id=f"cm{number}") for number in range(12)]
        with ThreadPoolExecutor(12) as executor:
            answers = list(executor.map(endpoint.deliver, [*bodies, bodies[0]]))
        statuses = sorted(answer.json()["status"] for answer in answers)
        assert statuses == ["accepted"] * 12 + ["duplicate"]
        assert len(asset_events()) == 12
        assert len(batches) < 8
        assert queue() == {"consumer": asset_events()[-1].timestamp}

    def test_what_comes_too_fast_is_refused_at_once(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from airflow_provider_magichour.webhooks import store, writer

        busy, released = threading.Event(), threading.Event()
        record = store.record

        def slowly(deliveries: Any) -> Any:
            busy.set()
            released.wait(30)
            return record(deliveries)

        schedule_dags("consumer")
        monkeypatch.setattr(store, "record", slowly)
        monkeypatch.setattr(writer, "MAX_WAITING", 3)
        with ThreadPoolExecutor(10) as executor:
            futures = [executor.submit(endpoint.deliver, event_body(project_id="cm"))]
            assert busy.wait(30)
            futures += [executor.submit(endpoint.deliver, event_body(project_id=f"cm{n}")) for n in range(9)]
            eventually(lambda: sum(future.done() for future in futures) >= 6)
            released.set()
        statuses = Counter(future.result().status_code for future in futures)
        assert statuses == {200: 4, 503: 6}
        assert len(asset_events()) == 4

    def test_one_that_fails_does_not_take_the_others_with_it(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from airflow_provider_magichour.webhooks import store

        register = store.asset_manager.register_asset_change

        class Picky:
            def register_asset_change(self, **options: Any) -> Any:
                time.sleep(0.1)
                if options["extra"]["id"] == "poison":
                    raise ValueError("not that one")
                return register(**options)

        schedule_dags("consumer")
        monkeypatch.setattr(store, "asset_manager", Picky())
        names = ["a", "b", "c", "poison", "d", "e"]
        with ThreadPoolExecutor(6) as executor:
            answers = list(executor.map(lambda name: endpoint.deliver(event_body(project_id=name)), names))
        assert [answer.status_code for answer in answers] == [200, 200, 200, 503, 200, 200]
        assert sorted(event.extra["id"] for event in asset_events()) == ["a", "b", "c", "d", "e"]
        assert "video.completed:poison" not in remembered()


class TestNowAndThen:
    def test_the_memory_is_cleaned_up_now_and_then(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from airflow_provider_magichour.webhooks import store, writer

        monkeypatch.setattr(store, "_BATCH", 2)
        asset_id = schedule_dags("consumer")
        for number in range(5):
            endpoint.deliver(event_body(project_id=f"old{number}"))
        remember_something_else(asset_id)
        set_remembered(timedelta(hours=26))
        endpoint.deliver(event_body(project_id="new1"))
        assert len(remembered()) == 7
        monkeypatch.setattr(writer, "FORGET_EVERY", 0.0)
        endpoint.deliver(event_body(project_id="new2"))
        eventually(lambda: set(remembered()) == {"video.completed:new1", "video.completed:new2", "mine"})

    def test_a_failed_clean_up_harms_nobody(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        from airflow_provider_magichour.webhooks import store, writer

        def fail() -> int:
            raise RuntimeError("no clean-up")

        monkeypatch.setattr(writer, "FORGET_EVERY", 0.0)
        monkeypatch.setattr(store, "forget_old", fail)
        schedule_dags("consumer")
        assert endpoint.deliver(event_body()).status_code == 200
        eventually(lambda: "not cleaned up" in caplog.text)

    def test_a_scheduler_without_row_locks_cannot_lose_an_event(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from airflow_provider_magichour.webhooks import writer

        monkeypatch.setattr(writer, "LOOK_EVERY", 0.1)
        schedule_dags("consumer")
        schedule_dags("paused", kind="image", paused=True)
        endpoint.deliver(event_body())
        endpoint.deliver(event_body("image"))
        delete_queue()  # as a scheduler does that made a run of the events before these
        eventually(lambda: queue() == {"consumer": asset_events()[0].timestamp})

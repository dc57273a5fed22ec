"""What a delivery leaves in Airflow's database: asset events, queued DAGs, and the memory of it."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.webhooks.support import (
    SECRET,
    Endpoint,
    asset_events,
    delete_queue,
    event_body,
    make_run,
    needs_airflow_3_3,
    queue,
    remembered,
    schedule_dags,
    serving,
    set_remembered,
)

pytestmark = needs_airflow_3_3


class TestAssetEvents:
    def test_a_webhook_is_one_asset_event_for_every_dag(self, endpoint: Endpoint) -> None:
        asset_id = schedule_dags("first", "second")
        answer = endpoint.deliver(event_body(project_id="cm1"))
        assert (answer.status_code, answer.json()) == (200, {"status": "accepted"})
        (event,) = asset_events()
        assert event.asset_id == asset_id
        assert {name: event.extra[name] for name in ("type", "kind", "id", "magichour_conn_id")} == {
            "type": "video.completed",
            "kind": "video",
            "id": "cm1",
            "magichour_conn_id": "hooked",
        }
        assert event.extra["project"] == json.loads(event_body(project_id="cm1"))["payload"]
        assert set(queue()) == {"first", "second"}
        assert SECRET not in json.dumps(event.extra)

    def test_the_queue_waits_for_the_last_event(self, endpoint: Endpoint) -> None:
        # Airflow gives a run the events up to its queue's time: with the first one's, the others would wait.
        schedule_dags("consumer")
        for number in range(5):
            assert endpoint.deliver(event_body(project_id=f"cm{number}")).json() == {"status": "accepted"}
        events = asset_events()
        assert queue() == {"consumer": events[-1].timestamp}
        stamps = [event.timestamp for event in events]
        assert stamps == sorted(set(stamps))

    def test_events_are_stamped_in_the_order_of_their_commits(self, endpoint: Endpoint) -> None:
        schedule_dags("videos")
        schedule_dags("images", kind="image")
        bodies = [event_body(kind, project_id=f"cm{n}") for n in range(15) for kind in ("image", "video")]
        with ThreadPoolExecutor(10) as executor:
            assert {each.status_code for each in executor.map(endpoint.deliver, bodies)} == {200}
        stamps = [event.timestamp for event in asset_events()]
        assert len(stamps) == 30
        assert stamps == sorted(set(stamps))

    def test_a_clock_that_is_behind_does_not_put_an_event_before_another(self, endpoint: Endpoint) -> None:
        from airflow.models.asset import AssetEvent
        from airflow.utils.session import create_session

        schedule_dags("consumer")
        asset_id = schedule_dags("other", kind="image")
        ahead = datetime.now(UTC) + timedelta(hours=1)
        with create_session(scoped=False) as session:
            session.add(AssetEvent(asset_id=asset_id, extra={}, timestamp=ahead))
        endpoint.deliver(event_body())
        assert asset_events()[-1].timestamp == ahead + timedelta(microseconds=1)
        assert queue() == {"consumer": ahead + timedelta(microseconds=1)}

    def test_without_a_dag_it_is_taken_with_a_hint(
        self, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        answer = endpoint.deliver(event_body("audio", "errored"))
        assert (answer.status_code, answer.json()) == (200, {"status": "unused"})
        assert "magichour_asset('audio', 'errored')" in caplog.text
        assert not asset_events()
        # It is not remembered either: a DAG that comes before the next delivery gets it.
        schedule_dags("late", kind="audio", what="errored")
        assert endpoint.deliver(event_body("audio", "errored")).json() == {"status": "accepted"}

    def test_a_paused_dag_is_not_queued(self, endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        schedule_dags("paused", paused=True)
        assert endpoint.deliver(event_body()).json() == {"status": "idle"}
        assert "is paused" in caplog.text
        assert len(asset_events()) == 1
        assert not queue()

    def test_an_asset_manager_may_decline(self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
        from airflow_provider_magichour.webhooks import store

        class Declining:
            def register_asset_change(self, **_: Any) -> None:
                return None

        schedule_dags("consumer")
        monkeypatch.setattr(store, "asset_manager", Declining())
        assert endpoint.deliver(event_body()).json() == {"status": "unused"}

    def test_what_a_run_was_given_is_not_queued_again(self, endpoint: Endpoint) -> None:
        from airflow_provider_magichour.webhooks import store

        schedule_dags("consumer")
        for project_id in ("a", "b"):
            endpoint.deliver(event_body(project_id=project_id))
        first, second = (event.timestamp for event in asset_events())
        assert store.queue_again() == 0  # it waits in the queue
        delete_queue()
        make_run("consumer", first)
        assert store.queue_again() == 1
        delete_queue()
        make_run("consumer", second)
        assert store.queue_again() == 0

    def test_listeners_hear_of_it_after_the_commit(self, endpoint: Endpoint) -> None:
        from airflow.listeners import hookimpl
        from airflow.listeners.listener import get_listener_manager

        class Listener:
            seen: list[int] = []  # noqa: RUF012

            @hookimpl
            def on_asset_changed(self, asset: Any) -> None:
                self.seen.append(len(asset_events()))

        schedule_dags("consumer")
        get_listener_manager().add_listener(Listener())
        try:
            endpoint.deliver(event_body())
        finally:
            get_listener_manager().clear()
        assert Listener.seen == [1]

    def test_a_failure_in_between_leaves_nothing(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from airflow_provider_magichour.webhooks import store

        schedule_dags("consumer")
        with monkeypatch.context() as patch:
            patch.setattr(store, "_stamp", lambda *_: 1 / 0)
            assert endpoint.deliver(event_body()).status_code == 503
        assert not asset_events()
        assert not remembered()
        assert not queue()
        assert endpoint.deliver(event_body()).json() == {"status": "accepted"}


class TestMemory:
    def test_a_delivery_that_is_repeated_makes_no_second_event(self, endpoint: Endpoint) -> None:
        schedule_dags("consumer")
        schedule_dags("starting", what="started")
        endpoint.deliver(event_body())
        assert endpoint.deliver(event_body()).json() == {"status": "duplicate"}
        assert endpoint.deliver(event_body(name="changed")).json() == {"status": "duplicate"}
        assert endpoint.deliver(event_body(what="started")).json() == {"status": "accepted"}
        assert len(asset_events()) == 2
        assert set(remembered()) == {"video.completed:cm1", "video.started:cm1"}

    def test_of_deliveries_at_once_one_counts(self, endpoint: Endpoint) -> None:
        schedule_dags("consumer")
        with serving() as replica, ThreadPoolExecutor(8) as executor:
            targets = [endpoint, replica] * 8
            answers = list(executor.map(lambda target: target.deliver(event_body()), targets))
        assert sorted(answer.json()["status"] for answer in answers) == ["accepted"] + ["duplicate"] * 15
        assert len(asset_events()) == 1

    def test_a_delivery_is_forgotten_after_25_hours(self, endpoint: Endpoint) -> None:
        schedule_dags("consumer")
        endpoint.deliver(event_body())
        set_remembered(timedelta(hours=24, minutes=59))
        assert endpoint.deliver(event_body()).json() == {"status": "duplicate"}
        set_remembered(timedelta(hours=25, minutes=1))
        assert endpoint.deliver(event_body()).json() == {"status": "accepted"}
        assert endpoint.deliver(event_body()).json() == {"status": "duplicate"}
        assert len(asset_events()) == 2

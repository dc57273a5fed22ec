"""The webhook endpoint over real HTTP, with a real (SQLite) Airflow database."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hypothesis
import pytest
import requests
from hypothesis import strategies as st

from airflow_provider_magichour.exceptions import MagicHourArgumentError
from airflow_provider_magichour.tools import KINDS
from airflow_provider_magichour.webhooks import magichour_asset, triggering_projects
from airflow_provider_magichour.webhooks.events import (
    ASSET_URIS,
    MAX_DEPTH,
    MalformedEventError,
    asset_uri,
    parse_event,
)
from airflow_provider_magichour.webhooks.secrets import MAX_KEPT, MAX_STRANGERS, SecretsCache, split_secrets
from airflow_provider_magichour.webhooks.signatures import (
    SignatureError,
    check_age,
    check_signature,
    read_signature,
    sign,
)
from tests.support.airflow import IS_AIRFLOW_3

SECRET = "whsec_test"
needs_airflow_3 = pytest.mark.skipif(not IS_AIRFLOW_3, reason="the endpoint needs Airflow 3.3")


def event_body(
    kind: str = "video", what: str = "completed", project_id: str = "cm1", **payload: Any
) -> bytes:
    project = {
        "id": project_id,
        "name": None,
        "status": "complete",
        "type": "TEXT_TO_VIDEO",
        "created_at": "2026-11-01T10:00:00Z",
        "enabled": True,
        "credits_charged": 5,
        "downloads": [{"url": "https://files/x.mp4?sig=1", "expires_at": "2026-11-02T10:00:00Z"}],
        "error": None,
        **payload,
    }
    return json.dumps({"type": f"{kind}.{what}", "payload": project}).encode()


def signed(body: bytes, secret: str = SECRET, timestamp: str | None = None) -> dict[str, str]:
    timestamp = timestamp or str(int(time.time()))
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"magic-hour-event-timestamp": timestamp, "magic-hour-event-signature": digest}


# --------------------------------------------------------------------------------------------- signatures


def raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def test_a_signature_is_the_one_that_magic_hour_documents() -> None:
    body, headers = b'{"a":1}', signed(b'{"a":1}', "s3cret", "1730742038")
    signature = read_signature(raw(headers))
    assert sign(b"s3cret", b"1730742038", body).hex() == headers["magic-hour-event-signature"]
    check_signature([b"other", b"s3cret"], signature, body)


@pytest.mark.parametrize("secrets", [[], [b""], [b"other"], [b"s3cret "]])
def test_other_secrets_do_not_do(secrets: list[bytes]) -> None:
    with pytest.raises(SignatureError):
        check_signature(secrets, read_signature(raw(signed(b"x", "s3cret"))), b"x")


def test_a_connection_without_a_secret_cannot_be_signed_for() -> None:
    from airflow_provider_magichour.webhooks import signatures

    forged = signed(b"x", signatures._NO_SECRET.decode())
    with pytest.raises(SignatureError):
        check_signature([], read_signature(raw(forged)), b"x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timestamp", ""),
        ("timestamp", "-1"),
        ("timestamp", "1e9"),
        ("timestamp", " 1730742038"),
        ("timestamp", "1730742038\n"),
        ("timestamp", "1" * 13),
        ("timestamp", "١٧٣٠٧٤٢٠٣٨"),
        ("signature", ""),
        ("signature", "ab"),
        ("signature", "g" * 64),
        ("signature", "a" * 65),
        ("signature", "a" * 63),
        ("signature", "a" * 62 + " a"),
        ("signature", "sha256=" + "a" * 64),
    ],
)
def test_headers_are_read_strictly(name: str, value: str) -> None:
    headers = {**signed(b"x"), f"magic-hour-event-{name}": value}
    with pytest.raises(SignatureError):
        read_signature(raw(headers))


@pytest.mark.parametrize("name", ["magic-hour-event-timestamp", "magic-hour-event-signature"])
def test_a_header_is_there_once(name: str) -> None:
    headers = signed(b"x")
    with pytest.raises(SignatureError):
        read_signature([*raw(headers), (name.encode(), headers[name].encode())])
    with pytest.raises(SignatureError):
        read_signature(raw({other: value for other, value in headers.items() if other != name}))


@pytest.mark.parametrize(
    ("age", "fresh"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)]
)
def test_the_timestamp_is_within_five_minutes(age: int, fresh: bool) -> None:
    signature = read_signature(raw(signed(b"x", timestamp="1730742038")))
    with contextlib.nullcontext() if fresh else pytest.raises(SignatureError):
        check_age(signature, 1730742038 + age)


@hypothesis.given(
    st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=80))), st.binary(max_size=200)
)
def test_no_headers_prove_anything_without_the_secret(
    headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    with pytest.raises(SignatureError):
        check_signature([b"s3cret"], read_signature(headers), body)


# ------------------------------------------------------------------------------------------------- events


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["started", "completed", "errored"])
def test_an_event_names_its_project(kind: str, what: str) -> None:
    event = parse_event(event_body(kind, what, "cm9", newer_field={"a": [1]}))
    assert (event.type, event.kind, event.what, event.project_id) == (f"{kind}.{what}", kind, what, "cm9")
    assert event.key == f"{kind}.{what}:cm9"
    assert event.project["newer_field"] == {"a": [1]}
    assert asset_uri(kind, what) in ASSET_URIS


@pytest.mark.parametrize("type_", ["video.canceled", "model.completed", "", "video", "video.completed.x"])
def test_unknown_types_are_told_apart(type_: str) -> None:
    assert parse_event(json.dumps({"type": type_, "payload": None}).encode()).kind is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b'{"payload": {}}',
        b'{"type": 1}',
        b'{"type": "video.completed"}',
        b'{"type": "video.completed", "payload": []}',
        b'{"type": "video.completed", "payload": {}}',
        event_body(project_id="../x"),
        event_body(project_id=""),
        event_body(project_id="a" * 129),
        event_body(project_id=7),  # type: ignore[arg-type]
        event_body(fps=float("nan")),
        event_body().replace(b'"credits_charged": 5', b'"credits_charged": 1e999'),
        event_body().replace(b'"credits_charged": 5', b'"credits_charged": ' + b"1" * 5000),
        event_body().replace(b'"credits_charged": 5', b'"credits_charged": ' + b"[" * 100 + b"]" * 100),
        event_body().replace(b'"credits_charged": 5', b'"credits_charged": ' + b"[" * 90000 + b"]" * 90000),
        event_body().decode().encode("utf-16"),
        b"\xef\xbb\xbf" + event_body(),
        b"\xff" + event_body(),
    ],
)
def test_what_is_no_event_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEventError):
        parse_event(body)


def test_text_that_no_database_takes_is_replaced() -> None:
    event = parse_event(event_body(name="a\x00b\ud800c😀", **{"k\x00": 1}))
    assert event.project["name"] == "a\ufffdb\ufffdc😀"
    assert "k\ufffd" in event.project


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@hypothesis.given(
    json_values | st.fixed_dictionaries({"type": st.just("video.completed"), "payload": json_values})
)
def test_any_json_is_an_event_or_malformed(value: Any) -> None:
    with contextlib.suppress(MalformedEventError):
        event = parse_event(json.dumps(value).encode())
        json.dumps(event.project, allow_nan=False).encode("ascii")


@hypothesis.given(st.binary())
def test_any_bytes_are_an_event_or_malformed(body: bytes) -> None:
    with contextlib.suppress(MalformedEventError):
        parse_event(body)


def test_nesting_as_deep_as_allowed_passes() -> None:
    deep = b"[" * (MAX_DEPTH - 2) + b"]" * (MAX_DEPTH - 2)
    parse_event(event_body().replace(b'"credits_charged": 5', b'"credits_charged": ' + deep))


# ------------------------------------------------------------------------------------------------ secrets


@pytest.mark.parametrize(
    ("value", "secrets"),
    [
        ("one", (b"one",)),
        (" old , new ", (b"old", b"new")),
        (["old", "new,er", ""], (b"old", b"new,er")),
        ("", ()),
        (" , ", ()),
        (None, ()),
        ([], ()),
        ([1, None], ()),
        (True, ()),
        ({"a": "b"}, ()),
    ],
)
def test_webhook_secret_is_one_or_several(value: Any, secrets: tuple[bytes, ...]) -> None:
    assert split_secrets(value) == secrets


@dataclass
class CountedLookUp:
    """Finds a secret for connections called ``known...``, and counts how often it is asked."""

    asked: int = 0
    delay: float = 0.0
    error: Exception | None = None

    def __call__(self, conn_id: str) -> tuple[bytes, ...]:
        self.asked += 1
        time.sleep(self.delay)
        if self.error:
            raise self.error
        return (b"s",) if conn_id.startswith("known") else ()


def test_secrets_are_looked_up_once_in_a_while() -> None:
    async def check() -> None:
        now = [0.0]
        look_up = CountedLookUp(delay=0.05)
        cache = SecretsCache(look_up, lambda: now[0])
        assert await asyncio.gather(*(cache.get("known") for _ in range(50))) == [(b"s",)] * 50
        assert look_up.asked == 1
        now[0] = 4.9
        assert await cache.get("known") == (b"s",)
        assert look_up.asked == 1
        now[0] = 5.1
        assert await cache.get("known") == (b"s",)
        assert look_up.asked == 2

    asyncio.run(check())


def test_strangers_cannot_make_us_look_up_without_end() -> None:
    async def check() -> None:
        now = [0.0]
        look_up = CountedLookUp(delay=0.01)
        cache = SecretsCache(look_up, lambda: now[0])
        assert await cache.get("known") == (b"s",)
        now[0] = 100.0  # so that the known one must be looked up again, too
        flood = [cache.get(f"unknown{number}") for number in range(500)]
        *refused, known = await asyncio.gather(*flood, cache.get("known"))
        assert not any(refused)
        assert known == (b"s",)
        assert look_up.asked <= 2 + MAX_STRANGERS

    asyncio.run(check())


def test_what_is_kept_is_bounded() -> None:
    async def check() -> None:
        cache = SecretsCache(CountedLookUp())
        for number in range(MAX_KEPT + 50):
            await cache.get(f"c{number}")
        assert len(cache._kept) == MAX_KEPT

    asyncio.run(check())


@pytest.mark.parametrize("conn_id", ["", "a b", "a\x00", "ä", "a" * 201, "a/b", "%", "a\nb"])
def test_what_cannot_be_a_connection_id_is_not_looked_up(conn_id: str) -> None:
    look_up = CountedLookUp(error=AssertionError("looked up"))
    assert asyncio.run(SecretsCache(look_up).get(conn_id)) == ()


def test_a_failed_look_up_is_not_kept() -> None:
    async def check() -> None:
        look_up = CountedLookUp(error=OSError("down"))
        cache = SecretsCache(look_up)
        with pytest.raises(OSError, match="down"):
            await cache.get("known")
        look_up.error = None
        assert await cache.get("known") == (b"s",)

    asyncio.run(check())


# ----------------------------------------------------------------------------------------------- endpoint


class Endpoint:
    """The endpoint as Airflow mounts it, served by uvicorn over a socket."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/magichour/webhooks"
        self.session = requests.Session()

    def post(self, body: bytes, headers: dict[str, str], conn_id: str = "hooked") -> requests.Response:
        return self.session.post(f"{self.url}/{quote(conn_id)}", data=body, headers=headers, timeout=30)

    def deliver(self, body: bytes, conn_id: str = "hooked") -> requests.Response:
        return self.post(body, signed(body), conn_id)


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[Endpoint]:
    import uvicorn
    from fastapi import FastAPI

    from airflow_provider_magichour.webhooks.app import Receiver, create_app

    root = FastAPI()
    root.mount("/magichour/webhooks", create_app(Receiver(**options)))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(root, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield Endpoint(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def endpoint(airflow_db: Path, connect: Callable[..., str]) -> Iterator[Endpoint]:
    connect("http://127.0.0.1:1", "mhk_test_key", "hooked", webhook_secret=SECRET)
    connect("http://127.0.0.1:1", "mhk_test_key", "rotating", webhook_secret="old, whsec_test")
    connect("http://127.0.0.1:1", "mhk_test_key", "silent")
    empty_database()
    with serving() as served:
        yield served


def empty_database() -> None:
    from airflow.models.asset import AssetDagRunQueue, AssetEvent, AssetModel, DagScheduleAssetReference
    from airflow.models.asset_state_store import AssetStateStoreModel
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    tables = (
        AssetDagRunQueue,
        AssetStateStoreModel,
        AssetEvent,
        DagScheduleAssetReference,
        AssetModel,
        DagRun,
        DagModel,
    )
    with create_session(scoped=False) as session:
        for table in tables:
            session.execute(delete(table))


def schedule_dags(*dag_ids: str, kind: str = "video", what: str = "completed", paused: bool = False) -> int:
    """Make DAGs that are scheduled on an asset, as the DAG processor would; return the asset's id."""
    from airflow.models.asset import AssetActive, AssetModel, DagScheduleAssetReference
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session

    uri = asset_uri(kind, what)
    with create_session(scoped=False) as session:
        session.merge(DagBundleModel(name="tests"))
        asset = AssetModel(name=uri, uri=uri)
        session.add_all([asset, AssetActive.for_asset(asset)])
        session.flush()
        for dag_id in dag_ids:
            session.add(DagModel(dag_id=dag_id, is_paused=paused, is_stale=False, bundle_name="tests"))
            session.flush()
            session.add(DagScheduleAssetReference(asset_id=asset.id, dag_id=dag_id))
        return int(asset.id)


def asset_events() -> list[Any]:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session(scoped=False) as session:
        return list(session.scalars(select(AssetEvent).order_by(AssetEvent.id)))


def queue() -> dict[str, datetime]:
    """Return the DAGs that wait for their run, and the time up to which it will take events."""
    from airflow.models.asset import AssetDagRunQueue
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session(scoped=False) as session:
        return {row.target_dag_id: row.created_at for row in session.scalars(select(AssetDagRunQueue))}


def delete_queue() -> None:
    from airflow.models.asset import AssetDagRunQueue
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    with create_session(scoped=False) as session:
        session.execute(delete(AssetDagRunQueue))


def make_run(dag_id: str, run_after: datetime) -> None:
    """Make the run that a scheduler makes of the events up to a time."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.types import DagRunType

    with create_session(scoped=False) as session:
        session.add(
            DagRun(
                dag_id=dag_id,
                run_id=f"asset_triggered__{run_after.isoformat()}",
                run_type=DagRunType.ASSET_TRIGGERED,
                run_after=run_after,
            )
        )


def remembered() -> dict[str, datetime]:
    from airflow.models.asset_state_store import AssetStateStoreModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session(scoped=False) as session:
        return {row.key: row.updated_at for row in session.scalars(select(AssetStateStoreModel))}


def set_remembered(age: timedelta) -> None:
    from airflow.models.asset_state_store import AssetStateStoreModel
    from airflow.utils.session import create_session
    from sqlalchemy import update

    with create_session(scoped=False) as session:
        session.execute(update(AssetStateStoreModel).values(updated_at=datetime.now(UTC) - age))


@needs_airflow_3
class TestEndpoint:
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

    @pytest.mark.parametrize("type_", ["video.canceled", "model.trained"])
    def test_unknown_types_are_taken_and_logged(
        self, endpoint: Endpoint, caplog: pytest.LogCaptureFixture, type_: str
    ) -> None:
        caplog.set_level(logging.INFO)
        answer = endpoint.deliver(json.dumps({"type": type_, "payload": {"id": "x"}}).encode())
        assert (answer.status_code, answer.json()) == (200, {"status": "ignored"})
        assert type_ in caplog.text

    def test_old_and_new_secret_count_together(self, endpoint: Endpoint) -> None:
        schedule_dags("consumer")
        for secret, status in (("old", 200), ("whsec_test", 200), ("old, whsec_test", 401), ("older", 401)):
            body = event_body(project_id=f"with-{len(secret)}")
            assert endpoint.post(body, signed(body, secret), "rotating").status_code == status

    def test_connections_of_the_database_count(self, endpoint: Endpoint) -> None:
        from airflow.models import Connection
        from airflow.utils.session import create_session

        with create_session(scoped=False) as session:
            extra = json.dumps({"webhook_secret": ["old", SECRET]})
            session.add(Connection(conn_id="stored", conn_type="magichour", extra=extra))
        try:
            assert endpoint.deliver(event_body(), "stored").status_code == 200
        finally:
            with create_session(scoped=False) as session:
                session.query(Connection).filter_by(conn_id="stored").delete()

    def test_refusals_look_alike(self, endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
        schedule_dags("consumer")
        body, stale = event_body(), str(int(time.time()) - 301)
        refused = {
            "wrong secret": endpoint.post(body, signed(body, "wrong")),
            "no such connection": endpoint.deliver(body, "nothing"),
            "no connection id": endpoint.deliver(body, "a b"),
            "connection without a secret": endpoint.deliver(body, "silent"),
            "unsigned": endpoint.post(body, {}),
            "stale": endpoint.post(body, signed(body, timestamp=stale)),
            "from the future": endpoint.post(body, signed(body, timestamp=str(int(time.time()) + 400))),
            "other body": endpoint.post(body + b" ", signed(body)),
            "huge": endpoint.post(b"x" * 200_000, signed(b"")),
        }
        answers = {(answer.status_code, answer.content) for answer in refused.values()}
        assert answers == {(401, b'{"detail":"not signed by Magic Hour"}')}
        headers = [{**answer.headers, "date": ""} for answer in refused.values()]
        assert all(each == headers[0] for each in headers)
        assert not asset_events()
        assert not remembered()
        refusals = [record for record in caplog.records if "Refused" in record.message]
        assert len(refusals) == len(refused)
        assert SECRET not in caplog.text

    def test_a_refusal_takes_its_time(self, endpoint: Endpoint) -> None:
        for conn_id in ("hooked", "nothing"):
            started = time.monotonic()
            endpoint.post(b"x", signed(b"x", "wrong"), conn_id)
            assert time.monotonic() - started >= 0.05

    def test_malformed_but_signed_is_a_bad_request(self, endpoint: Endpoint) -> None:
        for body in (b"", b"nonsense", b'{"type": "video.completed"}', event_body(project_id="../x")):
            answer = endpoint.deliver(body)
            assert (answer.status_code, answer.json()) == (400, {"detail": "not a webhook"})
        assert not asset_events()

    def test_a_body_of_a_mebibyte_is_the_longest(self, endpoint: Endpoint) -> None:
        schedule_dags("consumer")
        longest = event_body(name="")
        longest = longest.replace(b'"name": ""', b'"name": "' + b"x" * (1024 * 1024 - len(longest)) + b'"')
        assert len(longest) == 1024 * 1024
        assert endpoint.deliver(longest).status_code == 200
        too_long = longest + b" "
        assert endpoint.deliver(too_long).status_code == 413
        chunked = iter([too_long[:500_000], too_long[500_000:]])
        answer = endpoint.session.post(f"{endpoint.url}/hooked", data=chunked, headers=signed(too_long))
        assert (answer.status_code, answer.json()) == (413, {"detail": "too long"})
        assert len(asset_events()) == 1

    def test_a_body_without_end_is_not_read_to_its_end(self, endpoint: Endpoint) -> None:
        sent = 0

        def chunks() -> Iterator[bytes]:
            nonlocal sent
            for _ in range(1024):
                sent += 1024 * 1024
                yield b"x" * 1024 * 1024

        with contextlib.suppress(requests.ConnectionError):
            assert endpoint.session.post(f"{endpoint.url}/hooked", data=chunks()).status_code == 413
        assert sent < 200 * 1024 * 1024

    def test_a_body_that_never_comes_is_given_up(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from airflow_provider_magichour.webhooks import app

        monkeypatch.setattr(app, "BODY_SECONDS", 0.3)
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as client:
            client.sendall(
                b"POST /magichour/webhooks/hooked HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nab"
            )
            answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert endpoint.deliver(event_body()).status_code == 200

    def test_a_sender_that_hangs_up_harms_nobody(
        self, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
    ) -> None:
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as client:
            client.sendall(
                b"POST /magichour/webhooks/hooked HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nab"
            )
        eventually(lambda: "hung up" in caplog.text)
        assert endpoint.deliver(event_body()).status_code == 200

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
    def test_only_post_is_taken(self, endpoint: Endpoint, method: str) -> None:
        assert endpoint.session.request(method, f"{endpoint.url}/hooked").status_code == 405

    @pytest.mark.parametrize("path", ["", "/", "/hooked/", "/hooked/x", "/a%2Fb"])
    def test_there_is_nothing_else(self, endpoint: Endpoint, path: str) -> None:
        body = event_body()
        answer = endpoint.session.post(
            endpoint.url + path, data=body, headers=signed(body), allow_redirects=False
        )
        assert answer.status_code in {307, 404} if path == "" else answer.status_code == 404


def remember_something_else(asset_id: int) -> None:
    from airflow.models.asset_state_store import AssetStateStoreModel
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        session.add(
            AssetStateStoreModel(asset_id=asset_id, key="mine", value="1", updated_at=datetime.now(UTC))
        )


def read_all(client: socket.socket) -> bytes:
    received = b""
    while chunk := client.recv(4096):
        received += chunk
    return received


def eventually(condition: Callable[[], bool], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


# -------------------------------------------------------------------------------------------- database down


@needs_airflow_3
class TestDatabaseDown:
    @pytest.fixture
    def broken(self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
        """Make every session of Airflow fail, as with a database that is gone."""
        import sqlalchemy
        from airflow import settings
        from sqlalchemy.orm import scoped_session, sessionmaker

        gone = sqlalchemy.create_engine("sqlite:////nowhere/at/all.db")

        def break_it() -> None:
            monkeypatch.setattr(settings, "NonScopedSession", sessionmaker(gone))
            monkeypatch.setattr(settings, "Session", scoped_session(sessionmaker(gone)))

        yield break_it
        gone.dispose()

    def test_magic_hour_is_asked_to_deliver_again(
        self, endpoint: Endpoint, broken: Callable[[], None], caplog: pytest.LogCaptureFixture
    ) -> None:
        broken()
        answer = endpoint.deliver(event_body())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        assert answer.json() == {"detail": "not now; deliver it again"}
        assert "could not be taken now" in caplog.text
        assert "cm1" not in caplog.text

    def test_a_connection_that_cannot_be_looked_up_is_not_unknown(
        self, endpoint: Endpoint, broken: Callable[[], None]
    ) -> None:
        broken()
        assert endpoint.deliver(event_body(), "maybe_stored").status_code == 503

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

    def test_a_database_that_hangs_is_not_waited_for(
        self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from airflow_provider_magichour.webhooks import app, store

        released = threading.Event()

        def hang(_: Any) -> None:
            released.wait(30)
            raise OSError("gone")

        monkeypatch.setattr(app, "WORK_SECONDS", 0.3)
        with monkeypatch.context() as patch:
            patch.setattr(store, "record", hang)
            with ThreadPoolExecutor(10) as executor:
                answers = list(executor.map(lambda _: endpoint.deliver(event_body()), range(10)))
        released.set()
        assert {answer.status_code for answer in answers} == {503}
        schedule_dags("consumer")
        monkeypatch.setattr(app, "WORK_SECONDS", 8.0)
        assert endpoint.deliver(event_body()).json() == {"status": "accepted"}


# -------------------------------------------------------------------------------------------------- fuzzing

header_names = st.sampled_from(
    ["magic-hour-event-timestamp", "magic-hour-event-signature", "content-type", "content-encoding", "cookie"]
)
header_values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=70) | st.just(
    str(int(time.time()))
)


@needs_airflow_3
@hypothesis.settings(max_examples=60)
@hypothesis.given(
    conn_id=st.sampled_from(["hooked", "silent"]) | st.text(min_size=1, max_size=30),
    headers=st.dictionaries(header_names, header_values),
    body=st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()),
)
def test_nothing_unsigned_gets_in(
    endpoint: Endpoint, conn_id: str, headers: dict[str, str], body: bytes
) -> None:
    url = f"{endpoint.url}/{quote(conn_id.encode('utf-8', 'surrogatepass'), safe='')}"
    answer = endpoint.session.post(url, data=body, headers=headers, allow_redirects=False)
    assert answer.status_code in {401, 404}
    assert not asset_events()


@needs_airflow_3
@hypothesis.settings(max_examples=60)
@hypothesis.given(
    body=st.binary(max_size=300)
    | json_values.map(lambda value: json.dumps(value).encode())
    | json_values.map(lambda value: json.dumps({"type": "video.completed", "payload": value}).encode())
    | st.dictionaries(st.text(), json_values, max_size=4).map(
        lambda value: json.dumps({"type": "video.completed", "payload": {**value, "id": "fuzz"}}).encode()
    )
)
def test_nothing_signed_breaks_it(endpoint: Endpoint, body: bytes) -> None:
    assert endpoint.deliver(body).status_code in {200, 400}


# ------------------------------------------------------------------------------------------ for DAG authors


def test_the_asset_of_an_event() -> None:
    asset = magichour_asset("video")
    assert asset.uri == "magichour://video/completed"
    assert getattr(asset, "name", asset.uri) == asset.uri
    assert magichour_asset("audio", "errored").uri == "magichour://audio/errored"


@pytest.mark.parametrize(("kind", "what"), [("movie", "completed"), ("video", "canceled"), (None, "started")])
def test_there_are_no_other_assets(kind: Any, what: str) -> None:
    with pytest.raises(MagicHourArgumentError):
        magichour_asset(kind, what)


@dataclass
class FakeAssetEvent:
    extra: Any


def test_projects_of_the_triggering_events() -> None:
    def event(kind: str, what: str, project_id: str, conn_id: str = "magichour_default") -> FakeAssetEvent:
        parsed = parse_event(event_body(kind, what, project_id))
        extra = {
            "type": parsed.type,
            "kind": kind,
            "id": project_id,
            "magichour_conn_id": conn_id,
            "project": parsed.project,
        }
        return FakeAssetEvent(extra)

    events = {
        "videos": [event("video", "completed", "a"), event("video", "completed", "a")],
        "images": [event("image", "completed", "b", "other_account")],
        "failed": [event("image", "errored", "c")],
    }
    downloads = json.loads(event_body())["payload"]["downloads"]
    assert triggering_projects(events, "completed") == [
        {
            "id": "a",
            "kind": "video",
            "what": "completed",
            "magichour_conn_id": "magichour_default",
            "downloads": downloads,
        },
        {
            "id": "b",
            "kind": "image",
            "what": "completed",
            "magichour_conn_id": "other_account",
            "downloads": downloads,
        },
    ]
    assert [project["id"] for project in triggering_projects(events)] == ["a", "b", "c"]
    assert triggering_projects({}) == []


@pytest.mark.parametrize(
    "extra", [None, {}, {"id": "a"}, {"kind": "video"}, {"kind": "video", "id": "../a"}, "x"]
)
def test_asset_events_that_are_not_ours_are_passed_over(extra: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert triggering_projects({"asset": [FakeAssetEvent(extra)]}) == []
    assert "passed over" in caplog.text


def test_an_asset_event_made_by_hand_needs_kind_and_id_only() -> None:
    made_by_hand = FakeAssetEvent({"kind": "audio", "id": "cm7", "project": "?"})
    assert triggering_projects({"asset": [made_by_hand]}, "completed") == [
        {
            "id": "cm7",
            "kind": "audio",
            "what": "completed",
            "magichour_conn_id": "magichour_default",
            "downloads": [],
        }
    ]


# --------------------------------------------------------------------------------------------------- plugin


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_loading_the_plugin_loads_no_server() -> None:
    run_python(
        "import sys\n"
        "from airflow.providers.common.compat.sdk import AirflowPlugin\n"
        "before = set(sys.modules)\n"
        "from airflow_provider_magichour.webhooks import MagicHourWebhooksPlugin\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert not new & {'fastapi', 'starlette', 'sqlalchemy', 'uvicorn', 'requests', 'aiohttp'}, new\n"
    )


@needs_airflow_3
def test_the_plugin_offers_the_endpoint() -> None:
    from airflow_provider_magichour.webhooks import MagicHourWebhooksPlugin

    (mount,) = MagicHourWebhooksPlugin.fastapi_apps
    assert mount["url_prefix"] == "/magichour/webhooks"
    assert MagicHourWebhooksPlugin().fastapi_apps[0] is mount
    assert MagicHourWebhooksPlugin.flask_blueprints == []


def test_an_airflow_without_the_memory_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("starlette")
    from airflow.providers.common.compat import version_compat

    from airflow_provider_magichour import webhooks

    monkeypatch.setattr(version_compat, "AIRFLOW_V_3_3_PLUS", False)
    monkeypatch.setattr(version_compat, "AIRFLOW_V_3_0_PLUS", False)
    (mount,) = webhooks._fastapi_apps()
    assert mount["app"].status_code == 501  # a response is an ASGI application, too
    assert b"Airflow 3.3 or newer" in mount["app"].body
    caplog.clear()
    assert webhooks._flask_blueprints() == []
    assert "Airflow 3.3 or newer" in caplog.text

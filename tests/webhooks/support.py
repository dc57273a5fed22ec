"""What the tests of the webhooks share: signed events, a served endpoint, and a look into the database."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
import requests
from hypothesis import strategies as st

from airflow_provider_magichour.webhooks.events import asset_uri
from tests.support.airflow import AIRFLOW_VERSION

SECRET = "whsec_test"
needs_airflow_3_3 = pytest.mark.skipif(AIRFLOW_VERSION < (3, 3), reason="the endpoint needs Airflow 3.3")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


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

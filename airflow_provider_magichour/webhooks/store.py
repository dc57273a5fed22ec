"""Writes verified webhooks into Airflow's database: one asset event of each, once, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow import settings
from airflow.assets.manager import asset_manager
from airflow.models.asset import AssetDagRunQueue, AssetEvent, AssetModel, DagScheduleAssetReference
from airflow.models.asset_state_store import AssetStateStoreModel
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.types import DagRunType
from sqlalchemy import delete, func, select, update

from airflow_provider_magichour.webhooks.events import ASSET_URIS, Event, asset_uri

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

#: How long a delivery is remembered: Magic Hour repeats one for up to 24 hours.
REMEMBERED = timedelta(hours=25)
#: How far back events are looked for that a run may have missed.
RECENT = timedelta(minutes=1)
_BATCH = 1000


class Delivery(NamedTuple):
    """
    A verified webhook.

    :param event: what it says, of a known type.
    :param magichour_conn_id: the connection whose secret signed it.
    """

    event: Event
    magichour_conn_id: str


class Outcome(Enum):
    """What became of a delivery: an event; one that starts no DAG; no second one; no asset to have it."""

    ACCEPTED = "accepted"
    IDLE = "idle"
    DUPLICATE = "duplicate"
    UNUSED = "unused"


def record(deliveries: Sequence[Delivery]) -> list[Outcome]:
    """
    Make one asset event of each delivery, unless it was made before: all of them, or none.

    :return: what became of each, in their order.
    :raises sqlalchemy.exc.SQLAlchemyError: if the database cannot take it now; nothing is written then.
    """
    announcements: list[Callable[[], None]] = []
    with create_session(scoped=False) as session:
        assets = _lock_assets(session)
        used = {uri: assets[uri] for uri in map(_uri, deliveries) if uri in assets}
        _lock_queue(session, used.values())
        latest = _latest_stamp(session, assets.values())
        outcomes = []
        for delivery in deliveries:
            outcome, event = _record_one(session, used.get(_uri(delivery)), delivery, announcements)
            outcomes.append(outcome)
            if event:
                latest = _stamp(event, latest)
        session.flush()
        idle = {uri for uri, asset in used.items() if latest and not _stamp_queue(session, asset, latest)}
    for announce in announcements:  # listeners hear of it only once it is certain
        announce()
    return [
        Outcome.IDLE if outcome is Outcome.ACCEPTED and _uri(delivery) in idle else outcome
        for delivery, outcome in zip(deliveries, outcomes, strict=True)
    ]


def _record_one(
    session: Session,
    asset: AssetModel | None,
    delivery: Delivery,
    announcements: list[Callable[[], None]],
) -> tuple[Outcome, AssetEvent | None]:
    if asset is None:
        return Outcome.UNUSED, None
    event = delivery.event
    if not _remember(session, asset.id, event.key):
        return Outcome.DUPLICATE, None
    extra = {
        "type": event.type,
        "kind": event.kind,
        "id": event.project_id,
        "magichour_conn_id": delivery.magichour_conn_id,
        "project": event.project,
    }
    made = asset_manager.register_asset_change(
        asset=asset, extra=extra, session=session, callback_sink=announcements
    )
    # An asset manager of the user's own may decline.
    return (Outcome.ACCEPTED, made) if made else (Outcome.UNUSED, None)


def _uri(delivery: Delivery) -> str:
    return asset_uri(str(delivery.event.kind), delivery.event.what)


def forget_old() -> int:
    """Delete the memory of deliveries that Magic Hour will not repeat any more; return how many."""
    before = _utcnow() - REMEMBERED
    deleted = 0
    for uri in ASSET_URIS:
        while True:
            with create_session(scoped=False) as session:
                asset = _lock_assets(session).get(uri)
                if asset is None:
                    break
                mine = AssetStateStoreModel.asset_id == asset.id
                keys = session.scalars(
                    select(AssetStateStoreModel.key)
                    .where(mine, _is_delivery_of(uri), AssetStateStoreModel.updated_at < before)
                    .limit(_BATCH)
                ).all()
                session.execute(delete(AssetStateStoreModel).where(mine, AssetStateStoreModel.key.in_(keys)))
            deleted += len(keys)
            if len(keys) < _BATCH:
                break
    return deleted


def _utcnow() -> datetime:
    return datetime.now(UTC)


def _is_delivery_of(uri: str) -> Any:
    kind, _, what = uri.removeprefix("magichour://").partition("/")
    return AssetStateStoreModel.key.startswith(f"{kind}.{what}:", autoescape=True)


def _lock_assets(session: Session) -> dict[str, AssetModel]:
    """
    Return Magic Hour's assets by URI, locked: of all API servers, one at a time writes their events.

    Airflow's scheduler gives a run the events up to a time, and the next run those after it. An event
    that was stamped before that time but committed after it would belong to no run.
    """
    assets = session.scalars(
        select(AssetModel)
        .where(AssetModel.name.in_(ASSET_URIS), AssetModel.uri == AssetModel.name)
        .order_by(AssetModel.id)
        .with_for_update(key_share=True)
    )
    return {asset.uri: asset for asset in assets}


def _remember(session: Session, asset_id: int, key: str) -> bool:
    """Write down a delivery; return whether it is the first one of its key, or the last was long ago."""
    now = _utcnow()
    values = {
        "value": json.dumps(now.isoformat()),
        "updated_at": now,
        "last_updated_by_kind": "api",
    }
    insert = _insert_or_ignore(session).values(asset_id=asset_id, key=key, **values)
    if _changed_a_row(session, insert):
        return True
    outdated = (
        update(AssetStateStoreModel)
        .where(
            AssetStateStoreModel.asset_id == asset_id,
            AssetStateStoreModel.key == key,
            AssetStateStoreModel.updated_at < now - REMEMBERED,
        )
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return _changed_a_row(session, outdated)


def _insert_or_ignore(session: Session) -> Any:
    """Return an insert that does nothing where the row is there, also if another server just made it."""
    dialect = session.get_bind().dialect.name
    if dialect == "mysql":
        from sqlalchemy.dialects import mysql

        return mysql.insert(AssetStateStoreModel).prefix_with("IGNORE")
    from sqlalchemy.dialects import postgresql, sqlite

    module: Any = postgresql if dialect == "postgresql" else sqlite
    return module.insert(AssetStateStoreModel).on_conflict_do_nothing()


def _changed_a_row(session: Session, statement: Any) -> bool:
    result: Any = session.execute(statement)
    return bool(result.rowcount == 1)


def _lock_queue(session: Session, assets: Iterable[AssetModel]) -> None:
    """Wait for a scheduler that is just now making runs of these assets' earlier events."""
    session.execute(
        select(AssetDagRunQueue.target_dag_id)
        .where(AssetDagRunQueue.asset_id.in_([asset.id for asset in assets]))
        .with_for_update()
    ).all()


def _latest_stamp(session: Session, assets: Iterable[AssetModel]) -> datetime | None:
    """Return the time of the last event of all these assets."""
    of_asset = (
        select(func.max(AssetEvent.timestamp))
        .where(AssetEvent.asset_id == AssetModel.id)
        .correlate(AssetModel)
        .scalar_subquery()
    )
    ids = [asset.id for asset in assets]
    return session.scalar(select(func.max(of_asset)).where(AssetModel.id.in_(ids)))


def _stamp(event: AssetEvent, latest: datetime | None) -> datetime:
    """Let the event be later than all before it, also where another server's clock is ahead."""
    if latest and event.timestamp <= latest:
        event.timestamp = latest + timedelta(microseconds=1)
    return event.timestamp


def _stamp_queue(session: Session, asset: AssetModel, latest: datetime) -> bool:
    """
    Let the next runs of the DAGs take all events so far; return whether a DAG waits for a run.

    Airflow 3.3 leaves the queue at the time of the first event that waits in it, so that the others,
    being later, would wait for an event after them.
    """
    result: Any = session.execute(
        update(AssetDagRunQueue)
        .where(AssetDagRunQueue.asset_id == asset.id)
        .values(created_at=latest)
        .execution_options(synchronize_session=False)
    )
    return bool(result.rowcount)


# ------------------------------------------------------------------------------ where rows cannot be locked


def has_row_locks() -> bool:
    """Tell whether the database can lock rows: SQLite, for development, cannot."""
    return bool(settings.engine is not None and settings.engine.dialect.name != "sqlite")


def queue_again() -> int:
    """
    Queue the DAGs that have not been given the last event of an asset; return how many.

    Without row locks, a scheduler that makes a run deletes the queue although an event has come meanwhile.
    """
    queued = 0
    with create_session(scoped=False) as session:
        waiting = session.execute(
            select(DagScheduleAssetReference.dag_id, AssetModel.id, func.max(AssetEvent.timestamp))
            .join(AssetModel, AssetModel.id == DagScheduleAssetReference.asset_id)
            .join(AssetEvent, AssetEvent.asset_id == AssetModel.id)
            .join(DagModel, DagModel.dag_id == DagScheduleAssetReference.dag_id)
            .where(
                AssetModel.name.in_(ASSET_URIS),
                AssetEvent.timestamp > _utcnow() - RECENT,
                DagModel.is_paused.is_(False),
            )
            .group_by(DagScheduleAssetReference.dag_id, AssetModel.id)
        ).all()
        for dag_id, asset_id, latest in waiting:
            if session.get(AssetDagRunQueue, (asset_id, dag_id)):  # before the runs: they replace it
                continue
            last_run = session.scalar(
                select(func.max(DagRun.run_after)).where(
                    DagRun.dag_id == dag_id, DagRun.run_type == DagRunType.ASSET_TRIGGERED
                )
            )
            if last_run is None or last_run < latest:
                queue = AssetDagRunQueue(asset_id=asset_id, target_dag_id=dag_id, created_at=latest)
                session.add(queue)
                queued += 1
    return queued

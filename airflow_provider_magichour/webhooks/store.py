"""Writes a verified webhook into Airflow's database: one asset event, once, in one transaction."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

from airflow.assets.manager import asset_manager
from airflow.models.asset import AssetDagRunQueue, AssetEvent, AssetModel
from airflow.models.asset_state_store import AssetStateStoreModel
from airflow.utils.session import create_session
from sqlalchemy import delete, func, select, update

from airflow_provider_magichour.webhooks.events import ASSET_URIS, Event, asset_uri

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

log = logging.getLogger(__name__)

#: How long a delivery is remembered: Magic Hour repeats one for up to 24 hours.
REMEMBERED = timedelta(hours=25)
_BATCH = 1000


class Outcome(Enum):
    """What became of a delivery."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    UNUSED = "no DAG uses it"


def record(event: Event, magichour_conn_id: str, utcnow: Callable[[], datetime]) -> Outcome:
    """
    Make one asset event of a delivery, unless it was made before.

    :param event: of a known type.
    :param magichour_conn_id: the connection whose secret signed it.
    :param utcnow: our clock.
    :raises sqlalchemy.exc.SQLAlchemyError: if the database cannot take it now; nothing is written then.
    """
    uri = asset_uri(str(event.kind), event.what)
    announcements: list[Callable[[], None]] = []
    with create_session(scoped=False) as session:
        assets = _lock_assets(session)
        asset = assets.get(uri)
        if asset is None:
            return Outcome.UNUSED
        if not _remember(session, asset.id, event.key, utcnow()):
            return Outcome.DUPLICATE
        _lock_queue(session, asset.id)
        asset_event = asset_manager.register_asset_change(
            asset=asset,
            extra=_extra(event, magichour_conn_id),
            session=session,
            callback_sink=announcements,
        )
        if asset_event is None:  # an asset manager of the user's own may decline
            return Outcome.UNUSED
        _stamp(session, asset_event, assets.values(), utcnow)
    for announce in announcements:  # listeners hear of it only once it is certain
        announce()
    return Outcome.ACCEPTED


def forget_old(utcnow: Callable[[], datetime]) -> int:
    """Delete the memory of deliveries that Magic Hour will not repeat any more; return how many."""
    before = utcnow() - REMEMBERED
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


def _remember(session: Session, asset_id: int, key: str, now: datetime) -> bool:
    """Write down a delivery; return whether it is the first one of its key, or the last was long ago."""
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


def _lock_queue(session: Session, asset_id: int) -> None:
    """Wait for a scheduler that is just now making runs of this asset's earlier events."""
    session.execute(
        select(AssetDagRunQueue.target_dag_id).where(AssetDagRunQueue.asset_id == asset_id).with_for_update()
    ).all()


def _stamp(
    session: Session, event: AssetEvent, assets: Iterable[AssetModel], utcnow: Callable[[], datetime]
) -> None:
    """
    Stamp the event later than all before it, and with it the queue of the DAGs it starts.

    Airflow 3.3 leaves the queue at the time of the first event that waits in it, so that the others,
    being later, would wait for an event after them.
    """
    latest_of_asset = (
        select(func.max(AssetEvent.timestamp))
        .where(AssetEvent.asset_id == AssetModel.id, AssetEvent.id != event.id)
        .correlate(AssetModel)
        .scalar_subquery()
    )
    latest = session.scalar(
        select(func.max(latest_of_asset)).where(AssetModel.id.in_([asset.id for asset in assets]))
    )
    now = utcnow()  # after the locks, hence after what others did with them
    event.timestamp = max(now, latest + timedelta(microseconds=1)) if latest else now
    session.flush()
    session.execute(
        update(AssetDagRunQueue)
        .where(AssetDagRunQueue.asset_id == event.asset_id)
        .values(created_at=event.timestamp)
        .execution_options(synchronize_session=False)
    )


def _extra(event: Event, magichour_conn_id: str) -> dict[str, Any]:
    return {
        "type": event.type,
        "kind": event.kind,
        "id": event.project_id,
        "magichour_conn_id": magichour_conn_id,
        "project": event.project,
    }

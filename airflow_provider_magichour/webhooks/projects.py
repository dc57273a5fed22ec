"""The assets of webhooks and the projects in their events, for DAGs."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._validation.projects import check_id
from airflow_provider_magichour.exceptions import MagicHourArgumentError
from airflow_provider_magichour.tools import KindName, check_kind
from airflow_provider_magichour.webhooks import events

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Asset

    from airflow_provider_magichour.types import Download

log = logging.getLogger(__name__)

EVENTS = ("started", "completed", "errored")
#: How far before the newest event of the last run the next run starts, because events are not committed in
#: order.
OVERLAP = timedelta(minutes=10)
#: How far back a run reads without a stored time, as on Airflow 3.2, and how far back it repeats failed runs.
WITHOUT_STATE, REPEATED = timedelta(hours=2), timedelta(days=1)
#: How many projects a run stores, so that the next run drops duplicates: 30 a second for ten minutes.
MAX_KEYS = 20_000
#: How old a message of a queue may be, in seconds. SQS keeps messages for the same time.
MAX_QUEUED_AGE = 14 * 86400.0

_Read: TypeAlias = "Callable[[Mapping[str, Any]], Iterable[TriggeringProject]]"


class TriggeringProject(TypedDict):
    """A project of a webhook. ``what`` is ``event``. Without ``presigned_urls``, ``downloads`` is empty."""

    id: str
    kind: str
    event: str
    what: str
    magichour_conn_id: str
    downloads: list[Download]


def magichour_asset(
    kind: KindName, event: str = "completed", conn_id: str | None = None, *, what: str | None = None
) -> Asset:
    """
    Return the asset that gets an event for each webhook of this kind and event. Schedule a DAG on it.

    :param kind: ``image``, ``video`` or ``audio``.
    :param event: ``started``, ``completed`` or ``errored``. A canceled project sends no webhook.
    :param conn_id: the connection of the webhooks; all connections if None.
    :param what: the old name of ``event``.
    :raises MagicHourArgumentError: if one of them is wrong.
    """
    from airflow.providers.common.compat.sdk import Asset

    event = _renamed(what) or event
    if event not in EVENTS:
        raise MagicHourArgumentError(f"event must be one of {', '.join(EVENTS)}, not {event!r}")
    if conn_id is not None and (not isinstance(conn_id, str) or not conn_id or "{{" in conn_id):
        raise MagicHourArgumentError(f"conn_id must be a connection's id and no template, not {conn_id!r}")
    return Asset(uri=events.asset_uri(check_kind(kind), event, conn_id))


def triggering_projects(
    context_or_events: Mapping[Any, Any], event: str | None = None, *, what: str | None = None
) -> list[TriggeringProject]:
    """
    Return the projects of webhooks, each once.

    In a task that has the assets as ``inlets``, these are all projects since the last successful run of the
    DAG. An event that started no run is therefore found by the next run. Without a context, only the
    triggering events count.

    :param context_or_events: the task's context, or its ``triggering_asset_events``.
    :param event: only those that ``started``, ``completed`` or ``errored``; all by default.
    :param what: the old name of ``event``.
    """
    return _collect(context_or_events, _read_extra, _renamed(what) or event)


def queued_projects(
    context_or_events: Mapping[Any, Any], magichour_conn_id: str = DEFAULT_CONN_ID, event: str | None = None
) -> list[TriggeringProject]:
    """
    Return the projects of webhooks that came through a message queue, as :func:`triggering_projects` does.

    A message is a request as JSON, ``{"headers": ..., "body": ..., "isBase64Encoded": ...}``, which a gateway
    has put into the queue. A message without a valid signature is skipped.

    :param context_or_events: the task's context, or its ``triggering_asset_events``.
    :param magichour_conn_id: the connection with the webhook secret.
    :param event: only those that ``started``, ``completed`` or ``errored``; all by default.
    """
    from airflow_provider_magichour.webhooks.plugin import read_secrets

    secrets = read_secrets(magichour_conn_id)

    def read(extra: Mapping[str, Any]) -> Iterator[TriggeringProject]:
        payload = extra.get("payload")
        batch = payload.get("message_batch", payload) if isinstance(payload, Mapping) else payload
        for message in batch if isinstance(batch, list) else [batch]:
            try:
                headers, body = _open_message(message)
                signature = events.read_signature(headers.items(), time.time(), MAX_QUEUED_AGE)
                events.check_signature(secrets, signature, body)
                found = events.parse_event(body, magichour_conn_id)
            except (events.RefusedError, AttributeError, KeyError, TypeError, ValueError) as error:
                log.warning("Skipped a message that is not a webhook signed by Magic Hour: %r", error)
            else:
                yield from _read_extra(found) if "project" in found else ()

    return _collect(context_or_events, read, event)


def _open_message(message: Any) -> tuple[Mapping[str, str], bytes]:
    """Return headers and body of a request that a message contains as JSON, in SQS below ``Body``."""
    message = json.loads(message) if isinstance(message, str | bytes) else message
    if "Body" in message:
        return _open_message(message["Body"])
    body = message["body"]
    return message["headers"], base64.b64decode(body) if message.get("isBase64Encoded") else body.encode()


def _renamed(what: str | None) -> str | None:
    if what is not None:
        warnings.warn("what= is now called event=", DeprecationWarning, stacklevel=3)
    return what


def _read_extra(extra: Mapping[str, Any]) -> Iterator[TriggeringProject]:
    """Read an asset event. One that a person created by hand may be invalid, or have fewer fields."""
    project = extra.get("project")
    downloads = project.get("downloads") if isinstance(project, Mapping) else None
    event = str(extra.get("type", "")).rpartition(".")[2] or "completed"
    try:
        yield {
            "id": check_id(extra.get("id"), "id"),
            "kind": check_kind(extra.get("kind")),
            "event": event,
            "what": event,
            "magichour_conn_id": extra.get("magichour_conn_id") or DEFAULT_CONN_ID,
            "downloads": downloads if isinstance(downloads, list) else [],
        }
    except MagicHourArgumentError as error:
        log.warning("Skipped an asset event that names no Magic Hour project: %s", error)


def _collect(source: Mapping[Any, Any], read: _Read, wanted: str | None) -> list[TriggeringProject]:
    """Read the events of a run, each once, and store in the asset state store what was read."""
    context = source if any(name == "ti" for name in source) else {"triggering_asset_events": source}
    inlets = [inlet for inlet in context.get("inlet_events") or () if hasattr(inlet, "uri")]
    stores = context.get("asset_state_store") if inlets else None  # Airflow 3.3 and newer
    store = None if stores is None else stores[inlets[0]]
    ti: Any = context.get("ti")
    key = f"{ti.dag_id}/{ti.task_id}" if ti else ""
    last = None if store is None else store.get(key)
    since, handled = _find_start(last, ti)
    own = [each for some in (context.get("triggering_asset_events") or {}).values() for each in some]
    later: list[Any] = []
    for accessor in (context["inlet_events"][inlet] for inlet in inlets):
        later += accessor.after(since.isoformat()) if hasattr(accessor, "after") else ()
    found = _by_key(own, read, wanted)
    if isinstance(last, dict) and last["run_id"] != ti.run_id and (getattr(ti, "try_number", None) or 1) > 1:
        # an older run was cleared: it gets its triggering events again
        handled = [name for name in handled if name not in found]
    found |= _by_key(later, read, wanted)
    if store is not None and (read_events := own + later):
        newest = max(each.timestamp for each in read_events).astimezone(UTC).isoformat()
        this_run = {"run_id": ti.run_id, "since": since.isoformat(), "newest": newest, "handled": handled}
        store.set(key, {**this_run, "keys": [*found][-MAX_KEYS:]})
    passed_over = set(handled)
    return [project for name, project in found.items() if name not in passed_over]


def _by_key(read_events: Iterable[Any], read: _Read, wanted: str | None) -> dict[str, TriggeringProject]:
    """Return the projects of asset events, each once, by their keys."""
    found: dict[str, TriggeringProject] = {}
    for project in (project for each in read_events for project in read(each.extra or {})):
        names = (project["magichour_conn_id"], project["kind"], project["event"], project["id"])
        if wanted in {None, project["event"]}:
            found[hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]] = project
    return found


def _find_start(last: Any, ti: Any) -> tuple[datetime, list[str]]:
    """Return the time from which a run reads events, and the project keys of the last successful run."""
    now = datetime.now(UTC)
    if not isinstance(last, dict):
        return now - WITHOUT_STATE, []
    since = datetime.fromisoformat(last["since"])
    if last["run_id"] == ti.run_id:  # a retry or a Clear reads the same events again
        return since, last["handled"]
    if ti.get_dr_count(ti.dag_id, run_ids=[last["run_id"]], states=["success"]):
        return datetime.fromisoformat(last["newest"]) - OVERLAP, last["keys"]
    return max(since, now - REPEATED), last["handled"]

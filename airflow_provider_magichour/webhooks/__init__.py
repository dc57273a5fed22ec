"""
Finished media starts the next DAG: Magic Hour's webhooks become Airflow asset events.

The endpoint ``POST /magichour/webhooks/{magichour_conn_id}`` runs in the API server of Airflow 3.3 and newer.
A DAG scheduled on :func:`magichour_asset` starts when a webhook came, however the project was made, and
reads it with :func:`triggering_projects`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.providers.common.compat.sdk import AirflowPlugin

from airflow_provider_magichour._validation import check_id
from airflow_provider_magichour.exceptions import MagicHourArgumentError
from airflow_provider_magichour.tools import check_kind
from airflow_provider_magichour.webhooks.events import HAPPENINGS, asset_uri

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Asset

    from airflow_provider_magichour.types import Download

__all__ = ["MagicHourWebhooksPlugin", "TriggeringProject", "magichour_asset", "triggering_projects"]

log = logging.getLogger(__name__)

#: Where the endpoint is, below the API server's own address.
URL_PREFIX = "/magichour/webhooks"


class TriggeringProject(TypedDict):
    """
    A project whose webhook started a DAG run.

    ``downloads`` are signed URLs as they were in the webhook; they expire 24 hours after it.
    """

    id: str
    kind: str
    what: str
    magichour_conn_id: str
    downloads: list[Download]


def magichour_asset(kind: str, what: str = "completed") -> Asset:
    """
    Return the asset that has an event for each webhook of its sort; schedule a DAG on it.

    :param kind: ``image``, ``video`` or ``audio``.
    :param what: ``started``, ``completed`` or ``errored``. A canceled project sends no webhook.
    :raises MagicHourArgumentError: for any other kind or happening.
    """
    from airflow.providers.common.compat.sdk import Asset

    if what not in HAPPENINGS:
        raise MagicHourArgumentError(f"what must be one of {', '.join(HAPPENINGS)}, not {what!r}")
    return Asset(uri=asset_uri(check_kind(kind), what))


def triggering_projects(
    triggering_asset_events: Mapping[Any, Iterable[Any]], what: str | None = None
) -> list[TriggeringProject]:
    """
    Return the projects whose webhooks started this DAG run, each once, for ``.expand``.

    Several webhooks can start one run. A run that was triggered by hand has none.

    :param triggering_asset_events: the value of that name in the task's context.
    :param what: only those that ``started``, ``completed`` or ``errored``; all if None.
    """
    found: dict[tuple[str, str, str], TriggeringProject] = {}
    for events in triggering_asset_events.values():
        for event in events:
            project = _read_extra(event.extra)
            if project and what in (None, project["what"]):
                found[project["kind"], project["id"], project["what"]] = project
    return list(found.values())


def _read_extra(extra: Any) -> TriggeringProject | None:
    """Read an asset event; one that a person made by hand need not be ours, and may lack some fields."""
    extra = extra if isinstance(extra, Mapping) else {}
    project = extra.get("project")
    downloads = project.get("downloads") if isinstance(project, Mapping) else None
    try:
        return {
            "id": check_id(extra.get("id"), "id"),
            "kind": check_kind(extra.get("kind")),
            "what": str(extra.get("type", "")).rpartition(".")[2] or "completed",
            "magichour_conn_id": extra.get("magichour_conn_id") or "magichour_default",
            "downloads": downloads if isinstance(downloads, list) else [],
        }
    except MagicHourArgumentError as error:
        log.warning("An asset event does not name a Magic Hour project, so it is passed over: %s", error)
        return None


# ---------------------------------------------------------------------------------------------- plugin


class _OnDemand:
    """A class attribute that is made when it is first read: most processes never read the endpoint."""

    def __init__(self, make: Callable[[], list[Any]]) -> None:
        self._make = functools.cache(make)

    def __get__(self, instance: object, owner: type) -> list[Any]:
        """Make it, or return what was made."""
        return self._make()


def _unsupported() -> str | None:
    """Return what to say where Airflow is too old for the endpoint."""
    from airflow import __version__
    from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

    if AIRFLOW_V_3_3_PLUS:
        return None
    return f"Magic Hour's webhooks need Airflow 3.3 or newer; this is {__version__}, so the endpoint is off"


def _fastapi_apps() -> list[dict[str, Any]]:
    """Make the endpoint, for an API server."""
    app: Any
    if message := _unsupported():
        from starlette.responses import PlainTextResponse

        log.warning(message)
        app = PlainTextResponse(message, 501)
    else:
        from airflow_provider_magichour.webhooks.app import create_app

        app = create_app()
    return [{"app": app, "url_prefix": URL_PREFIX, "name": "Magic Hour webhooks"}]


def _flask_blueprints() -> list[Any]:
    """Say in the web server of Airflow 2, which has no API server, that there is no endpoint."""
    from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

    if not AIRFLOW_V_3_0_PLUS:
        log.warning(_unsupported())
    return []


class MagicHourWebhooksPlugin(AirflowPlugin):
    """Adds the endpoint to Airflow's API server."""

    name = "magichour_webhooks"
    fastapi_apps: Any = _OnDemand(_fastapi_apps)
    flask_blueprints: Any = _OnDemand(_flask_blueprints)

"""The receiver inside Airflow's API server, for development. It is off by default."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import AirflowNotFoundException, AirflowPlugin, BaseHook, conf

from airflow_provider_magichour.webhooks.events import split_secrets

#: How long a connection's webhook secret is used before it is read again, in seconds.
SECRET_SECONDS = 5.0


def read_secrets(conn_id: str) -> Sequence[bytes]:
    """Return a connection's webhook secrets."""
    return split_secrets(BaseHook.get_connection(conn_id).extra_dejson.get("webhook_secret"))


@functools.lru_cache(64)
def _secrets_of_period(conn_id: str, period: float) -> Sequence[bytes]:
    try:
        return read_secrets(conn_id)
    except AirflowNotFoundException:
        return ()


def _option(name: str, section: str = "magichour", fallback: str = "") -> str:
    return str(conf.get(section, name, fallback="") or fallback)


@functools.cache
def _create_endpoint() -> Any:
    """Return the endpoint, or a response that says it is off. It is created at the first request."""
    from starlette.responses import PlainTextResponse

    if not conf.getboolean("magichour", "webhooks", fallback=False):
        return PlainTextResponse("Magic Hour's webhooks are off here: set [magichour] webhooks = True", 503)
    from airflow_provider_magichour._client import stats
    from airflow_provider_magichour.webhooks.receiver import Receiver, create_endpoint
    from airflow_provider_magichour.webhooks.settings import Settings

    here = f"http://127.0.0.1:{_option('port', 'api', '8080')}"
    url = _option("webhooks_airflow_url") or here + urlsplit(_option("base_url", "api")).path.rstrip("/")
    token, username, password = (_option(f"webhooks_{name}") for name in ("token", "username", "password"))
    conn_ids = set(map(str.strip, _option("webhooks_connections", fallback="magichour_default").split(",")))
    one_at_a_time = asyncio.Lock()

    async def find_secrets(conn_id: str) -> Sequence[bytes]:
        if conn_id not in conn_ids:  # no other connections are read
            return ()
        async with one_at_a_time:
            return await asyncio.to_thread(_secrets_of_period, conn_id, time.monotonic() // SECRET_SECONDS)

    settings = Settings(url, token, username, password, parallel=1)
    return create_endpoint(Receiver(settings, find_secrets, lambda name: stats.count(f"webhook.{name}")))


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await _create_endpoint()(scope, receive, send)


class MagicHourWebhooksPlugin(AirflowPlugin):
    """Adds the endpoint to Airflow's API server."""

    name = "magichour_webhooks"
    fastapi_apps = [{"app": _app, "url_prefix": "/magichour/webhooks", "name": "Magic Hour webhooks"}]  # noqa: RUF012  # Airflow's own form

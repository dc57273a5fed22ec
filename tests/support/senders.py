"""Both senders of the client, called alike, and settings that lead to a server of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from airflow_provider_magichour._client import api
from airflow_provider_magichour._client.settings import Settings
from airflow_provider_magichour._client.transport import AsyncSender, Sender, run_async, send_each
from tests.support.scripted_server import ScriptedServer

KEY = "mhk_live_very_secret"
GET = api.get_project("image", "abc")
CREATE = api.create_project("text-to-video", {"end_seconds": 5})

Send = Callable[[Settings, api.Request], Any]


def settings_for(server: ScriptedServer, **changes: Any) -> Settings:
    """Return settings for a server: 30 s per attempt, three attempts."""
    return Settings(**{"api_key": KEY, "base_url": server.url, "timeout": 30, "max_attempts": 3, **changes})


def send_sync(settings: Settings, request: api.Request) -> Any:
    return Sender(settings).send(request)


def send_async(settings: Settings, request: api.Request) -> Any:
    async def run() -> Any:
        async with AsyncSender(settings) as sender:
            return await sender.send(request)

    return asyncio.run(run())


def send_all(settings: Settings, calls: Sequence[api.Request]) -> list[Any]:
    """Send calls in parallel; return what came of each, in order."""

    async def send() -> list[Any]:
        async with AsyncSender(settings) as sender:
            return await send_each(sender.send, calls, settings.max_connections)

    return run_async(send)

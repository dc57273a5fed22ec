"""Sends signed webhooks, and repeats them until they are accepted."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
import time
from collections import deque
from typing import Any

import aiohttp
from pydantic import BaseModel, ConfigDict, Field

from airflow_provider_magichour.simulator.backend import Backend
from airflow_provider_magichour.simulator.models import Project

TIMESTAMP_HEADER = "magic-hour-event-timestamp"
SIGNATURE_HEADER = "magic-hour-event-signature"

_GIVE_UP_SECONDS = 24 * 3600.0
_DEPRECATED = ("total_frame_cost", "download")
_REMEMBERED = 20_000


class WebhookTarget(BaseModel):
    """
    The endpoint of the webhooks, and how they are sent.

    :param url: the endpoint.
    :param secret: the secret that they are signed with.
    :param retry_seconds: seconds before a failed webhook is sent again. They double with each try.
    :param timeout: seconds to wait for the response.
    :param duplicates: how many times an accepted webhook is sent again.
    :param shuffle: each webhook is delayed by up to this many seconds at random, so that the order changes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    secret: str
    retry_seconds: float = Field(default=1.0, gt=0)
    timeout: float = Field(default=10.0, gt=0)
    duplicates: int = Field(default=0, ge=0)
    shuffle: float = Field(default=0.0, ge=0)


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a webhook."""
    return hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


class Webhooks:
    """
    Sends the events of projects to an endpoint.

    :param backend: the simulated Magic Hour.
    :param target: the endpoint, None if there is none.
    :param seed: makes the random delays the same in each run.
    """

    def __init__(self, backend: Backend, target: WebhookTarget | None, seed: int | None) -> None:
        self._backend = backend
        self.target = target
        #: Each attempt to deliver, oldest first.
        self.deliveries: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED)
        self._random = random.Random(seed)
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        backend.listeners.append(self.send)

    def send(self, event: str, project: Project) -> None:
        """Send ``started``, ``completed`` or ``errored`` with the current state of a project."""
        if self.target is None:
            return
        payload = self._backend.project_json(project)
        for name in _DEPRECATED:
            payload.pop(name, None)
        message = {"type": f"{project.kind}.{event}", "payload": payload}
        for number in range(1 + self.target.duplicates):
            task = asyncio.create_task(self._deliver(self.target, message, duplicate=number > 0))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def forget(self) -> None:
        """Drop the webhooks that were not delivered yet."""
        for task in self._tasks:
            task.cancel()
        self.deliveries.clear()

    async def close(self) -> None:
        """Drop the webhooks that were not delivered yet, and close all connections."""
        self.forget()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _deliver(self, target: WebhookTarget, message: dict[str, Any], *, duplicate: bool) -> None:
        await asyncio.sleep(self._random.uniform(0, target.shuffle))
        body = json.dumps(message, separators=(",", ":")).encode()
        wait, until = target.retry_seconds, time.monotonic() + _GIVE_UP_SECONDS
        for attempt in range(1, 1000):
            entry = {
                "at": time.time(),
                "type": message["type"],
                "project_id": message["payload"]["id"],
                "attempt": attempt,
                "duplicate": duplicate,
                "status": None,
                "error": None,
            }
            try:
                entry["status"] = await self._post(target, body)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                entry["error"] = repr(error)
            self.deliveries.append(entry)
            if entry["status"] is not None and 200 <= entry["status"] < 300:
                return
            if time.monotonic() + wait > until:
                return
            await asyncio.sleep(wait)
            wait *= 2

    async def _post(self, target: WebhookTarget, body: bytes) -> int:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        timestamp = str(int(time.time()))
        headers = {
            "content-type": "application/json",
            TIMESTAMP_HEADER: timestamp,
            SIGNATURE_HEADER: sign(target.secret, timestamp, body),
        }
        timeout = aiohttp.ClientTimeout(total=target.timeout)
        async with self._session.post(
            target.url, data=body, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            await response.read()
            return response.status

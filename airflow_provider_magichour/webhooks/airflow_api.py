"""Creates asset events with Airflow's public REST API, as its own user. It needs no Airflow."""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from airflow_provider_magichour._client.sanitize import one_line
from airflow_provider_magichour.webhooks.settings import Settings

#: Seconds until an asset that Airflow did not know is looked up again.
UNKNOWN_SECONDS = 5.0
#: Seconds that an event may wait, and that a call may take. An event that waits longer is not sent, so that a
#: busy Airflow does no work for webhooks that were already refused.
WAIT_SECONDS, CALL_SECONDS = 3.0, 6.0
_PAGE = 100


class AirflowApiError(Exception):
    """Airflow did not accept an event. The text is only for the receiver's own log."""


class AirflowApi:
    """Airflow's REST API, version 2. It belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._token = settings.token
        self._ids: dict[str, int] = {}
        self._read_at = -math.inf
        self._reading, self._signing_in = asyncio.Lock(), asyncio.Lock()
        self._slots = asyncio.Semaphore(settings.parallel)
        self._client = httpx.AsyncClient(
            base_url=settings.airflow_url,
            timeout=CALL_SECONDS,
            limits=httpx.Limits(max_connections=None, keepalive_expiry=3),
            verify=ssl.create_default_context(),
            mounts={"all://127.0.0.1": None, "all://localhost": None},  # ignores the proxy of the environment
        )
        self.close = self._client.aclose

    async def create_events(self, uris: Sequence[str], extra: Mapping[str, Any]) -> int:
        """
        Create an event of each asset that Airflow knows, and return their number.

        :raises AirflowApiError: if Airflow did not accept one of them.
        """
        try:
            return sum([await self._create_event(uri, extra) for uri in uris])
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise AirflowApiError(f"no response from {self._client.base_url!r}: {error!r}") from None

    async def _create_event(self, uri: str, extra: Mapping[str, Any], is_last: bool = False) -> bool:
        asset_id = await self._find_asset(uri)
        if asset_id is None:
            return False
        async with asyncio.timeout(WAIT_SECONDS):
            await self._slots.acquire()
        try:
            body = {"asset_id": asset_id, "extra": extra}
            response = await self._request("POST", "/api/v2/assets/events", json=body)
        finally:
            self._slots.release()
        if response.status_code != 404 or is_last:
            _check(response)
            return True
        if self._ids.get(uri) == asset_id:  # the id is not valid any more: look it up again
            self._ids, self._read_at = {}, -math.inf
        return await self._create_event(uri, extra, is_last=True)

    async def _find_asset(self, uri: str) -> int | None:
        """Return an asset's id, or None if Airflow does not know it, because no DAG uses it."""
        if uri not in self._ids:
            async with self._reading:  # if many calls wait for it, only one sends the request
                if uri not in self._ids and time.monotonic() - self._read_at > UNKNOWN_SECONDS:
                    await self._read_assets()
        return self._ids.get(uri)

    async def _read_assets(self) -> None:
        """Read the ids of all assets for Magic Hour's webhooks that a DAG uses."""
        found: dict[str, int] = {}
        offset, total = 0, 1
        while offset < total:
            params = {"uri_pattern": "magichour://", "limit": _PAGE, "offset": offset}
            page = _check(await self._request("GET", "/api/v2/assets", params=params))
            found |= {asset["uri"]: asset["id"] for asset in page["assets"]}
            offset, total = offset + (len(page["assets"]) or _PAGE), page["total_entries"]
        self._ids, self._read_at = found, time.monotonic()

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        token = self._token or await self._sign_in("")
        for last in (False, True):
            headers = {"Authorization": f"Bearer {token}"}
            response = await self._client.request(method, path, headers=headers, **options)
            if last or response.status_code != 401 or not self._settings.username:
                break
            token = await self._sign_in(token)
        return response

    async def _sign_in(self, refused: str) -> str:
        """Return a new token after one was refused."""
        async with self._signing_in:
            if self._token == refused:
                credentials = {"username": self._settings.username, "password": self._settings.password}
                response = await self._client.post("/auth/token", json=credentials)
                self._token = str(_check(response)["access_token"])
        return self._token


def _check(response: httpx.Response) -> Any:
    """Return the JSON of a successful response."""
    if response.is_success:
        return response.json()
    hint = " - check the credentials; the user must be allowed to read assets and to create asset events"
    call = f"{response.request.method} {response.request.url.path}"
    said = f"{response.status_code} {one_line(response.text)[:200]}"
    raise AirflowApiError(f"{call}: {said}{hint if response.status_code in {401, 403} else ''}")

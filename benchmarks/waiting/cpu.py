"""CPU that one check costs its process: ours, the common pattern, the official SDK, a peer's own hook."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from airflow_provider_magichour._client.settings import Settings
from airflow_provider_magichour._polling.poller import Poller, WaitRequest
from benchmarks.load_server import KEY, LoadServer, load_server, project_id

CHECKS, ROUNDS, SIDE_BY_SIDE = 2500, 7, 16


async def ours(server: LoadServer, checks: int) -> int:
    """Let the poller check 1,000 projects again and again; return how often it did."""
    settings = Settings(api_key=KEY, base_url=server.url, requests_per_second=1e9)

    async def read(conn_id: str) -> Settings:
        return settings

    wait = WaitRequest("image", [project_id(n, 3600) for n in range(1000)], time.time() + 3600, 0.001)
    before = server.stats()["requests"]
    async with Poller.shared("benchmark", read) as poller, poller.polling(wait):
        await asyncio.sleep(checks / 1000)  # a round figure: what counts is how many checks the server saw
    return int(server.stats()["requests"]) - before


async def side_by_side(checks: int, check: Callable[[str], Awaitable[Any]]) -> int:
    """Call the check from as many tasks as our poller uses connections."""
    numbers = iter(range(checks))

    async def work() -> None:
        for number in numbers:
            await check(project_id(number % 1000, 3600))

    await asyncio.gather(*(work() for _ in range(SIDE_BY_SIDE)))
    return checks


async def session_per_poll(server: LoadServer, checks: int) -> int:
    """Do what most providers' asynchronous hooks do: a session for each call."""
    import aiohttp

    async def check(one: str) -> Any:
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
            session.get(f"{server.url}/v1/image-projects/{one}") as response,
        ):
            response.raise_for_status()
            return (await response.json())["status"]

    return await side_by_side(checks, check)


async def official_sdk(server: LoadServer, checks: int) -> int:
    """Use the official asynchronous SDK, one client for all."""
    from magic_hour import AsyncClient

    client = AsyncClient(token=KEY, base_url=server.url)

    async def check(one: str) -> Any:
        return (await client.v1.image_projects.get(id=one)).status

    return await side_by_side(checks, check)


async def dbt_cloud(server: LoadServer, checks: int) -> int:
    """Use the dbt Cloud provider's own asynchronous hook; only its https:// is made http://."""
    from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook

    class Hook(DbtCloudHook):
        def get_request_url_params(self, *args: Any, **kwargs: Any) -> Any:
            url, params = super().get_request_url_params(*args, **kwargs)
            return url.replace("https://", "http://", 1), params

    connection = {"conn_type": "dbt_cloud", "host": server.url.partition("//")[2], "password": KEY}
    os.environ["AIRFLOW_CONN_DBT_BENCHMARK"] = json.dumps(connection)
    hook = Hook("dbt_benchmark")
    logging.getLogger(Hook.__module__).setLevel(logging.WARNING)

    async def check(one: str) -> Any:
        return await hook.get_job_status(7, account_id=1)

    return await side_by_side(checks, check)


def measure() -> dict[str, Any]:
    """Return the microseconds of CPU that one check takes each way, the best of some interleaved rounds."""
    ways = [ours, session_per_poll, official_sdk]
    if importlib.util.find_spec("airflow.providers.dbt") is not None:
        ways.append(dbt_cloud)
    found: dict[str, list[float]] = {way.__name__: [] for way in ways}
    with load_server() as server:
        for way in ways:
            asyncio.run(way(server, 100))  # imports and first-time work are not what is measured
        for _ in range(ROUNDS):
            for way in ways:
                started = time.process_time()
                done = asyncio.run(way(server, CHECKS))
                found[way.__name__].append((time.process_time() - started) / done * 1e6)
    best = {f"{name}_us": min(values) for name, values in found.items()}
    median = {name: statistics.median(values) for name, values in found.items()}
    ratios = {f"ratio_to_{name}": median["ours"] / value for name, value in median.items() if name != "ours"}
    return {**best, **ratios}


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:30} {value:8.3f}")

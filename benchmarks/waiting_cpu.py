"""CPU that one look costs its process: ours, the common pattern, the official SDK, a peer's own hook."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from airflow_provider_magichour.polling import Poller, Wait
from airflow_provider_magichour.transport import Settings
from benchmarks.load_server import KEY, LoadServer, load_server, project_id

LOOKS, SIDE_BY_SIDE = 3000, 16


async def ours(server: LoadServer, looks: int) -> int:
    """Let the poller look at 1,000 projects again and again; return how often it looked."""
    settings = Settings(api_key=KEY, base_url=server.url, requests_per_second=1e9)

    async def read() -> Settings:
        return settings

    before = await asyncio.to_thread(server.stats)
    wait = Wait("image", [project_id(n, 3600) for n in range(1000)], time.time() + 3600, 0.001)
    async with Poller.shared("benchmark", read) as poller, poller.watching(wait):
        while True:
            await wait.news(0.2)
            now = await asyncio.to_thread(server.stats)
            if (done := now["requests"] - before["requests"]) >= looks:
                return int(done)


async def side_by_side(looks: int, look: Callable[[str], Awaitable[Any]]) -> int:
    """Call the look from as many tasks as our poller uses connections."""
    numbers = iter(range(looks))

    async def work() -> None:
        for number in numbers:
            await look(project_id(number % 1000, 3600))

    await asyncio.gather(*(work() for _ in range(SIDE_BY_SIDE)))
    return looks


async def session_per_poll(server: LoadServer, looks: int) -> int:
    """Do what most providers' asynchronous hooks do: a session for each call."""
    import aiohttp

    async def look(one: str) -> Any:
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
            session.get(f"{server.url}/v1/image-projects/{one}") as response,
        ):
            response.raise_for_status()
            return (await response.json())["status"]

    return await side_by_side(looks, look)


async def official_sdk(server: LoadServer, looks: int) -> int:
    """Use the official asynchronous SDK, one client for all."""
    from magic_hour import AsyncClient

    client = AsyncClient(token=KEY, base_url=server.url)

    async def look(one: str) -> Any:
        return (await client.v1.image_projects.get(id=one)).status

    return await side_by_side(looks, look)


def cpu_per_look(run: Callable[[LoadServer, int], Awaitable[int]], server: LoadServer, looks: int) -> float:
    """Return the microseconds of CPU that one look takes, the best of three runs."""

    def once() -> float:
        started = time.process_time()
        done = asyncio.run(run(server, looks))  # type: ignore[arg-type]
        return (time.process_time() - started) / done * 1e6

    asyncio.run(run(server, 100))  # type: ignore[arg-type]  # imports and first-time work are not what is measured
    return min(once() for _ in range(3))


def measure() -> dict[str, float]:
    with load_server() as server:
        found = {
            "ours": cpu_per_look(ours, server, LOOKS),
            "session_per_poll": cpu_per_look(session_per_poll, server, LOOKS),
            "official_sdk": cpu_per_look(official_sdk, server, LOOKS),
        }
    found["ratio_session"] = found["ours"] / found["session_per_poll"]
    found["ratio_sdk"] = found["ours"] / found["official_sdk"]
    return found


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:20} {value:8.3f}")

"""
10,000 waits against an API with the latency of a real one: how long a round takes, over how many sockets.

    python -m benchmarks.waiting.latency [--seconds 0.2] [--projects 10000] [--hanging 0]

With ``--hanging N`` there is one project that is checked every 2 s beside N whose checks hang, and what is
measured is the longest gap between two of its checks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from typing import Any

from airflow_provider_magichour._client.settings import Settings
from airflow_provider_magichour._polling.wait import wait_for_outcomes
from airflow_provider_magichour._polling.wait_request import WaitRequest
from benchmarks.load_server import KEY, LoadServer, load_server, project_id


async def measure(server: LoadServer, latency: float, projects: int) -> dict[str, Any]:
    """Return how long it takes until each of the projects was checked once."""
    await asyncio.to_thread(server.control, f"/_latency?seconds={latency}")

    async def read(conn_id: str) -> Settings:
        return Settings(api_key=KEY, base_url=server.url)

    wait = WaitRequest("video", [project_id(n, 0) for n in range(projects)], time.time() + 3600)
    started = time.monotonic()
    outcomes = await wait_for_outcomes(wait, "c", read)
    seconds = time.monotonic() - started
    stats = await asyncio.to_thread(server.stats)
    return {
        "projects": list(outcomes.values()).count("complete"),
        "latency_ms": latency * 1000,
        "round_s": seconds,
        "checks_per_second": projects / seconds,
        "most_sockets": stats["most_open"],
    }


async def measure_gap(server: LoadServer, hanging: int, seconds: float = 60.0) -> dict[str, Any]:
    """Return the longest gap between two checks of a healthy project beside hanging ones."""

    async def read(conn_id: str) -> Settings:
        return Settings(api_key=KEY, base_url=server.url)

    watched = project_id("watched", 1000)
    ids = [*(project_id(f"hang{n}", 1000) for n in range(hanging)), watched]
    wait = WaitRequest("image", ids, time.time() + seconds + 60, 2.0)
    started = time.time()
    waiting = asyncio.ensure_future(wait_for_outcomes(wait, "c", read))
    await asyncio.sleep(seconds)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    times = (await asyncio.to_thread(server.control, f"/_times?id={watched}"))["times"]
    gaps = [later - earlier for earlier, later in zip([started, *times], times, strict=False)]
    return {"hanging": hanging, "interval_s": 2.0, "longest_gap_s": max(gaps), "checks": len(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--projects", type=int, default=10_000)
    parser.add_argument("--hanging", type=int, default=0)
    given = parser.parse_args()
    with load_server() as server:
        if given.hanging:
            found = asyncio.run(measure_gap(server, given.hanging))
        else:
            found = asyncio.run(measure(server, given.seconds, given.projects))
    print(json.dumps({**found, "load_average": os.getloadavg()[0]}, indent=2))


if __name__ == "__main__":
    main()

"""
Waits that come and go for minutes while one response in ten is wrong: none is lost, nothing leaks.

    python -m benchmarks.waiting.soak --seconds 300

Wrong are 5xx, resets, slow responses, cut responses and HTML pages. One wait in ten is canceled halfway.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import time
from typing import Any

from benchmarks.load_server import KEY, LoadServer, load_server, project_id
from benchmarks.probe import rss, sockets

#: Waits at any time, and how many projects each has.
AT_ONCE, EACH = 40, 25


async def one_after_another(ends: float, counts: dict[str, int]) -> None:
    """Wait for batch after batch of projects."""
    from airflow_provider_magichour.triggers import MagicHourProjectTrigger

    while (left := ends - time.time()) > 0:
        ids = [project_id(f"{random.random()}"[2:], random.uniform(0, min(left, 30))) for _ in range(EACH)]
        trigger = MagicHourProjectTrigger("image", ids, "magichour_soak", time.time() + 600)
        waiting = asyncio.ensure_future(anext(aiter(trigger.run())))
        if random.random() < 0.1:
            await asyncio.sleep(random.uniform(0, 10))
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            counts["canceled"] += EACH
            continue
        outcomes = (await waiting).payload["outcomes"]
        counts["complete"] += list(outcomes.values()).count("complete")
        counts["other"] += EACH - list(outcomes.values()).count("complete")


async def soak(server: LoadServer, seconds: float) -> dict[str, Any]:
    await asyncio.to_thread(server.control, "/_faults?share=0.1")
    counts = {"complete": 0, "canceled": 0, "other": 0}
    ends = time.time() + seconds
    workers = [asyncio.create_task(one_after_another(ends, counts)) for _ in range(AT_ONCE)]
    await asyncio.sleep(seconds / 5)  # warm: pools are full, code is loaded
    gc.collect()
    warm, most = rss(), 0
    while not all(worker.done() for worker in workers):
        most = max(most, sockets())
        await asyncio.sleep(0.5)
    await asyncio.gather(*workers)
    gc.collect()
    stats = await asyncio.to_thread(server.stats)
    await asyncio.sleep(0.5)
    return {
        "seconds": seconds,
        **counts,
        "requests": stats["requests"] + stats["statuses"].get("0", 0),
        "went_wrong": stats["statuses"].get("0", 0),
        "rss_growth_mib_since_warm": (rss() - warm) / 2**20,
        "most_sockets": most,
        "sockets_at_the_end": sockets(),
        "tasks_at_the_end": len(asyncio.all_tasks()) - 1,
    }


def run(seconds: float) -> dict[str, Any]:
    with load_server() as server:
        os.environ["AIRFLOW_CONN_MAGICHOUR_SOAK"] = json.dumps(
            {
                "conn_type": "magichour",
                "host": server.url,
                "password": KEY,
                "extra": {"requests_per_second": 300, "timeout": 10},
            }
        )
        return asyncio.run(soak(server, seconds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    print(json.dumps(run(parser.parse_args().seconds), indent=2))

"""
10,000 waits in one event loop: lag, memory, sockets, and what a 429 does to them.

    python -m benchmarks.waiting.scale TRIGGERS IDS_EACH

An event loop that runs the triggers' own ``run()`` as tasks stands in for the triggerer: to start 2,000 real
tasks takes hours on two cores. The triggers are rebuilt from their stored arguments, as a triggerer does.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import sys
import time
from typing import Any

from benchmarks.load_server import KEY, LoadServer, load_server, project_id
from benchmarks.probe import percentile, rss, sample_lag, sockets

#: Status checks a second that the connection allows.
RATE = 300
#: All 10,000 are checked within about this time, in seconds.
ROUND = 10_000 / RATE


def make_triggers(triggers: int, each: int, shortest: float, longest: float) -> list[Any]:
    from airflow_provider_magichour.triggers import MagicHourProjectTrigger

    made = []
    for number in range(triggers):
        ids = [project_id(f"{number}x{n}", random.uniform(shortest, longest)) for n in range(each)]
        trigger = MagicHourProjectTrigger("video", ids, "magichour_load", time.time() + 3600)
        made.append(MagicHourProjectTrigger(**json.loads(json.dumps(trigger.serialize()[1]))))
    return made


async def event_of(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload
    return None


async def measure(server: LoadServer, triggers: int, each: int) -> dict[str, Any]:
    await event_of(make_triggers(1, 5, 0, 0.1)[0])  # imports and first-time work
    gc.collect()
    before = rss()
    shortest = ROUND + 30
    running = [
        asyncio.create_task(event_of(one)) for one in make_triggers(triggers, each, shortest, shortest + 60)
    ]
    lags = asyncio.create_task(sample_lag(shortest - 10))
    await asyncio.sleep(ROUND + 10)  # every project was checked once
    growth = rss() - before
    held = sockets()
    await asyncio.to_thread(server.control, "/_pause?seconds=5")
    await asyncio.sleep(6)
    in_pause = (await asyncio.to_thread(server.stats))["asked_in_pause"]
    lags_now = await lags
    more_lags = asyncio.create_task(sample_lag(50))
    events = await asyncio.gather(*running)
    lags_now += await more_lags
    complete = sum(list(event["outcomes"].values()).count("complete") for event in events)
    stats = await asyncio.to_thread(server.stats)
    return {
        "triggers": triggers,
        "ids_each": each,
        "complete": complete,
        "lag_p50_ms": percentile(lags_now, 0.5) * 1000,
        "lag_p99_ms": percentile(lags_now, 0.99) * 1000,
        "lag_max_ms": max(lags_now) * 1000,
        "kib_per_project": growth / (triggers * each) / 1024,
        "sockets_of_the_process": held,
        "most_sockets_at_the_server": stats["most_open"],
        "asked_in_the_pause": len(in_pause),
        "asked_later_than_100_ms_into_it": sum(one > 0.1 for one in in_pause),
        "requests": stats["requests"],
    }


def main() -> None:
    triggers, each = int(sys.argv[1]), int(sys.argv[2])
    with load_server() as server:
        os.environ["AIRFLOW_CONN_MAGICHOUR_LOAD"] = json.dumps(
            {
                "conn_type": "magichour",
                "host": server.url,
                "password": KEY,
                "extra": {"requests_per_second": RATE},
            }
        )
        print(json.dumps(asyncio.run(measure(server, triggers, each)), indent=2))


if __name__ == "__main__":
    main()

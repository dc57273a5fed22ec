"""How many connections the poller and lists of calls use: as many as the latency of the API needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_magichour._client import api, concurrency
from airflow_provider_magichour._client.settings import Settings
from airflow_provider_magichour._client.transport import AsyncSender
from airflow_provider_magichour._polling import poller
from airflow_provider_magichour._polling.wait import wait_for_outcomes
from airflow_provider_magichour._polling.wait_request import WaitRequest
from airflow_provider_magichour.exceptions import MagicHourConnectionError
from benchmarks.load_server import KEY, LoadServer, load_server, project_id
from tests.support.senders import send_all


@pytest.fixture(scope="module")
def server() -> Iterator[LoadServer]:
    with load_server() as one:
        yield one


@pytest.fixture(autouse=True)
def _clean(server: LoadServer) -> Iterator[None]:
    yield
    server.control("/_latency?seconds=0")
    time.sleep(0.05)
    server.control("/_reset")


def settings(server: LoadServer, **more: Any) -> Settings:
    return Settings(api_key=KEY, base_url=server.url, **{"timeout": 60.0, **more})


def reader(server: LoadServer, **more: Any) -> Callable[[str], Any]:
    async def read(conn_id: str) -> Settings:
        return settings(server, **more)

    return read


def gets(count: int) -> list[api.Request]:
    return [api.get_project("image", project_id(n, 0)) for n in range(count)]


#: Where a busy machine delays the decisions, they are waited for. A fault waits in vain.
PATIENCE_SECONDS = 120


def test_rate_limit_is_what_limits_a_slow_api(server: LoadServer) -> None:
    server.control("/_latency?seconds=0.2")
    ends = time.monotonic() + PATIENCE_SECONDS
    while server.stats()["most_open"] <= 50:  # 16 connections make 80 calls a second, not 500
        assert time.monotonic() < ends
        assert all(isinstance(one, dict) for one in send_all(settings(server), gets(500)))
    assert server.stats()["most_open"] <= 100 + 1


def test_fast_api_needs_few_connections(server: LoadServer) -> None:
    server.control("/_latency?seconds=0.02")
    # 16 connections are enough for this rate, unless a machine adds 0.08 s to each latency.
    send_all(settings(server, requests_per_second=100.0), gets(200))
    assert server.stats()["most_open"] <= 16 + 1  # and the one that requests the figures


def test_max_connections_is_kept(server: LoadServer) -> None:
    server.control("/_latency?seconds=0.1")
    send_all(settings(server, max_connections=5), gets(30))
    assert server.stats()["most_open"] <= 5 + 1


def test_waiting_for_a_connection_does_not_count_against_a_request(server: LoadServer) -> None:
    server.control("/_latency?seconds=0.3")

    async def main() -> list[api.Response]:
        async with AsyncSender(settings(server, max_connections=1)) as sender:
            return await asyncio.gather(*(sender.attempt(call, 2.5) for call in gets(12)))

    assert [response.status for response in asyncio.run(main())] == [200] * 12  # the last one waits 3.3 s


def test_request_ends_after_the_connections_timeout(server: LoadServer) -> None:
    server.control("/_latency?seconds=30")

    async def main() -> None:
        async with AsyncSender(settings(server, timeout=0.5)) as sender:
            await sender.attempt(gets(1)[0], 60.0)

    with pytest.raises(MagicHourConnectionError, match="TimeoutError"):
        asyncio.run(main())


def test_connections_that_are_not_needed_any_more_are_closed(
    server: LoadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concurrency, "SHRINK_SECONDS", 0.3)

    async def main() -> tuple[int, int]:
        async with AsyncSender(settings(server, requests_per_second=2000.0)) as sender:

            async def work(calls: Iterator[api.Request]) -> None:
                for call in calls:
                    await sender.attempt(call)

            ends = time.monotonic() + PATIENCE_SECONDS
            while sender.connections.limit <= 32 and time.monotonic() < ends:
                queue = iter(gets(600))
                await asyncio.gather(*(work(queue) for _ in range(80)))
            grown = sender.connections.limit
            await asyncio.to_thread(server.control, "/_latency?seconds=0")
            ends = time.monotonic() + PATIENCE_SECONDS
            while sender.connections.limit > 16 and time.monotonic() < ends:
                queue = iter(gets(20))
                await asyncio.gather(*(work(queue) for _ in range(4)))
                await asyncio.sleep(0.1)
            still_open = (await asyncio.to_thread(server.stats))["open"]
            assert still_open <= 16 + 4, (grown, sender.connections.limit, still_open)
            return grown, sender.connections.limit

    server.control("/_latency?seconds=0.1")
    grown, shrunk = asyncio.run(main())
    assert grown > 32
    assert shrunk == 16


@pytest.mark.parametrize("hanging", [40, 150])
def test_hanging_projects_do_not_delay_a_healthy_one(
    server: LoadServer, monkeypatch: pytest.MonkeyPatch, hanging: int
) -> None:
    monkeypatch.setattr(concurrency, "SLOW_SECONDS", 0.4)  # a fifth of what users have, as the interval is
    watched = project_id("watched", 1000)
    ids = [*(project_id(f"hang{n}", 1000) for n in range(hanging)), watched]

    monkeypatch.setattr(poller, "CHECK_SECONDS", 300.0)  # who waits for a hanging check, waits in vain

    def checks() -> int:
        return len(server.control(f"/_times?id={watched}")["times"])

    async def main() -> int:
        wait = WaitRequest("image", ids, time.time() + 600, 0.2)
        waiting = asyncio.ensure_future(wait_for_outcomes(wait, "c", reader(server, timeout=600.0)))
        ends = time.monotonic() + PATIENCE_SECONDS
        while (found := await asyncio.to_thread(checks)) < 8 and time.monotonic() < ends:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return found

    assert asyncio.run(main()) >= 8
    assert server.stats()["most_open"] <= 100 + 1 + 1  # and the one that requests the times

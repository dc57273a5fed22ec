"""The poller that all waits of a connection share."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._client import api, transport
from airflow_provider_magichour._client.settings import Settings
from airflow_provider_magichour._polling.poller import Poller, WaitRequest
from airflow_provider_magichour._polling.schedule import OLD_CAP
from airflow_provider_magichour._polling.wait import wait_for_finished, wait_for_outcomes
from benchmarks.load_server import KEY as LOAD_KEY
from benchmarks.load_server import load_server, project_id
from tests.support.clock import run_in_own_time
from tests.support.projects import KEY, Projects, project
from tests.support.scripted_server import Reply

# ------------------------------------------------------------------------------ the poller, in no time


class Clockwork:
    """Magic Hour in memory, for loops that have their own time: projects that finish when told to."""

    def __init__(self, ends: dict[str, float]) -> None:
        self.ends = ends
        self.asked: Counter[str] = Counter()
        self.seen_late: dict[str, float] = {}
        self.made = time.time()

    def sender(self, settings: Settings) -> Any:
        backend = self

        class Sender:
            def __init__(self) -> None:
                self.settings = settings
                self.throttle = settings.throttle
                self.connections = SimpleNamespace(latency=0.05, limit=16)

            async def attempt(self, request: api.Request, time_limit: float | None = None) -> api.Response:
                await asyncio.sleep(0.05)
                one = request.path.rpartition("/")[2]
                backend.asked[one] += 1
                late = time.time() - backend.made - backend.ends[one]
                done = project(one, "complete" if late >= 0 else "rendering", type="NEW", created_at=None)
                if late >= 0:
                    backend.seen_late[one] = late
                return api.Response(200, {}, json.dumps(done).encode())

            async def close(self) -> None:
                pass

        return Sender()


def test_many_long_waits_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    source = random.Random(1)
    backend = Clockwork({f"p{n}": source.uniform(1, 7200) for n in range(60)})
    monkeypatch.setattr(transport, "AsyncSender", backend.sender)

    async def main() -> dict[str, str]:
        backend.made = time.time()
        wait = WaitRequest("video", backend.ends, time.time() + 8000)
        return await wait_for_outcomes(wait, "c", settings_of("http://127.0.0.1:9"))

    outcomes = run_in_own_time(monkeypatch, main)
    assert outcomes == dict.fromkeys(backend.ends, "complete")
    assert max(backend.seen_late.values()) < OLD_CAP * 1.05 + 40  # 16 at once, 0.05 s each
    assert sum(backend.asked.values()) < 60 * (7200 / 9.5) / 2
    assert not any(Poller._shared.values())


def test_each_wait_has_its_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Clockwork({"p1": 100.0})
    monkeypatch.setattr(transport, "AsyncSender", backend.sender)

    async def one(deadline: float) -> float:
        started = time.time()
        wait = WaitRequest("video", ["p1"], started + deadline)
        try:
            await wait_for_outcomes(wait, "c", settings_of("http://127.0.0.1:9"))
        except errors.MagicHourTimeoutError:
            return -(time.time() - started)
        return time.time() - started

    async def main() -> list[float]:
        backend.made = time.time()
        return await asyncio.gather(one(30.5), one(99.0), one(101.5), one(1000))

    short, shorter, just, long = run_in_own_time(monkeypatch, main)
    assert short == pytest.approx(-30.5, abs=0.1)  # and the last status check
    assert shorter == pytest.approx(-99, abs=0.1)
    assert 100 <= just < 101.5
    assert 100 <= long < 110


def test_clock_jump_past_the_deadline_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Clockwork({"p1": 1e6})
    monkeypatch.setattr(transport, "AsyncSender", backend.sender)

    async def main() -> float:
        started = asyncio.get_running_loop().time()
        wait = WaitRequest("video", ["p1"], time.time() + 3600)
        waiting = asyncio.ensure_future(wait_for_outcomes(wait, "c", settings_of("http://127.0.0.1:9")))
        await asyncio.sleep(100)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 7200)
        with pytest.raises(errors.MagicHourTimeoutError):
            await waiting
        return asyncio.get_running_loop().time() - started

    assert run_in_own_time(monkeypatch, main) <= 131


# ---------------------------------------------------------------------------- the poller, over sockets


def settings_of(url: str, key: str = KEY, **more: Any) -> Callable[[str], Any]:
    settings = Settings(
        **{"api_key": key, "base_url": url, "timeout": 30.0, "requests_per_second": 5000, **more}
    )

    async def read(conn_id: str) -> Settings:
        return settings

    return read


def wait_for(ids: Any, seconds: float = 120, **more: Any) -> WaitRequest:
    return WaitRequest("image", ids, time.time() + seconds, **{"poll_interval": 0.05, **more})


def test_two_waits_for_a_project_cost_one_request(projects: Projects) -> None:
    projects.script("p1", *[Reply(200, project("p1", "rendering"), delay=0.1)] * 3, "complete")
    read = settings_of(projects.server.url)

    async def main() -> Any:
        return await asyncio.gather(
            *(wait_for_outcomes(wait_for(["p1", f"q{n}"]), "c", read) for n in range(5))
        )

    found = asyncio.run(main())
    assert [one["p1"] for one in found] == ["complete"] * 5
    assert projects.asked["p1"] == 4


def test_each_connection_has_its_own_poller(projects: Projects) -> None:
    projects.keys = {"one", "two"}

    async def main() -> None:
        await asyncio.gather(
            wait_for_outcomes(wait_for(["p1"]), "one", settings_of(projects.server.url, "one")),
            wait_for_outcomes(wait_for(["p1"]), "two", settings_of(projects.server.url, "two")),
        )

    asyncio.run(main())
    used = Counter(seen.headers["authorization"] for seen in projects.server.seen)
    assert used == {"Bearer one": 1, "Bearer two": 1}


@pytest.mark.filterwarnings("error")
def test_several_event_loops_leave_no_poller_behind(projects: Projects) -> None:
    read = settings_of(projects.server.url)
    found: list[dict[str, str]] = []

    def work(number: int) -> None:
        projects.script(f"p{number}", "rendering", "complete")
        found.append(asyncio.run(wait_for_outcomes(wait_for([f"p{number}"]), "c", read)))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found, key=str) == [{f"p{n}": "complete"} for n in range(4)]
    assert not any(Poller._shared.values())


def test_many_waits_share_few_sockets() -> None:
    with load_server() as server:
        ids = [project_id(n, random.Random(n).uniform(0, 1)) for n in range(300)]
        # A slow machine makes the API slow, and then more than 100 calls a second need more connections.
        read = settings_of(server.url, LOAD_KEY, requests_per_second=100)

        async def main() -> Any:
            chunks = [ids[n : n + 5] for n in range(0, 300, 5)]
            waits = (wait_for_outcomes(wait_for(chunk, poll_interval=0.3), "c", read) for chunk in chunks)
            return await asyncio.gather(*waits)

        outcomes = asyncio.run(main())
        assert sum(len(one) for one in outcomes) == 300
        stats = server.stats()
    assert stats["most_open"] <= 16 + 1  # and the one that requests the figures
    assert stats["opened"] <= 16 + 1


def test_429_pauses_all_waits() -> None:
    with load_server() as server:
        ids = [project_id(n, 5) for n in range(300)]
        read = settings_of(server.url, LOAD_KEY, requests_per_second=500)

        async def main() -> None:
            waits = [wait_for_outcomes(wait_for(ids[n::10]), "c", read) for n in range(10)]
            waiting = asyncio.gather(*waits)
            while (await asyncio.to_thread(server.stats))["requests"] < 50:  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.05)
            await asyncio.to_thread(server.control, "/_pause?seconds=4")
            await waiting

        asyncio.run(main())
        asked = server.stats()["asked_in_pause"]
    assert asked
    assert len(asked) <= 100  # those that were in progress, of 300
    assert max(asked) < 3


def test_huge_retry_after_does_not_move_the_deadline(projects: Projects) -> None:
    projects.script("p1", Reply(429, {"message": "no"}, {"Retry-After": "999999999"}))
    started = time.monotonic()
    with pytest.raises(errors.MagicHourTimeoutError, match="429"):
        asyncio.run(wait_for_outcomes(wait_for(["p1"], 1), "c", settings_of(projects.server.url)))
    assert time.monotonic() - started < 60
    assert projects.asked["p1"] == 1


class Rotating:
    """A connection whose key changes."""

    def __init__(self, url: str, *keys: str) -> None:
        self.keys = itertools.chain(keys, itertools.repeat(keys[-1]))
        self.settings = Settings(api_key="", base_url=url, timeout=30, requests_per_second=5000)
        self.read = 0

    async def __call__(self, conn_id: str) -> Settings:
        self.read += 1
        return dataclasses.replace(self.settings, api_key=next(self.keys))


def test_connection_is_read_again_once_after_a_401_for_all_waits(projects: Projects) -> None:
    ids = [f"p{n}" for n in range(100)]
    read = Rotating(projects.server.url, "old", KEY)
    assert set(asyncio.run(wait_for_outcomes(wait_for(ids), "c", read)).values()) == {"complete"}
    assert read.read == 2


def test_key_that_stays_wrong_fails_all_waits(projects: Projects) -> None:
    ids = [f"p{n}" for n in range(100)]
    read = Rotating(projects.server.url, "old", "old too")

    async def main() -> list[Any]:
        waits = (wait_for_outcomes(wait_for(ids[n::4]), "c", read) for n in range(4))
        return await asyncio.gather(*waits, return_exceptions=True)

    assert [type(one) for one in asyncio.run(main())] == [errors.MagicHourAuthenticationError] * 4
    assert sum(projects.asked.values()) <= 2 * 100
    assert read.read <= 1 + 4  # once more for each wait that came later, and once for the 401


def test_unreadable_connection_does_not_end_a_wait(
    projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.refreshing_sender.REREAD_PAUSE", 0.1)
    reads = iter(["old", OSError("the vault is away"), OSError("still away"), KEY])
    ids = [f"p{n}" for n in range(100)]

    async def read(conn_id: str) -> Any:
        key = next(reads)
        if isinstance(key, OSError):
            raise key
        return await settings_of(projects.server.url, key)(conn_id)

    assert set(asyncio.run(wait_for_outcomes(wait_for(ids), "c", read)).values()) == {"complete"}


def test_unusable_connection_after_a_401_is_a_401(projects: Projects) -> None:
    reads = iter(["old", None])

    async def read(conn_id: str) -> Any:
        if key := next(reads):
            return await settings_of(projects.server.url, key)(conn_id)
        raise errors.MagicHourArgumentError("The connection has no API key")

    with pytest.raises(errors.MagicHourAuthenticationError):
        asyncio.run(wait_for_outcomes(wait_for(["p1"]), "c", read))


def test_short_secrets_backend_outage_fails_no_wait(
    projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.wait.JOIN_PAUSES", (0.01, 0.01))
    good = settings_of(projects.server.url)
    reads = iter([OSError("away"), OSError("still away"), None])

    async def read(conn_id: str) -> Any:
        if error := next(reads):
            raise error
        return await good(conn_id)

    assert asyncio.run(wait_for_outcomes(wait_for(["p1"]), "c", read)) == {"p1": "complete"}
    reads = iter([OSError("away")] * 3)
    with pytest.raises(errors.MagicHourConnectionError, match="connection could not be read"):
        asyncio.run(wait_for_outcomes(wait_for(["p1"]), "c", read))


def test_hanging_secrets_backend_does_not_move_the_deadline(
    projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.wait.MIN_JOIN_SECONDS", 0.5)

    async def read(conn_id: str) -> Any:
        await asyncio.sleep(60)

    with pytest.raises(errors.MagicHourTimeoutError):
        asyncio.run(wait_for_outcomes(wait_for(["p1"], 0.5), "c", read))
    assert not any(Poller._shared.values())


def test_last_check_is_repeated_where_it_fails(projects: Projects) -> None:
    projects.script("p1", Reply(500), Reply(drop=True), "complete")
    wait = wait_for(["p1"], -60)
    assert asyncio.run(wait_for_outcomes(wait, "c", settings_of(projects.server.url))) == {"p1": "complete"}


def test_last_check_is_not_repeated_for_ever(projects: Projects) -> None:
    projects.script("p1", Reply(503, {"message": "overloaded"}))
    with pytest.raises(errors.MagicHourTimeoutError, match="overloaded"):
        asyncio.run(wait_for_outcomes(wait_for(["p1"], -60), "c", settings_of(projects.server.url)))
    assert projects.asked["p1"] <= 4


def test_new_wait_uses_the_new_key(projects: Projects) -> None:
    read = Rotating(projects.server.url, KEY, "new")
    projects.keys = {KEY, "new"}
    projects.script("p1", *["rendering"] * 10, "complete")

    async def main() -> None:
        old = asyncio.ensure_future(wait_for_outcomes(wait_for(["p1"]), "c", read))
        await asyncio.sleep(0.2)
        await wait_for_outcomes(wait_for(["p2"]), "c", read)
        await old

    asyncio.run(main())
    key = {seen.path.rpartition("/")[2]: seen.headers["authorization"] for seen in projects.server.seen}
    assert key["p2"] == "Bearer new"


@pytest.mark.parametrize("made", [None, "garbage", "2999-01-01T00:00:00Z", "1999-01-01T00:00:00Z", 7])
def test_odd_created_at_does_not_stop_a_wait(projects: Projects, made: object) -> None:
    projects.script("p1", project("p1", "rendering", created_at=made), "complete")
    wait = wait_for(["p1"])
    assert asyncio.run(wait_for_outcomes(wait, "c", settings_of(projects.server.url))) == {"p1": "complete"}


def test_new_project_is_not_checked_before_it_can_be_ready(projects: Projects) -> None:
    wait = WaitRequest("video", ["p1"], time.time() + 1.5, typical_seconds=800, submitted_at=time.time())
    projects.script("p1", "rendering")
    with pytest.raises(errors.MagicHourTimeoutError):
        asyncio.run(wait_for_outcomes(wait, "c", settings_of(projects.server.url)))
    assert projects.asked["p1"] <= 2  # just before the deadline, and at it


def test_failed_status_checks_do_not_flood_the_log(
    projects: Projects, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(50):
        projects.script(f"p{number}", *[Reply(500)] * 3, "complete")
    ids = [f"p{n}" for n in range(50)]
    with caplog.at_level(logging.INFO):
        asyncio.run(wait_for_outcomes(wait_for(ids), "c", settings_of(projects.server.url)))
    assert 1 <= len([r for r in caplog.records if "status check(s) failed" in r.getMessage()]) <= 2
    assert len(caplog.records) < 10


def test_wait_works_on_a_thread_with_a_running_loop(projects: Projects) -> None:
    async def main() -> Any:
        read = settings_of(projects.server.url)
        return wait_for_finished(wait_for(["p1"]), "c", read)

    outcomes, found = asyncio.run(main())
    assert outcomes == {"p1": "complete"}
    assert found == {"p1": project("p1")}

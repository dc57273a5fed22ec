from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from airflow_provider_magichour._client.throttle import Throttle
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.clock import run_in_own_time
from tests.support.scripted_server import Reply, scripted_server


def test_calls_are_spaced_evenly_over_threads():
    throttle = Throttle(requests_per_second=100)
    turns: list[float] = []
    started = time.monotonic()

    def take():
        for _ in range(5):
            throttle.acquire()
            turns.append(time.monotonic())

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(turns) - started >= 0.19  # 20 turns, 10 ms apart


def test_pause_applies_to_waiting_callers(monkeypatch):
    async def run():
        throttle = Throttle(requests_per_second=20)
        waiters = [asyncio.create_task(throttle.acquire_async()) for _ in range(6)]
        await asyncio.sleep(0.12)
        sent_before = sum(waiter.done() for waiter in waiters)
        throttle.pause(0.5)
        await asyncio.sleep(0.3)
        sent_in_the_pause = sum(waiter.done() for waiter in waiters) - sent_before
        await asyncio.gather(*waiters)
        return sent_before, sent_in_the_pause

    sent_before, sent_in_the_pause = run_in_own_time(monkeypatch, run)
    assert sent_before == 3
    assert sent_in_the_pause == 0


def test_shorter_pause_does_not_end_a_longer_one():
    throttle = Throttle(requests_per_second=1000)
    started = time.monotonic()
    throttle.pause(0.3)
    throttle.pause(0.01)
    throttle.acquire()
    assert time.monotonic() - started >= 0.29


def test_hooks_uploads_and_waits_share_one_rate(connect, tmp_path):
    arrived: list[float] = []

    def reply(seen):
        if seen.method == "PUT":  # the bytes go to the file host, which has no part in it
            return Reply()
        arrived.append(time.monotonic())
        if seen.path.endswith("upload-urls"):
            items = [{"upload_url": f"{server.url}/put", "expires_at": "x", "file_path": "api-assets/x.png"}]
            return Reply(body={"items": items})
        return Reply(body={"id": seen.path.rpartition("/")[2], "status": "complete"})

    (tmp_path / "face.png").write_bytes(b"png")
    with scripted_server() as server:
        server.respond = reply
        connect(server.url, "mhk_live_key", requests_per_second=20)
        hooks = [MagicHourHook() for _ in range(4)]
        hooks[0].upload_file(tmp_path / "face.png")  # what is imported first takes longer than the calls
        hooks[0].wait_for_project("image", "d", 30)
        arrived.clear()
        started = time.monotonic()
        work = [lambda hook=hook: hook.get_project("image", "a") for hook in hooks]
        work += [lambda hook=hook: hook.get_project("image", ["b", "c"]) for hook in hooks]
        work += [lambda hook=hook: hook.wait_for_project("image", "d", 30) for hook in hooks]
        work += [lambda hook=hook: hook.upload_file(tmp_path / "face.png") for hook in hooks]
        with ThreadPoolExecutor(len(work)) as executor:
            for future in [executor.submit(one) for one in work]:
                future.result()
    assert len(arrived) == 20
    assert max(arrived) - started >= 19 * 0.05  # 20 calls, 50 ms apart


def test_pause_of_one_hook_applies_to_the_others(connect, monkeypatch):
    with scripted_server() as server:
        connect(server.url, "mhk_live_key")
        refused_at: list[float] = []
        allowed_at: list[float] = []
        paused = threading.Event()

        def reply(seen):
            if not refused_at:
                refused_at.append(time.monotonic())
                return Reply(429, {"message": "slow down"}, {"Retry-After": "1"})
            allowed_at.append(time.monotonic())
            return Reply(body={"id": "a"})

        def pause(throttle, seconds):
            pause_of(throttle, seconds)
            paused.set()

        pause_of = Throttle.pause
        monkeypatch.setattr(Throttle, "pause", pause)
        server.respond = reply
        first = threading.Thread(target=lambda: MagicHourHook().get_project("image", "a"))
        first.start()
        assert paused.wait(60)  # the first hook has read its response
        MagicHourHook().get_project("image", ["a", "a"])
        first.join()
    assert len(allowed_at) == 3
    assert min(allowed_at) - refused_at[0] >= 1


def test_pause_is_logged_once_for_all_calls_that_were_refused_together(caplog):
    throttle = Throttle(requests_per_second=1000)
    for _ in range(5):
        throttle.pause(30)
    assert [record.getMessage() for record in caplog.records] == [
        "Rate limited (429): all calls of this process over the connection pause 30 s"
    ]

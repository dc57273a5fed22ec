from __future__ import annotations

import asyncio
import threading
import time

from airflow_provider_magichour._client.throttle import Throttle


def test_turns_are_spaced_evenly_over_threads():
    throttle = Throttle(requests_per_second=100)
    turns: list[float] = []

    def take():
        for _ in range(5):
            throttle.wait_turn()
            turns.append(time.monotonic())

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(turns) - min(turns) >= 0.18  # 20 turns, 10 ms apart


def test_a_pause_holds_back_those_who_wait_already():
    async def run():
        throttle = Throttle(requests_per_second=20)
        waiters = [asyncio.create_task(throttle.wait_turn_async()) for _ in range(6)]
        await asyncio.sleep(0.12)
        sent_before = sum(waiter.done() for waiter in waiters)
        throttle.pause(0.5)
        await asyncio.sleep(0.3)
        sent_in_the_pause = sum(waiter.done() for waiter in waiters) - sent_before
        await asyncio.gather(*waiters)
        return sent_before, sent_in_the_pause

    sent_before, sent_in_the_pause = asyncio.run(run())
    assert sent_before >= 1
    assert sent_in_the_pause == 0


def test_a_shorter_pause_does_not_end_a_longer_one():
    throttle = Throttle(requests_per_second=1000)
    started = time.monotonic()
    throttle.pause(0.3)
    throttle.pause(0.01)
    throttle.wait_turn()
    assert time.monotonic() - started >= 0.29

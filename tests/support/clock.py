"""An event loop with its own clock, so that a wait of hours takes no time."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        """Find the ready events. If there are none, advance the clock by the loop's sleep."""
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("the loop would sleep for ever")
        if not ready and timeout:
            self.now += timeout
        return ready


def run_in_own_time(monkeypatch: pytest.MonkeyPatch, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function in a loop whose clock, and ``time.time`` with it, only moves by sleeping."""
    selector = _Selector()
    loop = asyncio.SelectorEventLoop(selector)
    started, began = selector.now, time.time()
    monkeypatch.setattr(loop, "time", lambda: selector.now)
    monkeypatch.setattr(time, "time", lambda: began + selector.now - started)
    monkeypatch.setattr(time, "monotonic", lambda: selector.now)
    try:
        return loop.run_until_complete(main())
    finally:
        monkeypatch.undo()
        loop.close()

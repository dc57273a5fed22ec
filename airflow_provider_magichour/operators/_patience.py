"""Repeats calls that Magic Hour certainly did not accept, until the task's time is over or the task ends."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_magichour._client import api
from airflow_provider_magichour.exceptions import (
    MagicHourConnectionError,
    MagicHourError,
    MagicHourRateLimitError,
    MagicHourServerError,
)

if TYPE_CHECKING:
    from airflow_provider_magichour.hooks import MagicHourHook

T = TypeVar("T")

log = logging.getLogger(__name__)

#: The first and the longest pause after a 429 without ``Retry-After``, in seconds.
FIRST_LIMIT_PAUSE, MAX_LIMIT_PAUSE = 2.0, 30.0


class Patience:
    """
    Repeats the calls of one task.

    :param stopping: ends all pauses when it is set.
    """

    def __init__(self, hook: MagicHourHook, stopping: threading.Event) -> None:
        self._hook = hook
        self._stopping = stopping
        #: When to stop after a 429, on the monotonic clock.
        self.deadline = 0.0

    def repeat(self, call: Callable[[], T]) -> T:
        """
        Make a call until it succeeds, and return its result.

        After a 429 it is repeated until the deadline. If there is no connection, or after a 5xx, it is
        repeated as often as the connection allows.
        """
        limited = failed = 0
        while True:
            try:
                return call()
            except MagicHourRateLimitError as error:
                pause = _limit_pause(error, limited)
                limited += 1
                if time.monotonic() + pause > self.deadline:
                    raise
                refusal: MagicHourError = error
            except (MagicHourConnectionError, MagicHourServerError) as error:
                failed += 1
                retry_pause = self._retry_pause(error, failed)
                if retry_pause is None:
                    raise
                pause, refusal = retry_pause, error
            log.info("%s. Trying again in %.1f s.", refusal, pause)
            if self._stopping.wait(pause):
                raise refusal

    def read_account(self) -> Any:
        """Ask for the account once."""
        self._hook.wait_for_rate_limit(self._stopping)
        return self._hook.send_once(api.get_account())

    def _retry_pause(
        self, error: MagicHourConnectionError | MagicHourServerError, attempts: int
    ) -> float | None:
        """Return the seconds until a call is sent again that was certainly not accepted; None for never."""
        from airflow_provider_magichour._client import retry

        asked = getattr(error, "retry_after", None) or 0.0
        if attempts >= self._hook.settings.max_attempts or asked > retry.MAX_RETRY_AFTER:
            return None
        return retry.retry_wait(attempts, asked, random.random())


def _limit_pause(error: MagicHourRateLimitError, attempts: int) -> float:
    """Return the seconds until a call is sent again after a 429."""
    pause = min(FIRST_LIMIT_PAUSE * 2.0 ** min(attempts, 10), MAX_LIMIT_PAUSE)
    return max(pause * random.uniform(0.5, 1.0), error.retry_after or 0.0)

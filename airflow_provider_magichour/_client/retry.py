"""The retry policy of both senders, which tenacity implements."""

from __future__ import annotations

import logging
import random
from datetime import UTC, datetime
from typing import Any

import tenacity

from airflow_provider_magichour._client import api
from airflow_provider_magichour._client.throttle import Throttle
from airflow_provider_magichour.exceptions import MagicHourConnectionError

log = logging.getLogger(__name__)

#: The first and the longest pause between two tries, in seconds. Each is random, from 0 to twice the last
#: one.
BACKOFF_FIRST, BACKOFF_CAP = 1.0, 60.0
#: The longest ``Retry-After`` that a call waits for, in seconds. If it is longer, the call fails.
MAX_RETRY_AFTER = 300.0


def retry_wait(attempt: int, retry_after: float | None, draw: float) -> float:
    """
    Return the seconds to wait before the next try: exponential backoff with full jitter.

    :param attempt: how many tries were made.
    :param retry_after: the seconds that the response requested, which are the minimum.
    :param draw: a random number from 0 to 1.
    """
    ceiling = min(BACKOFF_CAP, BACKOFF_FIRST * 2.0 ** min(attempt - 1, 30))
    return max(ceiling * draw, retry_after or 0.0)


def policy(request: api.Request, max_attempts: int, throttle: Throttle) -> dict[str, Any]:
    """
    Return the arguments of tenacity's ``Retrying`` and ``AsyncRetrying``.

    :param request: the call. If it may cost credits, it is sent again only if it was not accepted.
    :param max_attempts: tries that the call may take.
    :param throttle: paused when a 429 requests it.
    """

    def retry_after(state: tenacity.RetryCallState) -> float | None:
        if state.outcome is None or state.outcome.failed:
            return None
        return api.retry_after_seconds(state.outcome.result(), datetime.now(UTC))

    def wait(state: tenacity.RetryCallState) -> float:
        asked = retry_after(state)
        if asked and state.outcome is not None and state.outcome.result().status == 429:
            throttle.pause(min(asked, MAX_RETRY_AFTER))
        return retry_wait(state.attempt_number, asked, random.random())

    def say(state: tenacity.RetryCallState) -> None:
        if state.outcome is None:
            return
        what = state.outcome.exception() or f"{request} returned {state.outcome.result().status}"
        log.warning(
            "%s; trying again in %.1f s (try %d of %d)",
            what,
            state.upcoming_sleep,
            state.attempt_number + 1,
            max_attempts,
        )

    return {
        "retry": tenacity.retry_if_exception_type(MagicHourConnectionError)
        | tenacity.retry_if_result(lambda response: api.may_send_again(request, response)),
        "wait": wait,
        "stop": lambda state: (
            state.attempt_number >= max_attempts or (retry_after(state) or 0.0) > MAX_RETRY_AFTER
        ),
        "before_sleep": say,
        "retry_error_callback": lambda state: state.outcome.result(),
    }

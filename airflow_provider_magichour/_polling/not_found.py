"""
When a 404 is certain, and ends a wait.

Magic Hour returns it also of a project that was made a moment ago, of one that is of another kind, and to
another account's key. So it counts only when it has been the only response for a minute.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_provider_magichour._client.kinds import find_not_found_reason
from airflow_provider_magichour._polling.status import StatusCheck
from airflow_provider_magichour.exceptions import MagicHourNotFoundError, MagicHourWrongKindError
from airflow_provider_magichour.tools import KINDS

if TYPE_CHECKING:
    from airflow_provider_magichour._client.transport import AsyncSender
    from airflow_provider_magichour._polling.wait_request import PolledProject

#: A 404 is certain when it has been the only response for this many seconds.
CERTAIN_SECONDS = 60.0
#: The longest interval between status checks of a project that returns 404, in seconds.
MAX_INTERVAL = 10.0


async def decide_not_found(
    project: PolledProject, error: MagicHourNotFoundError, sender: AsyncSender, seconds: float
) -> StatusCheck:
    """
    Decide what a 404 means: another kind, a project that lags behind its submit, or none at all.

    :param error: the 404.
    :param sender: asks for the project under the other kinds.
    :param seconds: how long that may take.
    """
    now = time.time()
    if project.not_found_since is None:
        project.not_found_since = now
        if project.kind in KINDS:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    reason = await find_not_found_reason(sender, project.kind, project.project_id)
                    if isinstance(reason, MagicHourWrongKindError):
                        return StatusCheck(error=reason)
    missing = now - project.not_found_since
    if missing < CERTAIN_SECONDS:
        return StatusCheck(transient_error=error)
    message = f"{error.message} (the only response for {missing:.0f} s)"
    return StatusCheck(error=MagicHourNotFoundError(404, message, error.call))


def not_found_delay(project: PolledProject, delay: float, now: float) -> float:
    """Return the seconds until the next check, so that a 404 is certain in time."""
    if project.not_found_since is None:
        return delay
    return max(min(delay, MAX_INTERVAL, project.not_found_since + CERTAIN_SECONDS - now), 0.0)

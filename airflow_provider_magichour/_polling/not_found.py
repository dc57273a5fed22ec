"""
Decides when a 404 ends a wait.

Magic Hour also returns 404 for a new project, for a project of another kind, and for the key of another
account. Therefore a 404 counts only if it was the only response for a minute.
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

#: A 404 counts if it was the only response for this many seconds.
CERTAIN_SECONDS = 60.0
#: The longest interval between status checks of a project that returns 404, in seconds.
MAX_INTERVAL = 10.0


async def decide_not_found(
    project: PolledProject, error: MagicHourNotFoundError, sender: AsyncSender, seconds: float
) -> StatusCheck:
    """
    Decide what a 404 means: another kind, a project that is not readable yet, or no such project.

    :param sender: requests the project under the other kinds.
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
    """Return the seconds until the next check, so that the decision about a 404 comes in time."""
    if project.not_found_since is None:
        return delay
    return max(min(delay, MAX_INTERVAL, project.not_found_since + CERTAIN_SECONDS - now), 0.0)

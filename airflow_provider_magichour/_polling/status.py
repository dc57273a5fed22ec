"""One look at a project: what an answer means, the same for every way to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour._client import api
from airflow_provider_magichour.exceptions import (
    MagicHourApiError,
    MagicHourAuthenticationError,
    MagicHourConnectionError,
    MagicHourError,
    MagicHourNotFoundError,
    MagicHourPermissionError,
)

if TYPE_CHECKING:
    from airflow_provider_magichour._client.settings import Settings
    from airflow_provider_magichour._client.transport import AsyncSender

#: Looks under way at once, over as many kept connections at most.
MAX_CHECKS = 16
#: Answers that no further look will change, where they are Magic Hour's own and not a proxy's web page.
FINAL_ERRORS = (MagicHourAuthenticationError, MagicHourPermissionError, MagicHourNotFoundError)


@dataclass(frozen=True, slots=True)
class StatusCheck:
    """
    What one look at a project found; none of it set means that the project is not finished yet.

    :param outcome: how the project ended: ``complete``, ``error``, ``canceled`` or ``deleted``.
    :param project: the project, where the answer was one.
    :param error: what ends the wait: the key, the plan or the id is wrong.
    :param blip: what went wrong with this look alone; the next one may find more.
    :param retry_after: seconds that the answer asked to wait.
    :param next_in: seconds until the project is looked at again, for the log.
    """

    outcome: str | None = None
    project: Mapping[str, Any] | None = None
    error: MagicHourApiError | None = None
    transient_error: MagicHourError | None = None
    retry_after: float | None = None
    next_in: float | None = None


def classify_response(request: api.Request, answer: api.Response | MagicHourConnectionError) -> StatusCheck:
    """
    Tell what an answer to :func:`api.get_project` means for a wait: the one judgement of every mode.

    :param request: the call.
    :param answer: what came of it, one try without a retry.
    """
    if isinstance(answer, MagicHourConnectionError):
        return StatusCheck(transient_error=answer)
    try:
        project = api.result(request, answer)
    except MagicHourError as error:
        if isinstance(error, FINAL_ERRORS) and error.is_own:
            return StatusCheck(error=error)
        return StatusCheck(
            transient_error=error, retry_after=api.retry_after_seconds(answer, datetime.now(UTC))
        )
    if "status" not in project:
        said = f"without a status: {api.quoted_message(answer)!r}"
        return StatusCheck(transient_error=MagicHourApiError(answer.status, said, str(request)))
    outcome = project["status"] if api.is_finished(project) else None
    return StatusCheck("deleted" if project.get("enabled") is False else outcome, project)


async def check_all(settings: Settings, kind: str, project_ids: Iterable[str]) -> dict[str, StatusCheck]:
    """
    Look once at each project, side by side.

    :param settings: how to reach Magic Hour.
    :param kind: the kind of all of them.
    :param project_ids: the projects.
    """
    from airflow_provider_magichour._client.transport import AsyncSender

    checks: dict[str, StatusCheck] = {}
    queue = iter(project_ids)

    async def work(sender: AsyncSender) -> None:
        for project_id in queue:
            request = api.get_project(kind, project_id)
            try:
                checks[project_id] = classify_response(request, await sender.attempt(request))
            except MagicHourConnectionError as error:
                checks[project_id] = StatusCheck(transient_error=error)

    async with AsyncSender(settings) as sender:
        await asyncio.gather(*(work(sender) for _ in range(MAX_CHECKS)))
    return checks

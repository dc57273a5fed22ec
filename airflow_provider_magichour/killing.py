"""Deletes the projects of a task that was killed: best effort, and soon over."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour import api
from airflow_provider_magichour.exceptions import MagicHourError, MagicHourNotFoundError

if TYPE_CHECKING:
    from airflow_provider_magichour.transport import Settings

#: How long a kill may be held up, in seconds.
MAX_SECONDS = 10.0


def warn_where_unseen(logger: Any) -> None:
    """Say so where Airflow is too old to tell a trigger that its task was killed."""
    from airflow import __version__
    from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

    if not AIRFLOW_V_3_3_PLUS:
        logger.warning(
            "delete_on_kill needs Airflow 3.3 or newer for a deferred task; this is %s, so a task that is "
            "killed while it is deferred leaves its projects at Magic Hour. With deferrable=False they are "
            "deleted.",
            __version__,
        )


async def delete_killed(settings: Settings, kind: str, project_ids: Sequence[str], logger: Any) -> None:
    """
    Delete projects, each tried twice at most.

    :param settings: how to reach Magic Hour.
    :param kind: the kind of the projects.
    :param project_ids: the projects; one that is gone already is done.
    :param logger: told what was deleted and what was not. Nothing is raised.
    """
    from airflow_provider_magichour.transport import AsyncSender

    hasty = dataclasses.replace(settings, timeout=min(settings.timeout, MAX_SECONDS / 2), max_attempts=2)

    async def delete(sender: AsyncSender, project_id: str) -> None:
        try:
            await sender.send(api.delete_project(kind, project_id))
        except MagicHourError as error:
            if not (isinstance(error, MagicHourNotFoundError) and error.is_own):
                logger.warning("The task was killed, but project %s was not deleted: %s", project_id, error)
                return
        left.discard(project_id)
        logger.info("The task was killed: project %s is deleted.", project_id)

    left = set(project_ids)
    try:
        async with asyncio.timeout(MAX_SECONDS), AsyncSender(hasty) as sender:
            await asyncio.gather(*(delete(sender, project_id) for project_id in project_ids))
    except TimeoutError:
        logger.warning("The task was killed, but not deleted in time: %s", ", ".join(sorted(left)))

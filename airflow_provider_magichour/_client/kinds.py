"""Says of what kind a project is that Magic Hour does not know under the kind that was given."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour._client import api
from airflow_provider_magichour.exceptions import (
    MagicHourError,
    MagicHourNotFoundError,
    MagicHourWrongKindError,
)
from airflow_provider_magichour.tools import KINDS

if TYPE_CHECKING:
    from airflow_provider_magichour._client.transport import AsyncSender


def other_kinds(kind: str, project_id: str) -> list[api.Request]:
    """Return the calls that ask for a project under the other kinds."""
    return [api.get_project(other, project_id) for other in KINDS if other != kind]


def not_found_reason(kind: str, project_id: str, results: Iterable[Any]) -> MagicHourError | None:
    """
    Return what a 404 means in truth, None if there is no such project under any kind.

    :param kind: the kind under which the project was not found.
    :param project_id: the project.
    :param results: what the calls of :func:`other_kinds` returned, or their errors.
    """
    unknown = None
    for other, result in zip([other for other in KINDS if other != kind], results, strict=True):
        if isinstance(result, Mapping) and result.get("id") == project_id:
            return MagicHourWrongKindError(project_id, kind, other)
        if isinstance(result, MagicHourError) and not isinstance(result, MagicHourNotFoundError):
            unknown = result
    return unknown


def not_gone_reason(response: Any) -> str | None:
    """
    Return why a project is not gone although its deletion returned 404; None if it is gone.

    A gateway that refuses DELETE may respond with 404 in Magic Hour's own form, too.

    :param response: what the call that asks for the project returned, or the error.
    """
    if isinstance(response, Mapping) and response.get("enabled") is not False:
        return "the response to its deletion was 404, but it is there: check what is on the way"
    if isinstance(response, MagicHourError) and not isinstance(response, MagicHourNotFoundError):
        return f"the response to its deletion was 404, and whether it is there is not known: {response}"
    return None


async def find_not_found_reason(sender: AsyncSender, kind: str, project_id: str) -> MagicHourError | None:
    """Ask for a project under the other kinds, and return what :func:`not_found_reason` makes of it."""
    calls = other_kinds(kind, project_id)
    results = await asyncio.gather(*(sender.send(call) for call in calls), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, MagicHourError):
            raise result
    return not_found_reason(kind, project_id, results)

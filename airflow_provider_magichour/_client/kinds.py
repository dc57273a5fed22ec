"""Finds the real kind of a project that Magic Hour does not know under the given kind."""

from __future__ import annotations

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
    """Return the calls that request a project under the other kinds."""
    return [api.get_project(other, project_id) for other in KINDS if other != kind]


def not_found_reason(kind: str, project_id: str, results: Iterable[Any]) -> MagicHourError | None:
    """
    Return the real reason of a 404, or None if the project exists under no kind.

    :param kind: the kind under which the project was not found.
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
    Return why a project still exists although its deletion returned 404, or None if it is deleted.

    A gateway that refuses DELETE may respond with 404 in Magic Hour's own form, too.

    :param response: what the call that requests the project returned, or the error.
    """
    if isinstance(response, Mapping) and response.get("enabled") is not False:
        return "the response to its deletion was 404, but it is there: check what is on the way"
    if isinstance(response, MagicHourError) and not isinstance(response, MagicHourNotFoundError):
        return f"the response to its deletion was 404, and whether it is there is not known: {response}"
    return None


async def find_not_found_reason(sender: AsyncSender, kind: str, project_id: str) -> MagicHourError | None:
    """Request a project under the other kinds, and return what :func:`not_found_reason` makes of it."""
    from airflow_provider_magichour._client.transport import send_each

    calls = other_kinds(kind, project_id)
    return not_found_reason(kind, project_id, await send_each(sender.send, calls, len(calls)))

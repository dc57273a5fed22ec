"""What a webhook says: pure functions from a verified body to an event, and its asset's URI."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from airflow_provider_magichour._client.sanitize import parse_json
from airflow_provider_magichour._validation import check_id
from airflow_provider_magichour.exceptions import MagicHourArgumentError
from airflow_provider_magichour.tools import KINDS

#: What can happen to a project. A canceled one sends no event.
HAPPENINGS = ("started", "completed", "errored")


class MalformedEventError(Exception):
    """A verified body that is no event. The text is for our own log only."""


@dataclass(frozen=True)
class Event:
    """
    One delivery.

    :param type: such as ``video.completed``.
    :param kind: ``image``, ``video`` or ``audio``; None for a type that this version does not know.
    :param what: one of :data:`HAPPENINGS`.
    :param project_id: the project.
    :param project: its details, as the API gives them.
    """

    type: str
    kind: str | None = None
    what: str = ""
    project_id: str = ""
    project: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return what tells a delivery from others; Magic Hour gives it no id."""
        return f"{self.type}:{self.project_id}"


def asset_uri(kind: str, what: str) -> str:
    """Return the URI, which is the name as well, of the asset for an event."""
    return f"magichour://{kind}/{what}"


#: Every asset that can have events.
ASSET_URIS = tuple(asset_uri(kind, what) for kind in KINDS for what in HAPPENINGS)


def parse_event(body: bytes) -> Event:
    """
    Read a verified body.

    :raises MalformedEventError: if it is not an event.
    """
    try:
        data = parse_json(body.decode())
    except ValueError as error:
        raise MalformedEventError(f"the body is not usable JSON: {type(error).__name__}") from error
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        raise MalformedEventError("the body is not an object with a type")
    kind, _, what = data["type"].partition(".")
    if kind not in KINDS or what not in HAPPENINGS:
        return Event(data["type"])
    project = data.get("payload")
    if not isinstance(project, dict):
        raise MalformedEventError(f"a {data['type']} without a payload")
    try:
        project_id = check_id(project.get("id"))
    except MagicHourArgumentError as error:
        raise MalformedEventError(f"a {data['type']} without a project id") from error
    return Event(data["type"], kind, what, project_id, project)

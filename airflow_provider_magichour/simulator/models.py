"""The objects of the simulated Magic Hour: accounts, projects and face detections."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from airflow_provider_magichour._client.api import TERMINAL_STATUSES
from airflow_provider_magichour.simulator.faults import Outcome, error_code
from airflow_provider_magichour.simulator.media import Media

_COMPLETE = Outcome(status="complete")


class RefusedError(Exception):
    """
    A refused call.

    :param status: the HTTP status. It determines the machine-readable code of the response.
    :param message: the message of the response.
    :param headers: further headers of the response.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body = {"code": error_code(status), "message": message}


def iso(seconds: float) -> str:
    """Return a time in the form of Magic Hour's responses."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class Account:
    """The owner of one or more API keys."""

    id: str
    credits: int
    ledger: list[dict[str, Any]] = field(default_factory=list)
    rendering: int = 0
    waiting: deque[Project] = field(default_factory=deque)
    #: The time of the next request that the rate limit allows.
    next_slot: float = 0.0

    def book(self, project_id: str, tool: str, entry: str, credits: int) -> None:  # noqa: A002
        """
        Write an entry into the ledger, and change the credits.

        :param entry: ``charge`` or ``refund``.
        :param credits: how many, not negative.
        """
        self.credits += credits if entry == "refund" else -credits
        self.ledger.append(
            {
                "at": time.time(),
                "project_id": project_id,
                "tool": tool,
                "entry": entry,
                "credits": credits,
            }
        )

    def total(self, entry: str) -> int:
        """Return the sum of the ledger's charges or refunds."""
        return sum(line["credits"] for line in self.ledger if line["entry"] == entry)


@dataclass(slots=True)
class Project:
    """One image, video or audio project."""

    id: str
    account: Account
    kind: str
    tool: str
    name: str | None
    body: dict[str, Any]
    created: float
    seconds: float
    credits_charged: int
    outputs: list[Media]
    names: list[str]
    details: dict[str, Any]
    outcome: Outcome = _COMPLETE
    statuses: deque[str] = field(default_factory=deque)
    undeletable: bool = False
    read_lag: float = 0.0
    status: str = "queued"
    enabled: bool = True
    error: dict[str, str] | None = None
    settled: bool = False
    holds_slot: bool = False
    timer: asyncio.TimerHandle | None = None
    gets: int = 0
    deletes: int = 0
    downloads: int = 0
    downloaded_bytes: int = 0

    @property
    def is_over(self) -> bool:
        """Return whether the project is finished."""
        return self.status in TERMINAL_STATUSES or not self.enabled


@dataclass(slots=True)
class Detection:
    """A face detection."""

    id: str
    account: Account
    ready: float

"""Faults: which requests they apply to, and what goes wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

_CODES = {
    400: "invalid_request",
    401: "unauthorized",
    402: "insufficient_credits",
    403: "forbidden",
    404: "not_found",
    422: "unprocessable_entity",
    429: "too_many_requests",
    502: "bad_gateway",
    503: "service_unavailable",
}
_HTML = """<!DOCTYPE html>
<html><head><title>NAME</title><style>body { color: #333 }</style></head>
<body><center><h1>NAME</h1></center><hr><center>a gateway</center></body></html>
"""


def error_code(status: int) -> str:
    """Return the code in Magic Hour's responses with this status."""
    return _CODES.get(status, "internal_server_error")


class Call(NamedTuple):
    """
    A request before it is processed.

    :param host: ``api`` or ``downloads``.
    :param method: the HTTP method.
    :param path: the path, decoded.
    :param route: the name of the route, such as ``get_project``.
    :param template: the route's path with placeholders.
    :param kind: the kind of the project, if any.
    :param tool: the tool of a create call.
    :param project_id: the id in the path, if any.
    """

    host: str
    method: str
    path: str
    route: str
    template: str
    kind: str | None = None
    tool: str | None = None
    project_id: str | None = None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Match(_Strict):
    """The requests that a fault applies to. A field that is not set matches all."""

    host: Literal["api", "downloads"] | None = None
    method: str | None = None
    path: str | None = None
    route: str | None = None
    kind: str | None = None
    tool: str | None = None
    project_id: str | None = None

    def accepts(self, call: Call) -> bool:
        """Return whether the fault applies to the call."""
        for name, wanted in self:
            if wanted is None:
                continue
            found = getattr(call, name)
            if found is None or not (fnmatchcase(found, wanted) if name == "path" else found == wanted):
                return False
        return True


class Outcome(_Strict):
    """How a project ends."""

    status: Literal["complete", "error", "canceled"] = "error"
    code: str = "unknown_error"
    message: str = "The render failed"


class Fault(_Strict):
    """
    One fault.

    The reference of the simulator documents most fields. These are for the tests of this package:

    :param hang_up: how a dropped connection ends: ``reset`` (the default of ``drop``) or ``close`` (the
        default within a body).
    :param drop_after_bytes: where in the body of the response the connection breaks.
    :param merge: fields to set in the JSON response.
    :param remove: fields to leave out of it.
    :param gzip: compress the body.
    :param chunked: send no Content-Length.
    :param shorten_to_bytes: end the body after so many bytes, as if it was complete.
    :param drip_bytes: the number of bytes in each piece of the body.
    :param drip_seconds: the pause after each piece.
    :param version: another value changes the file and its ETag.
    :param range: the response to a request with a range: ``ignore`` is 200 with the whole file, ``shift`` is
        206 with another range, ``refuse`` is 416.
    """

    match: Match = Match()
    times: int | None = Field(default=None, ge=1)
    skip: int = Field(default=0, ge=0)
    probability: float = Field(default=1.0, ge=0, le=1)

    delay: float = Field(default=0.0, ge=0)
    delay_after: float = Field(default=0.0, ge=0)

    drop: Literal["before", "after"] | None = None
    drop_after_bytes: int | None = Field(default=None, ge=0)
    drop_after_percent: float | None = Field(default=None, ge=0, le=100)
    hang_up: Literal["reset", "close"] | None = None

    status: int | None = Field(default=None, ge=200, le=599)
    code: str | None = None
    message: str | None = None
    body: Any = None
    html: bool = False
    headers: dict[str, str | None] = {}
    process: bool = False

    merge: dict[str, Any] = {}
    remove: tuple[str, ...] = ()
    gzip: bool = False
    chunked: bool = False
    shorten_to_bytes: int | None = Field(default=None, ge=0)
    drip_bytes: int = Field(default=65536, ge=1)
    drip_seconds: float = Field(default=0.0, ge=0)

    expired: bool = False
    version: str | None = None
    range: Literal["ignore", "shift", "refuse"] | None = None

    outcome: Outcome | None = None
    read_lag: float = Field(default=0.0, ge=0)
    statuses: tuple[str, ...] = ()
    duration: float | None = Field(default=None, ge=0)
    names: tuple[str, ...] = ()
    output_bytes: int | None = Field(default=None, ge=0)
    undeletable: bool = False

    @model_validator(mode="after")
    def _narrow(self) -> Fault:
        """Restrict the fault to one route if its fields make sense only there."""
        fields = self.model_fields_set
        if fields & {"outcome", "statuses", "duration", "names", "output_bytes", "undeletable", "read_lag"}:
            narrowed = {"route": "create_project"}
        elif fields & {"expired", "version", "range"}:
            narrowed = {"host": "downloads"}
        else:
            return self
        match = self.match.model_copy(update=narrowed | self.match.model_dump(exclude_none=True))
        object.__setattr__(self, "match", match)
        return self

    @property
    def has_response(self) -> bool:
        """Return whether the fault has its own response."""
        return self.status is not None or self.html or self.body is not None

    def response(self) -> tuple[int, str, bytes]:
        """Return the status, the content type and the body of the fault's own response."""
        status = self.status or (502 if self.html else 200)
        if status in {204, 304}:
            return status, "application/json", b""
        if self.html:
            name = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"
            return status, "text/html; charset=utf-8", _HTML.replace("NAME", f"{status} {name}").encode()
        if isinstance(self.body, str):
            return status, "text/plain; charset=utf-8", self.body.encode()
        body = self.body
        if body is None:
            message = self.message or f"This {status} was requested from the simulator"
            body = {"code": self.code or error_code(status), "message": message}
        return status, "application/json", json.dumps(body).encode()


@dataclass
class _Armed:
    fault: Fault
    seen: int = 0
    used: int = 0


class Faults:
    """The current faults. The first one that matches a call and is not used up applies to it."""

    def __init__(self, seed: int | None) -> None:
        self._armed: list[_Armed] = []
        self._random = random.Random(seed)

    def __bool__(self) -> bool:
        return bool(self._armed)

    def add(self, faults: Sequence[Fault]) -> None:
        """Add faults after the current ones."""
        self._armed += [_Armed(fault) for fault in faults]

    def clear(self) -> None:
        """Remove all faults."""
        self._armed.clear()

    def reseed(self, seed: int) -> None:
        """Reset the random numbers of faults with a probability."""
        self._random.seed(seed)

    def pick(self, call: Call) -> Fault | None:
        """Return the fault that applies to the call, and count it as used."""
        for armed in self._armed:
            fault = armed.fault
            if (fault.times is not None and armed.used >= fault.times) or not fault.match.accepts(call):
                continue
            armed.seen += 1
            if armed.seen <= fault.skip:
                continue
            if fault.probability < 1 and self._random.random() >= fault.probability:
                continue
            armed.used += 1
            return fault
        return None

    def describe(self) -> list[dict[str, Any]]:
        """Return each fault, with the numbers of calls that it matched and that it applied to."""
        return [
            {
                "fault": armed.fault.model_dump(mode="json", exclude_defaults=True),
                "seen": armed.seen,
                "used": armed.used,
                "used_up": armed.fault.times is not None and armed.used >= armed.fault.times,
            }
            for armed in self._armed
        ]

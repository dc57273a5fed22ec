"""Faults on request: which calls they hit, and what then goes wrong."""

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
    """Return the code that stands in Magic Hour's response of this status."""
    return _CODES.get(status, "internal_server_error")


class Call(NamedTuple):
    """
    What is known of a request before it is carried out.

    :param host: ``api`` or ``downloads``.
    :param method: the HTTP method.
    :param path: the path, decoded.
    :param route: the name of the route, such as ``get_project``.
    :param template: the route's path with placeholders.
    :param kind: the kind of project it is about, if any.
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
    """Which calls a rule is for; what is left out matches all."""

    host: Literal["api", "downloads"] | None = None
    method: str | None = None
    path: str | None = None
    route: str | None = None
    kind: str | None = None
    tool: str | None = None
    project_id: str | None = None

    def accepts(self, call: Call) -> bool:
        """Return whether the call is one of those."""
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


class Rule(_Strict):
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
    :param shorten_to_bytes: end the body there, as if it was complete.
    :param drip_bytes: send so many bytes at a time...
    :param drip_seconds: ...with this pause between them.
    :param version: another text: the file changed, and its ETag.
    :param range: ``ignore`` (200 with all), ``shift`` (206 with another part), ``refuse`` (416).
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
    def _narrow(self) -> Rule:
        """Let a rule that can only concern one route match that route alone."""
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
        """Return whether the rule brings its own response."""
        return self.status is not None or self.html or self.body is not None

    def response(self) -> tuple[int, str, bytes]:
        """Return the status, the content type and the body of the rule's own response."""
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
    rule: Rule
    seen: int = 0
    used: int = 0


class Faults:
    """The rules in force. The first rule that matches a call, and is not used up, applies to it."""

    def __init__(self, seed: int | None) -> None:
        self._armed: list[_Armed] = []
        self._random = random.Random(seed)

    def __bool__(self) -> bool:
        return bool(self._armed)

    def add(self, rules: Sequence[Rule]) -> None:
        """Put rules in force, after those that are."""
        self._armed += [_Armed(rule) for rule in rules]

    def clear(self) -> None:
        """Drop all rules."""
        self._armed.clear()

    def reseed(self, seed: int) -> None:
        """Start the rules' chances again."""
        self._random.seed(seed)

    def pick(self, call: Call) -> Rule | None:
        """Return the rule that applies to the call, and count it as used."""
        for armed in self._armed:
            rule = armed.rule
            if (rule.times is not None and armed.used >= rule.times) or not rule.match.accepts(call):
                continue
            armed.seen += 1
            if armed.seen <= rule.skip:
                continue
            if rule.probability < 1 and self._random.random() >= rule.probability:
                continue
            armed.used += 1
            return rule
        return None

    def describe(self) -> list[dict[str, Any]]:
        """Return each rule with how often it matched and was used."""
        return [
            {
                "rule": armed.rule.model_dump(mode="json", exclude_defaults=True),
                "seen": armed.seen,
                "used": armed.used,
                "used_up": armed.rule.times is not None and armed.used >= armed.rule.times,
            }
            for armed in self._armed
        ]

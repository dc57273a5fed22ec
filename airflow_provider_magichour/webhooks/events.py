"""What a webhook is: its signature, its event and its assets. Pure functions that need no Airflow."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote

from airflow_provider_magichour._client.sanitize import parse_json

TIMESTAMP_HEADER = "magic-hour-event-timestamp"
SIGNATURE_HEADER = "magic-hour-event-signature"
#: How far the timestamp of a webhook may lie from the receiver's clock, in seconds, either way.
MAX_AGE = 300.0

_TYPE = re.compile(r"(image|video|audio)\.([a-z_]{1,50})", re.ASCII)
_ID = re.compile(r"[\w-][\w.-]{0,127}", re.ASCII)
_QUERY = re.compile(r"(https?://[^\s?#\"'<>\\]*)[?#][^\s\"'<>\\]*", re.IGNORECASE)


class RefusedError(Exception):
    """A request that is not accepted: the status of the response, and a reason for our own log only."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Signature(NamedTuple):
    """The two headers: the timestamp's digits as they were sent, and the decoded HMAC."""

    timestamp: bytes
    digest: bytes


class Event(NamedTuple):
    """A verified webhook; ``kind`` and what follows are empty for a type that is not about a project."""

    type: str
    kind: str = ""
    event: str = ""
    project: Mapping[str, Any] = MappingProxyType({})

    def describe(self, conn_id: str, presigned_urls: bool = False) -> dict[str, Any]:
        """Return the asset event's extra, by default without presigned URLs: they open files to anyone."""
        project = self.project
        if not presigned_urls:
            project = {k: v for k, v in project.items() if k not in {"download", "downloads"}}
            project = json.loads(_QUERY.sub(r"\1", json.dumps(project)))
        names = {"type": self.type, "kind": self.kind, "id": self.project["id"]}
        return {**names, "magichour_conn_id": conn_id, "project": project}


def read_signature(headers: Iterable[tuple[str, str]], now: float, max_age: float = MAX_AGE) -> Signature:
    """
    Read the two headers, strictly.

    :raises RefusedError: if one is missing, repeated, or malformed, or if it was signed long before ``now``.
    """
    values: dict[str, list[str]] = {TIMESTAMP_HEADER: [], SIGNATURE_HEADER: []}
    for name, value in headers:
        values.get(name.lower(), []).append(value)
    for name, found in values.items():
        if len(found) != 1:
            raise RefusedError(401, f"the header {name} is there {len(found)} times instead of once")
    (timestamp,), (signature,) = values.values()
    if not re.fullmatch(r"[0-9]{1,12}", timestamp):
        raise RefusedError(401, "the timestamp is not a number of seconds")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", signature):
        raise RefusedError(401, "the signature is not 64 hexadecimal digits")
    if abs(age := now - int(timestamp)) > max_age:
        raise RefusedError(401, f"it was signed {age:.0f} s ago; the limit is {max_age:.0f} s")
    return Signature(timestamp.encode(), bytes.fromhex(signature))


def check_signature(secrets: Sequence[bytes], signature: Signature, body: bytes) -> None:
    """
    Compare the signature in constant time with what each of the secrets gives; one match is enough.

    :raises RefusedError: if none of the secrets made it. Without a secret the work is the same.
    """
    genuine = False
    for secret in secrets or (b"no secret",):
        mac = hmac.new(secret, signature.timestamp + b"." + body, hashlib.sha256)
        genuine |= hmac.compare_digest(mac.digest(), signature.digest)
    if not secrets:
        raise RefusedError(401, "there is no webhook secret for this connection")
    if not genuine:
        raise RefusedError(401, "the signature does not match the connection's webhook secret")


def parse_event(body: bytes) -> Event:
    """
    Read a verified body.

    :raises RefusedError: if it is not an event.
    """
    try:
        data = parse_json(body.decode())
    except ValueError as error:
        raise RefusedError(400, f"the body is not usable JSON: {type(error).__name__}") from None
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        raise RefusedError(400, "the body is not an object with a type")
    if not (known := _TYPE.fullmatch(data["type"])):
        return Event(data["type"])
    project = data.get("payload")
    if not isinstance(project, dict) or not _ID.fullmatch(
        one if isinstance(one := project.get("id"), str) else ""
    ):
        raise RefusedError(400, f"a {data['type']} without a project id")
    return Event(data["type"], known[1], known[2], project)


def split_secrets(value: Any) -> tuple[bytes, ...]:
    """Read a webhook secret: a string, several separated by commas, or a list; while replaced, both count."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(part.strip().encode() for part in parts if isinstance(part, str) and part.strip())


def asset_uri(kind: str, event: str, conn_id: str | None = None) -> str:
    """Return the URI, which is the name as well, of the asset for an event of one or any connection."""
    return f"magichour://{kind}/{event}" + (f"/{quote(conn_id, safe='')}" if conn_id else "")


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """
    Check an asset's URI for Airflow, which finds this function by the provider's metadata.

    :raises ValueError: if it is not ``magichour://KIND/EVENT`` or ``magichour://KIND/EVENT/CONN_ID``.
    """
    event, _, conn_id = uri.path.removeprefix("/").partition("/")
    if not _TYPE.fullmatch(f"{uri.netloc}.{event}") or "/" in conn_id:
        raise ValueError(f"{uri.geturl()!r} is no asset of Magic Hour's webhooks; use magichour_asset()")
    return uri

"""The signature, the event and the assets of a webhook. Pure functions that need no Airflow."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import SplitResult, quote

from airflow_provider_magichour._client.sanitize import parse_json

#: The two headers and their forms: the time in seconds, and an HMAC-SHA256.
TIMESTAMP = ("magic-hour-event-timestamp", r"[0-9]{1,12}")
SIGNATURE = ("magic-hour-event-signature", r"[0-9a-fA-F]{64}")
#: How much the timestamp of a webhook may differ from the receiver's clock, in seconds.
MAX_AGE = 300.0

_TYPE = re.compile(r"(image|video|audio)\.([a-z_]{1,50})", re.ASCII)
_ID = re.compile(r"[\w-][\w.-]{0,127}", re.ASCII)
_QUERY = re.compile(r"(https?://[^\s?#\"'<>\\]*)[?#][^\s\"'<>\\]*", re.IGNORECASE)


class RefusedError(Exception):
    """A request that is refused: the status of the response, and the reason, which is only for the log."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def read_signature(
    headers: Collection[tuple[str, str]], now: float, max_age: float = MAX_AGE
) -> tuple[bytes, bytes]:
    """
    Read the two headers strictly. Return the digits of the timestamp as they were sent, and the decoded HMAC.

    :raises RefusedError: if one is missing, repeated or malformed, or if the signature is too old.
    """
    timestamp, digest = (_read_header(headers, *each) for each in (TIMESTAMP, SIGNATURE))
    if abs(age := now - int(timestamp)) > max_age:
        raise RefusedError(401, f"it was signed {age:.0f} s ago; the limit is {max_age:.0f} s")
    return timestamp.encode(), bytes.fromhex(digest)


def _read_header(headers: Collection[tuple[str, str]], name: str, pattern: str) -> str:
    values = [value for each, value in headers if each.lower() == name]
    if len(values) != 1:
        raise RefusedError(401, f"the header {name} is there {len(values)} times instead of once")
    if not re.fullmatch(pattern, values[0]):
        raise RefusedError(401, f"the header {name} is malformed")
    return values[0]


def check_signature(secrets: Sequence[bytes], signature: tuple[bytes, bytes], body: bytes) -> None:
    """
    Compare the signature in constant time with the signature of each secret. One match is enough.

    :raises RefusedError: if none matches. Without a secret, this takes the same time.
    """
    timestamp, digest = signature
    signed = timestamp + b"." + body
    found = [hmac.compare_digest(hmac.digest(s, signed, "sha256"), digest) for s in secrets or [b"none"]]
    if not secrets:
        raise RefusedError(401, "there is no webhook secret for this connection")
    if not any(found):
        raise RefusedError(401, "the signature does not match the connection's webhook secret")


def parse_event(body: bytes, conn_id: str, presigned_urls: bool = False) -> dict[str, Any]:
    """
    Turn a verified body into the extra of an asset event, or into ``type`` if it has no project.

    :param presigned_urls: whether to keep the URLs, which give the files to anyone who may read the asset.
    :raises RefusedError: if the body is not an event.
    """
    try:
        data = parse_json(body.decode())
    except ValueError as error:
        raise RefusedError(400, f"the body is not usable JSON: {type(error).__name__}") from None
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        raise RefusedError(400, "the body is not an object with a type")
    if not (known := _TYPE.fullmatch(data["type"])):
        return {"type": data["type"]}
    project: Any = data.get("payload")
    project_id = project.get("id") if isinstance(project, dict) else None
    if not isinstance(project_id, str) or not _ID.fullmatch(project_id):
        raise RefusedError(400, f"a {data['type']} without a project id")
    if not presigned_urls:
        project = {k: v for k, v in project.items() if k not in {"download", "downloads"}}
        project = json.loads(_QUERY.sub(r"\1", json.dumps(project)))
    names = {"type": data["type"], "kind": known[1], "id": project_id, "magichour_conn_id": conn_id}
    return {**names, "project": project}


def split_secrets(value: Any) -> tuple[bytes, ...]:
    """Read a webhook secret: a string, several separated by commas, or a list. All of them are valid."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(part.strip().encode() for part in parts if isinstance(part, str) and part.strip())


def asset_uri(kind: str, event: str, conn_id: str | None = None) -> str:
    """Return the URI and name of the asset for an event of one connection or of all."""
    return f"magichour://{kind}/{event}" + (f"/{quote(conn_id, safe='')}" if conn_id else "")


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Check the URI of an asset. Airflow finds this function in the provider's metadata."""
    event, _, conn_id = uri.path.removeprefix("/").partition("/")
    if not _TYPE.fullmatch(f"{uri.netloc}.{event}") or "/" in conn_id:
        raise ValueError(f"{uri.geturl()!r} is not an asset of Magic Hour's webhooks; use magichour_asset()")
    return uri

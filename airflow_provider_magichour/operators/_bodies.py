"""The fingerprints of bodies, which are the same in each try, and the names of their projects."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from airflow_provider_magichour._validation.bodies import encode_json
from airflow_provider_magichour.tools import takes_name

#: The fields of a body that contain files.
FILE_FIELDS = ("assets", "references")

#: The parameters of signed URLs, and those of them that differ with each signature.
_SIGNATURES = (
    (r"x-([a-z]+)-signature", r"x-(amz|goog|oss|cos|obs|ms)-.*"),
    (
        r"signature",
        r"signature|expires|awsaccesskeyid|googleaccessid|ossaccesskeyid|policy|key-pair-id|security-token",
    ),
    (r"sig", r"sig|se|st|sp|sv|sr|skoid|sktid|skt|ske|sks|skv|spr|sip"),
)


#: The longest name of a project, in characters.
MAX_NAME = 200


def fingerprint(conn_id: str, tool: str, kind: str, body: Mapping[str, Any], name: str = "body") -> str:
    """
    Return the fingerprint of a body, which is the same in each try.

    It is computed before local files are replaced by their uploads, and without the signatures of URLs,
    because both differ in each try.

    :param name: the name of the body in messages.
    :raises MagicHourArgumentError: if the body cannot be JSON.
    """
    return digest([conn_id, tool, kind, with_files(body, without_signature)], name)


def fingerprints(conn_id: str, tool: str, kind: str, bodies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fingerprints of a list of bodies."""
    return [fingerprint(conn_id, tool, kind, body, f"body[{n}]") for n, body in enumerate(bodies)]


def digest(value: Any, name: str = "body") -> str:
    """Return the SHA-256 of a JSON value. Paths count as texts."""
    return hashlib.sha256(encode_json(value, name)).hexdigest()


def with_names(tool: str, bodies: Sequence[dict[str, Any]], name: str | None) -> list[dict[str, Any]]:
    """Return the bodies, each with a name, so that a person finds its project in the library."""
    if name is None or not takes_name(tool):
        return list(bodies)
    ends = [f" [{position}]" if len(bodies) > 1 else "" for position in range(len(bodies))]
    return [
        body if body.get("name") is not None else {**body, "name": _bounded(name, MAX_NAME - len(end)) + end}
        for body, end in zip(bodies, ends, strict=True)
    ]


def _bounded(name: str, most: int) -> str:
    if len(name) <= most:
        return name
    return f"{name[: most - 17]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def describe(tool: str, bodies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the bodies in messages, with the names to search for in the library."""
    described = []
    for position, body in enumerate(bodies):
        name = body.get("name")
        where = tool if len(bodies) == 1 else f"{tool} (body[{position}])"
        described.append(f"{where}, named {name[:MAX_NAME]!r}" if isinstance(name, str) else where)
    return described


def with_files(body: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return the body with each text in a field of files changed."""
    return {key: _changed(value, change) if key in FILE_FIELDS else value for key, value in body.items()}


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _changed(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_changed(each, change) for each in value]
    return change(str(value)) if isinstance(value, str | os.PathLike) else value


def without_signature(url: str) -> str:
    """Return a presigned URL without its signature; any other text as it is."""
    if not re.match(r"https?://", url, re.IGNORECASE):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    query = parse_qsl(parts.query, keep_blank_values=True)
    names = [name.lower() for name, _ in query]
    signing = [cut for proof, cut in _SIGNATURES if any(re.fullmatch(proof, name) for name in names)]
    kept = [
        (name, value) for name, value in query if not any(re.fullmatch(cut, name.lower()) for cut in signing)
    ]
    return urlunsplit(parts._replace(query=urlencode(kept)))

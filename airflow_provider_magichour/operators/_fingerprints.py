"""Names for what is submitted: the same body has the same name in each try."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

#: The fields of a body that hold files.
FILE_FIELDS = ("assets", "references")

#: What proves that a URL is signed, and the parameters that differ each time it is signed.
_SIGNATURES = (
    (r"x-([a-z]+)-signature", r"x-(amz|goog|oss|cos|obs|ms)-.*"),
    (
        r"signature",
        r"signature|expires|awsaccesskeyid|googleaccessid|ossaccesskeyid|policy|key-pair-id|security-token",
    ),
    (r"sig", r"sig|se|st|sp|sv|sr|skoid|sktid|skt|ske|sks|skv|spr|sip"),
)


def fingerprint(conn_id: str, tool: str, kind: str, body: Mapping[str, Any]) -> str:
    """
    Return the name of what is submitted, the same in each try.

    It is taken before local files are replaced by their uploads, and without the signatures of URLs: both
    differ in each try although the same thing is asked for.
    """
    return digest([conn_id, tool, kind, with_files(body, without_signature)])


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, in which paths count as texts."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


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
    if not re.match(r"https?://", url):
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

"""Magic Hour's signature of a webhook: pure functions over raw bytes."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

TIMESTAMP_HEADER = b"magic-hour-event-timestamp"
SIGNATURE_HEADER = b"magic-hour-event-signature"

#: How far a timestamp may lie from our clock, in seconds, either way.
MAX_AGE = 300

#: Stands in for the secret of a connection that has none, so that refusing it is the same work.
_NO_SECRET = b"a connection without a secret takes no webhooks"


class SignatureError(Exception):
    """The request does not prove that Magic Hour sent it. The text is for our own log only."""


class Signature(NamedTuple):
    """
    What the headers say.

    :param timestamp: the digits as they were sent, because they are part of what is signed.
    :param digest: the HMAC, decoded.
    """

    timestamp: bytes
    digest: bytes


def sign(secret: bytes, timestamp: bytes, body: bytes) -> bytes:
    """Return the HMAC-SHA256 of ``{timestamp}.{body}``."""
    mac = hmac.new(secret, timestamp + b".", hashlib.sha256)
    mac.update(body)
    return mac.digest()


def read_signature(headers: Iterable[tuple[bytes, bytes]]) -> Signature:
    """
    Read the two headers, strictly.

    :param headers: names in lower case, and values, as ASGI gives them.
    :raises SignatureError: if one is missing, there twice, or not as Magic Hour sends it.
    """
    values: dict[bytes, list[bytes]] = {TIMESTAMP_HEADER: [], SIGNATURE_HEADER: []}
    for name, value in headers:
        if name in values:
            values[name].append(value)
    for name, found in values.items():
        if len(found) != 1:
            raise SignatureError(f"the header {name.decode()} is there {len(found)} times instead of once")
    timestamp, signature = values[TIMESTAMP_HEADER][0], values[SIGNATURE_HEADER][0]
    if not re.fullmatch(rb"[0-9]{1,12}", timestamp):
        raise SignatureError("the timestamp is not a number of seconds")
    if not re.fullmatch(rb"[0-9a-fA-F]{64}", signature):
        raise SignatureError("the signature is not 64 hexadecimal digits")
    return Signature(timestamp, bytes.fromhex(signature.decode()))


def check_age(signature: Signature, now: float) -> None:
    """
    Refuse what was signed long ago, or in the future.

    :param now: our clock, in seconds since the epoch.
    :raises SignatureError: if the timestamp is more than :data:`MAX_AGE` away.
    """
    age = now - int(signature.timestamp)
    if abs(age) > MAX_AGE:
        raise SignatureError(f"it was signed {age:.0f} s ago, which is more than {MAX_AGE} s from our clock")


def check_signature(secrets: Sequence[bytes], signature: Signature, body: bytes) -> None:
    """
    Compare the signature in constant time; any of the secrets will do.

    Without a secret the same work is done, in vain.

    :raises SignatureError: if none of the secrets made it.
    """
    genuine = False
    for secret in secrets or (_NO_SECRET,):
        genuine |= hmac.compare_digest(sign(secret, signature.timestamp, body), signature.digest)
    if not secrets:
        raise SignatureError("there is no such connection, or it has no webhook_secret")
    if not genuine:
        raise SignatureError("the signature does not match the connection's webhook_secret")

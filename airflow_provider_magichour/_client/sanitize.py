"""Makes text from outside safe for messages, logs and databases. Pure functions."""

from __future__ import annotations

import html
import json
import math
import re
import traceback
from functools import cached_property
from typing import Any, NoReturn
from urllib.parse import quote, quote_plus

#: The longest quotation of a text from outside, in characters.
MAX_QUOTED = 500
#: How deep lists and objects may nest. Magic Hour's own have up to 4 levels, and Airflow's API supports more.
MAX_DEPTH = 32
#: The shortest secret that is masked, in bytes. A shorter one could be any word.
MIN_SECRET = 8

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL accepts neither NUL nor lone surrogates


def one_line(text: str) -> str:
    """Return a text as one bounded line of printable characters, so that it cannot forge a line in a log."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 64 * 1024]).split())
    return line if len(line) <= MAX_QUOTED else f"{line[:MAX_QUOTED]}..."


def parse_json(text: str | bytes) -> Any:
    """
    Parse JSON into values that every database and Airflow's API can store.

    :raises ValueError: if it is not JSON, nested too deeply, or has a number out of range.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    # Nearly all responses can be neither deep nor have what cannot be stored: they need no further check.
    is_plain = text.isascii() and "\\u" not in text and text.count("{") + text.count("[") <= MAX_DEPTH
    return value if is_plain else _storable(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number out of range")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def _storable(value: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_storable(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_storable(name, depth): _storable(item, depth + 1) for name, item in value.items()}
    return value


class Mask:
    """
    Removes a secret from text from outside. The error page of a proxy may quote the refused request.

    :param secret: it is searched as it is, and in the forms of JSON, HTML and URLs.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret

    @cached_property
    def _forms(self) -> list[bytes]:
        if len(self._secret.encode()) < MIN_SECRET:
            return []
        as_json, as_html = json.dumps(self._secret)[1:-1], html.escape(self._secret)
        forms = {
            self._secret,
            as_json,
            as_html,
            quote(self._secret, safe=""),
            quote_plus(self._secret, safe="/"),
        }
        escapes = [f"\\u{ord(c):04x}" for c in self._secret]  # as JSON may write any character
        forms |= {"".join(escapes), "".join(one[:2] + one[2:].upper() for one in escapes)}
        forms |= {as_json.replace("/", "\\/"), as_html.replace("/", "&#x2F;"), as_html.replace("/", "&#47;")}
        return sorted((form.encode() for form in forms), key=len, reverse=True)

    def hide(self, body: bytes) -> bytes:
        """Return the bytes without the secret."""
        encoding = json.detect_encoding(body)
        if encoding != "utf-8":  # UTF-16 and UTF-32 are JSON, too
            body = body.decode(encoding, "replace").encode()
        for form in self._forms:
            body = body.replace(form, b"***")
        return body

    def hide_in(self, text: str) -> str:
        """Return the text without the secret."""
        return self.hide(text.encode(errors="surrogateescape")).decode(errors="surrogateescape")

    def cause(self, error: BaseException) -> BaseException | None:
        """Return the error as the cause of another; None if its traceback contains the secret."""
        shown = "".join(traceback.format_exception(error))
        return error if self.hide_in(shown) == shown else None


def without_query(text: str) -> str:
    """Return a text in one line, without the queries of its URLs, because they contain signatures."""
    return one_line(re.sub(r"\?[^\s'\"<>)]+", "?...", text))

"""What others say, made fit for messages, logs and databases: pure functions."""

from __future__ import annotations

import html
import json
import math
import re
import traceback
from functools import cached_property
from typing import Any, NoReturn
from urllib.parse import quote, quote_plus

#: The longest part of what others say that is quoted, in characters.
MAX_QUOTED = 500
#: How deep lists and objects may nest. Magic Hour's own go to 4; Airflow's API gives up far beyond.
MAX_DEPTH = 32
#: The shortest secret that is looked for, in bytes; less could be any word.
MIN_SECRET = 8

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL takes neither NUL nor half a character


def one_line(text: str) -> str:
    """Return a text as one bounded line of printable characters, so that it cannot forge a line in a log."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 64 * 1024]).split())
    return line if len(line) <= MAX_QUOTED else f"{line[:MAX_QUOTED]}..."


def parse_json(text: str | bytes) -> Any:
    """
    Read JSON into what every database and Airflow's API can hold.

    :raises ValueError: if it is not JSON, nested too deeply, or has a number out of range.
    """
    try:
        return _storable(json.loads(text, parse_constant=_refuse_constant))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _storable(value: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number out of range")
    if isinstance(value, list):
        return [_storable(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_storable(name, depth): _storable(item, depth + 1) for name, item in value.items()}
    return value


class Mask:
    """
    Takes a secret out of what others say: a proxy's error page may quote the request that it refused.

    :param secret: looked for as it is, and as JSON, HTML and URLs write it.
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
        forms |= {as_json.replace("/", "\\/"), as_html.replace("/", "&#x2F;"), as_html.replace("/", "&#47;")}
        return sorted((form.encode() for form in forms), key=len, reverse=True)

    def hide(self, body: bytes) -> bytes:
        """Return the bytes without the secret."""
        for form in self._forms:
            body = body.replace(form, b"***")
        return body

    def hide_in(self, text: str) -> str:
        """Return the text without the secret."""
        return self.hide(text.encode(errors="surrogateescape")).decode(errors="surrogateescape")

    def cause(self, error: BaseException) -> BaseException | None:
        """Return the error as the cause of another; None if its traceback holds the secret."""
        shown = "".join(traceback.format_exception(error))
        return error if self.hide_in(shown) == shown else None


def without_query(text: str) -> str:
    """Return a text in one line, without its URLs' queries: their signatures open the file to anybody."""
    return one_line(re.sub(r"\?[^\s'\"<>)]+", "?...", text))

"""File names from download URLs, safe on every file system and object store."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

#: The longest name in bytes; file systems take 255, and temporary names add to it.
MAX_BYTES = 180
_MAX_SUFFIX = 20
#: What a file system, a URL or a pattern reads as something else.
_SPECIAL = re.compile(r'[<>:"|?*%#\[\]]')
_WINDOWS_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)")


def safe_name(url: str) -> str:
    """Return a file name from the last segment of a URL's path; ``output`` where it gives none."""
    try:
        path = urlsplit(url).path
    except ValueError:
        path = ""
    segments = [part for part in re.split(r"[/\\]", unquote(path, errors="replace")) if part.strip(". ")]
    return clean(segments[-1]) if segments else "output"


def clean(name: str) -> str:
    """Return a name with everything taken out of it that is more than a name."""
    name = unicodedata.normalize("NFC", name)
    # Controls, bidi marks and other invisible characters, surrogates, private and unassigned ones.
    name = "".join("_" if unicodedata.category(c)[0] == "C" or c in "/\\\u2028\u2029" else c for c in name)
    name = re.sub(r"\.{2,}", ".", _SPECIAL.sub("_", re.sub(r"\s", " ", name)))
    name = _shorten(name.strip(" ."))
    if _WINDOWS_DEVICE.match(name):
        name = f"_{name}"
    return name or "output"


def distinct(names: Iterable[str]) -> list[str]:
    """Tell equal names apart by a number, also those that only a case-sensitive file system keeps apart."""
    used: set[str] = set()
    result = []
    for name in names:
        stem, suffix = _split(name)
        chosen, number = name, 1
        while _folded(chosen) in used:
            number += 1
            chosen = f"{stem}-{number}{suffix}"
        used.add(_folded(chosen))
        result.append(chosen)
    return result


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())


def _split(name: str) -> tuple[str, str]:
    stem, dot, suffix = name.rpartition(".")
    return (stem, dot + suffix) if stem and len(suffix.encode()) < _MAX_SUFFIX else (name, "")


def _shorten(name: str) -> str:
    if len(name.encode()) <= MAX_BYTES:
        return name
    stem, suffix = _split(name)
    room = MAX_BYTES - len(suffix.encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(" .") + suffix

"""File names from download URLs and templates, safe on every file system and object store."""

from __future__ import annotations

import mimetypes
import re
import string
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow_provider_magichour.exceptions import MagicHourArgumentError

#: The fields that a ``file_name`` may contain in braces.
FIELDS = ("index", "ext", "stem", "project_id", "name", "tool", "kind")
#: Content types for which the standard library's first guess is not the usual extension.
_EXTENSIONS = {
    "image/jpeg": ".jpg",
    "audio/mpeg": ".mp3",
    "audio/mp4": ".m4a",
    "audio/wav": ".wav",
    "image/webp": ".webp",
}
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}$")

#: The longest name in bytes. File systems allow 255, and temporary names are longer.
MAX_BYTES = 180
_MAX_SUFFIX = 20
#: Characters with a special meaning in a file system, a URL or a pattern.
_SPECIAL = re.compile(r'[<>:"|?*%#\[\]]')
_WINDOWS_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)")


def safe_name(url: str) -> str:
    """Return a file name from the last segment of a URL's path, or ``output`` if it has none."""
    try:
        path = urlsplit(url).path
    except ValueError:
        path = ""
    segments = [part for part in re.split(r"[/\\]", unquote(path, errors="replace")) if part.strip(". ")]
    return clean(segments[-1]) if segments else "output"


def clean(name: str) -> str:
    """Return a name without the parts that are not a plain name."""
    name = unicodedata.normalize("NFC", name)
    # Controls, bidi marks and other invisible characters, surrogates, private and unassigned ones.
    name = "".join("_" if unicodedata.category(c)[0] == "C" or c in "/\\\u2028\u2029" else c for c in name)
    name = re.sub(r"\.{2,}", ".", _SPECIAL.sub("_", re.sub(r"\s", " ", name)))
    name = _shorten(name.strip(" ."))
    if _WINDOWS_DEVICE.match(name):
        name = f"_{name}"
    return name or "output"


def distinct(names: Iterable[str]) -> list[str]:
    """
    Add numbers to equal names. Names that differ only in case count as equal.

    A name without an extension may get one later, so it counts as equal to every name with the same stem.
    """
    used: set[str] = set()
    result = []
    for name in names:
        stem, suffix = _split(name)
        chosen, number = name, 1
        while used & _taken(chosen):
            number += 1
            chosen = f"{stem}-{number}{suffix}"
        used |= _taken(chosen, every=True)
        result.append(chosen)
    return result


def _taken(name: str, *, every: bool = False) -> set[str]:
    """Return the forms of a name that must not occur twice."""
    folded = _folded(name)
    stem = folded if missing_extension(name) else folded.rpartition(".")[0]
    bare, any_of_stem = f"{stem}\0bare", f"{stem}\0any"
    if missing_extension(name):
        return {folded, bare, any_of_stem}
    return {folded, any_of_stem} if every else {folded, bare}


def missing_extension(name: str) -> bool:
    """Return whether a name has no extension, so that one is added once the file's content type is known."""
    return not _EXTENSION.search(name)


def extension_of(content_type: str) -> str:
    """Return the extension of a content type with its dot; empty if it is not known."""
    if content_type in {"application/octet-stream", "binary/octet-stream"}:
        return ""
    return _EXTENSIONS.get(content_type) or mimetypes.guess_extension(content_type) or ""


def is_name_of(stored: str, name: str) -> bool:
    """Return whether a stored file has the name of an output, or that name with an added extension."""
    return stored == name or (missing_extension(name) and stored.rpartition(".")[0] == name)


def check_file_name(template: Any, outputs: int | None = None) -> str | None:
    """
    Return the template of file names, if it is one.

    :param template: such as ``"{project_id}-{index}{ext}"``; None for the names that Magic Hour gives.
    :param outputs: how many files each project will have, if it is known.
    :raises MagicHourArgumentError: if it is no template of a file name, or the files would have equal names.
    """
    if template is None:
        return None
    if not isinstance(template, str) or not template.strip() or re.search(r"[/\\\0]", template):
        raise MagicHourArgumentError(
            f"file_name must be the template of a name such as '{{project_id}}-{{index}}{{ext}}', without "
            f"folders, not {template!r}"
        )
    try:
        parts = string.Formatter().parse(template)
        fields = [
            (name, f"{f'!{how}' if how else ''}{spec}") for _, name, spec, how in parts if name is not None
        ]
    except ValueError as error:
        raise MagicHourArgumentError(f"file_name {template!r} cannot be read: {error}") from None
    for name, spec in fields:
        if name not in FIELDS or not re.fullmatch(r"(0?[0-9]d?)?" if name == "index" else "", spec or ""):
            raise MagicHourArgumentError(
                f"file_name {template!r} has {{{name}{spec and ':'}{spec}}}, which is not known: it may have "
                f"{', '.join(f'{{{one}}}' for one in FIELDS)}, and {{index:03}} for leading zeros"
            )
    if outputs and outputs > 1 and not {"index", "stem"} & {name for name, _ in fields}:
        raise MagicHourArgumentError(
            f"file_name {template!r} gives the {outputs} files of a project one name: add {{index}} to it"
        )
    return template


def rendered_name(template: str, url_name: str, index: int, facts: Mapping[str, Any]) -> str:
    """
    Return the name of an output from a template.

    :param url_name: Magic Hour's own name.
    :param index: its position in the project's outputs, from 1.
    :param facts: ``project_id``, ``name``, ``tool`` and ``kind``. Unknown values are empty.
    """
    stem, ext = url_name, ""
    if not missing_extension(url_name):
        stem, dot, suffix = url_name.rpartition(".")
        ext = dot + suffix
    known = {name: str(facts.get(name) or "") for name in FIELDS}
    return clean(template.format(**{**known, "index": index, "stem": stem, "ext": ext}))


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

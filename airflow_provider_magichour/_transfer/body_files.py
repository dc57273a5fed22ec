"""The files in the body of a create call."""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from airflow_provider_magichour.exceptions import MagicHourArgumentError
from airflow_provider_magichour.tools import UPLOAD_EXTENSIONS

#: The only field for files outside ``assets``: the ``references`` of text-to-video.
_REFERENCES, _REFERENCE_FILE = "references", "file_path"


def is_remote(value: object) -> bool:
    """
    Return whether Magic Hour can read this by itself.

    That is an http(s) URL (also a page of the library), an earlier upload (``api-assets/...``), or a saved
    item (``saved-items/...``).
    """
    if not isinstance(value, str):
        return False
    return (
        value.startswith(("api-assets/", "saved-items/"))
        or re.match(r"https?://[^/]", value, re.IGNORECASE) is not None
    )


def asset_type(name: str, hint: str = "") -> tuple[str, str]:
    """
    Return the upload call's ``type`` and ``extension`` for a file.

    :param hint: the field of the body, because ``webm`` may be a video or an audio.
    :raises MagicHourArgumentError: if Magic Hour does not accept the extension of the name.
    """
    extension = PurePath(name).suffix.lower().lstrip(".")
    kinds = [kind for kind, known in UPLOAD_EXTENSIONS.items() if extension in known]
    for kind in kinds:
        if kind in hint:
            return kind, extension
    if kinds:
        return kinds[0], extension
    guessed = (mimetypes.guess_type(f"file.{extension}", strict=False)[0] or "").partition("/")[0]
    if guessed in UPLOAD_EXTENSIONS and re.fullmatch("[a-z0-9]+", extension):
        return guessed, extension  # a newer format, which Magic Hour itself accepts or refuses
    known_types = "; ".join(f"{kind}: {', '.join(known)}" for kind, known in UPLOAD_EXTENSIONS.items())
    raise MagicHourArgumentError(
        f"{name!r} cannot be uploaded: Magic Hour does not accept files that end in {f'.{extension}'!r}. "
        f"It accepts {known_types}"
    )


def find_assets(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """
    Return the local files and object-storage URLs in a body, each with its field.

    They are searched below ``assets`` and in the ``references`` of text-to-video. A path object counts as its
    text.

    :raises MagicHourArgumentError: if one is a GIF in a field where Magic Hour does not accept GIFs.
    """
    found: list[tuple[str, str]] = []

    def note(value: str | os.PathLike[str], field: str) -> Any:
        text = str(value)
        if _is_file(text, field):
            if text.lower().endswith(".gif") and field != "video_file_path":
                raise MagicHourArgumentError(
                    f"{field} is {text!r}, but Magic Hour accepts a GIF only as video_file_path of face-swap"
                )
            found.append((text, field))
        return value

    _map_files(body, note)
    return found


def replace_assets(body: Mapping[str, Any], uploaded: Mapping[str, str]) -> dict[str, Any]:
    """
    Return the body with the names of uploads instead of the files.

    :param uploaded: the name of each file's upload, such as ``api-assets/...``.
    """
    return _map_files(body, lambda value, _: uploaded.get(str(value), str(value)))


_Change = Callable[["str | os.PathLike[str]", str], Any]


def _map_files(body: Mapping[str, Any], change: _Change) -> dict[str, Any]:
    """Return the body with a function applied to each text and path object that may be a file."""
    changed = dict(body)
    if "assets" in changed:
        changed["assets"] = _map(changed["assets"], "assets", change)
    references = changed.get(_REFERENCES)
    if isinstance(references, list | tuple):
        changed[_REFERENCES] = [_map_reference(one, change) for one in references]
    return changed


def _map_reference(reference: Any, change: _Change) -> Any:
    if not isinstance(reference, Mapping) or _REFERENCE_FILE not in reference:
        return reference
    return {**reference, _REFERENCE_FILE: _map(reference[_REFERENCE_FILE], _REFERENCE_FILE, change)}


def _map(value: Any, field: str, change: _Change) -> Any:
    if isinstance(value, Mapping):
        return {key: _map(each, str(key), change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_map(each, field, change) for each in value]
    return change(value, field) if isinstance(value, str | os.PathLike) else value


def _is_file(value: str, field: str) -> bool:
    """Return whether a text is a file: not a word (``all-faces``), and not readable by Magic Hour itself."""
    if is_remote(value) or field == "original_face" or not value.strip():
        return False
    if "://" in value or value.startswith(("/", "./", "../", "~/")):
        return True
    extension = PurePath(value).suffix.lower().lstrip(".")
    return (
        field == _REFERENCE_FILE
        or field.endswith(("_file_path", "_file_paths"))
        or any(extension in known for known in UPLOAD_EXTENSIONS.values())
    )

"""The files that a create body names."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour.exceptions import (
    MagicHourArgumentError,
)
from airflow_provider_magichour.tools import UPLOAD_EXTENSIONS

if TYPE_CHECKING:
    pass


def is_remote(value: object) -> bool:
    """Tell whether Magic Hour can read this by itself: an http(s) URL, or an earlier upload."""
    if not isinstance(value, str):
        return False
    return value.startswith("api-assets/") or re.match(r"https?://[^/]", value, re.IGNORECASE) is not None


def asset_type(name: str, hint: str = "") -> tuple[str, str]:
    """
    Return the upload call's ``type`` and ``extension`` for a file.

    :param name: the file's name.
    :param hint: the body's field that it is for: ``webm`` may be a video or an audio.
    :raises MagicHourArgumentError: if the name's extension is none that Magic Hour takes.
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
        return guessed, extension  # a newer format; Magic Hour itself says whether it takes it
    known_types = "; ".join(f"{kind}: {', '.join(known)}" for kind, known in UPLOAD_EXTENSIONS.items())
    raise MagicHourArgumentError(
        f"{name!r} cannot be uploaded: Magic Hour takes no files that end in {f'.{extension}'!r}. "
        f"It takes {known_types}"
    )


def find_assets(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """
    Return the local files and object-storage URLs under a body's ``assets``, each with its field.

    :raises MagicHourArgumentError: if one is a GIF where Magic Hour takes none.
    """
    found: list[tuple[str, str]] = []
    for value, name in _walk(body.get("assets"), "assets"):
        if not _is_file(value, name):
            continue
        if value.lower().endswith(".gif") and name != "video_file_path":
            raise MagicHourArgumentError(
                f"{name} is {value!r}, but Magic Hour takes a GIF only as video_file_path of face-swap"
            )
        found.append((value, name))
    return found


def replace_assets(body: Mapping[str, Any], uploaded: Mapping[str, str]) -> dict[str, Any]:
    """Return the body with the names of uploads in the places of the files."""
    return {**body, "assets": _replace(body["assets"], uploaded)} if "assets" in body else dict(body)


def _walk(value: Any, name: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _walk(each, str(key))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _walk(each, name)
    elif isinstance(value, str):
        yield value, name


def _is_file(value: str, name: str) -> bool:
    """Tell a file from a word (``all-faces``) and from what Magic Hour can read by itself."""
    if is_remote(value) or name == "original_face" or not value.strip():
        return False
    if "://" in value or value.startswith(("/", "./", "../", "~/")):
        return True
    extension = PurePath(value).suffix.lower().lstrip(".")
    return name.endswith(("_file_path", "_file_paths")) or any(
        extension in known for known in UPLOAD_EXTENSIONS.values()
    )


def _replace(value: Any, uploaded: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _replace(each, uploaded) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_replace(each, uploaded) for each in value]
    return uploaded.get(value, value) if isinstance(value, str) else value

"""Shows the files of a task in Airflow's forms, so that a person can choose."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from airflow_provider_magichour.links import project_url, view_url
from airflow_provider_magichour.ui.media import file_key, media_of
from airflow_provider_magichour.ui.roots import plain_location, view_roots

#: The most files that are shown.
MOST = 50


def review_body(files: Mapping[str, Any] | Sequence[Any], label: str = "Draft") -> str:
    """
    Return Markdown that shows files, for the ``body`` of a human-in-the-loop operator.

    If the view is on, it contains thumbnails with links to the view. Otherwise it contains names with links
    to Magic Hour's library.

    :param files: the result of download or generate, or a list of such results. Each element is one choice.
    :param label: the name of the choices. A number from 1 on is added.
    """
    results = files.get("files", [files]) if isinstance(files, Mapping) else files
    choices = [_files(result) for result in results]
    roots = {name: plain_location(root) for name, root in view_roots().items()}
    parts = [
        f"**{_escape(label)} {number}**\n\n" + "\n\n".join(_show(file, roots) for file in choice)
        for number, choice in enumerate(choices[:MOST], 1)
    ]
    if len(choices) > MOST:
        parts.append(f"and {len(choices) - MOST} more")
    return "\n\n".join(parts) or "There is no file to choose from."


def _files(result: Any) -> list[Mapping[str, Any]]:
    """Return the files in a result, however deep they are."""
    if isinstance(result, Mapping):
        return [result] if "path" in result else _files(result.get("files", ()))
    return [file for one in result for file in _files(one)]


def _show(file: Mapping[str, Any], roots: Mapping[str, str]) -> str:
    path = plain_location(str(file["path"]))
    folder, name = posixpath.split(path)
    project_id = posixpath.basename(folder)
    media, _ = media_of(name)
    shown = _escape(name)
    below = [root for root, at in roots.items() if path.startswith(f"{at}/")]
    if below and media and file.get("sha256"):
        root = max(below, key=lambda each: len(roots[each]))
        url = f"{view_url(is_path=True)}media/{root}/{quote(project_id)}/{file_key(file)}"
        return f"![{shown}]({url})\n\n[{shown}]({url})" if media == "image" else f"[{shown}]({url})"
    return f"[{shown}]({project_url(media, project_id)})" if media else shown


def _escape(text: str) -> str:
    line = "".join(character if character.isprintable() else " " for character in text[:200])
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&-])", r"\\\1", line)

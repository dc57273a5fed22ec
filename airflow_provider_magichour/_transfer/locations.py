"""Checks of a destination or source as a text, before anything is opened or paid for."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from airflow_provider_magichour._validation import argument_error

log = logging.getLogger(__name__)

LOCAL_SCHEMES = frozenset({"file", "local"})

# Not compiled here, because Airflow parses DAG files often, and most tasks check nothing.
_CONTROL = "[\x00-\x1f\x7f-\x9f\u2028\u2029]"
_TEMPLATE = r"\{\{|\{%|\{#"
_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]*):(//)?"


def check_location(value: object, name: str = "destination") -> str:
    r"""
    Return the text of a path or URL, absolute and without surrounding white space.

    :param value: a path, a ``file://`` URL, or a URL for ObjectStoragePath, such as
        ``s3://conn_id@bucket/key``; also a path object.
    :raises MagicHourArgumentError: if it cannot be what the user meant, such as ``s3:/bucket``, ``None``,
        ``file://host/x``, ``//host/x``, ``s3://bucket/../x`` or ``C:\media``.
    """
    text = _text(value, name)
    if text.partition("/")[0].casefold() in {"none", "null"} or not text:
        raise argument_error(
            f"{name} is {text!r}: it must be a folder or an object-storage URL, such as '/data' or "
            "'s3://bucket/folder'; if it is a template, check its rendered value"
        )
    if re.search(_CONTROL, text):
        raise argument_error(f"{name} {text!r} contains control characters: remove them")
    if re.search(_TEMPLATE, text):
        raise argument_error(f"{name} {text!r} is a template that was not rendered: pass what it stands for")
    if re.match(r"[A-Za-z]:|\\\\", text):
        raise argument_error(
            f"{name} {text!r} is a path of Windows, and workers run on Linux or macOS: pass a path such as "
            "'/data/media', or an object-storage URL"
        )
    scheme = re.match(_SCHEME, text)
    if scheme is None:
        return _local_path(text, name)
    if not scheme[2]:
        raise argument_error(
            f"{name} {text!r} has no '//' after '{scheme[1]}:'. Write '{scheme[1]}://...', as text or as an "
            "ObjectStoragePath, because a pathlib.Path makes one slash of two; for a folder whose name has "
            f"a colon, write './{text}'"
        )
    _check_url(text, name)
    return text


def _text(value: object, name: str) -> str:
    options = getattr(value, "storage_options", None)
    if not isinstance(value, str | os.PathLike) and options is None:
        raise argument_error(
            f"{name} must be a path such as '/data' or 's3://conn_id@bucket/folder', not of type "
            f"{type(value).__name__}"
        )
    text = str(value).strip()
    conn_id = getattr(value, "conn_id", None) or (options or {}).get("conn_id")
    if conn_id and "@" not in urlsplit(text).netloc:  # Airflow 2.11 leaves it out
        scheme, _, rest = text.partition("://")
        text = f"{scheme}://{conn_id}@{rest}"
    return text


def _local_path(text: str, name: str) -> str:
    _check_slashes(text, text, name)
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise argument_error(f"{name} {text!r} names a user without a home folder") from None
    return str(path.absolute())


def _check_slashes(path: str, text: str, name: str) -> None:
    """Refuse the path of another machine's folder, which is a folder of this one on Linux and macOS."""
    if re.match(r"//(?!/)", path):
        raise argument_error(
            f"{name} {text!r} begins with two slashes: a local folder has one, such as "
            f"'/{path.lstrip('/')}', and a folder of another machine must be mounted"
        )


def _check_url(text: str, name: str) -> None:
    try:
        parts = urlsplit(text)
    except ValueError:
        raise argument_error(f"{name} {text!r} is not a URL: check its brackets") from None
    if parts.scheme in {"http", "https"}:
        raise argument_error(
            f"{name} {text.partition('?')[0]!r} is the address of a web page, where no files can be stored: "
            "pass a folder or an object-storage URL such as 's3://bucket/folder'"
        )
    if parts.scheme in LOCAL_SCHEMES:
        if parts.netloc.lower() not in {"", "localhost"}:
            raise argument_error(
                f"{name} {text!r} names the host {parts.netloc!r}: a local folder has three slashes, such as "
                f"'{parts.scheme}:///{parts.netloc}{parts.path}'"
            )
        path = text.partition("://")[2][len(parts.netloc) :]
        if not path.startswith("/") or re.match(r"/[A-Za-z]:", path):
            raise argument_error(f"{name} {text!r} names no folder: write 'file:///data/media'")
        _check_slashes(path, text, name)
        return
    bucket = parts.netloc.rpartition("@")[2]
    if parts.scheme != "memory" and (bucket.casefold() in {"", "none", "null"} or bucket.endswith(":")):
        raise argument_error(
            f"{name} {text!r} names no bucket: it must be like 's3://bucket/folder'; where it is a template, "
            "check what that renders to"
        )
    if name != "source" and "?versionId=" in text:
        raise argument_error(f"{name} {text!r} names one version of an object: leave out '?versionId='")
    if {".", ".."}.intersection(text.partition("://")[2].split("/")[1:]):
        raise argument_error(
            f"{name} {text!r} has '.' or '..' between slashes, which means no other folder in an object "
            "store: write the folder that is meant"
        )


def index_root(unrendered: object, rendered: object, index: object = None) -> str:
    """
    Return the place of a destination's catalogue and submit records, which no template changes.

    :param unrendered: the destination in the DAG, before templates are rendered; None if it is not known.
    :param rendered: the destination of this run.
    :param index: the place that the user chose. If None, it is the part of the destination before its first
        template, or the destination of this run if that part names no bucket or folder.
    :raises MagicHourArgumentError: if one of them cannot be what the user meant.
    """
    if index is not None:
        return check_location(index, "index")
    destination = check_location(rendered)
    is_text = isinstance(unrendered, str) or hasattr(unrendered, "storage_options")
    text = _text(unrendered, "destination") if is_text else ""
    template = re.search(_TEMPLATE, text)
    if template is not None:
        fixed = text[: template.start()].rpartition("/")[0]
        if fixed and not fixed.endswith((":", "/")):
            return check_location(fixed)
    if template is not None or unrendered is None or hasattr(unrendered, "resolve"):
        log.info(
            "The catalogue of these downloads is at %s. If the destination changes from run to run, "
            "set index= to one place for all runs, and pass the same index= to the clean-up",
            destination,
        )
    return destination

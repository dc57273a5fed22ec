"""What a user may name as a place for files: checks of the text alone, before anything is opened or paid."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from airflow_provider_magichour._validation import argument_error

log = logging.getLogger(__name__)

LOCAL_SCHEMES = frozenset({"file", "local"})

# Not compiled here: DAG files are parsed all day, and most tasks check nothing.
_CONTROL = "[\x00-\x1f\x7f-\x9f\u2028\u2029]"
_TEMPLATE = r"\{\{|\{%|\{#"
_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]*):(//)?"


def check_location(value: object, name: str = "destination") -> str:
    r"""
    Return the text of a path or URL of files: absolute, and without white space around it.

    :param value: a path, a ``file://`` URL, or what ObjectStoragePath takes, such as
        ``s3://conn_id@bucket/key``; also a path object.
    :param name: the argument, for messages.
    :raises MagicHourArgumentError: if it cannot be what the user meant, such as ``s3:/bucket``, ``None``,
        ``file://host/x`` or ``C:\media``.
    """
    text = _text(value, name)
    if text.partition("/")[0].casefold() in {"none", "null"} or not text:
        raise argument_error(
            f"{name} is {text!r}: it must be a folder or an object-storage URL, such as '/data' or "
            "'s3://bucket/folder'; where it is a template, check what that renders to"
        )
    if re.search(_CONTROL, text):
        raise argument_error(f"{name} {text!r} holds control characters: remove them")
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
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise argument_error(f"{name} {text!r} names a user without a home folder") from None
    return str(path.absolute())


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
        return
    bucket = parts.netloc.rpartition("@")[2]
    if parts.scheme != "memory" and (bucket.casefold() in {"", "none", "null"} or bucket.endswith(":")):
        raise argument_error(
            f"{name} {text!r} names no bucket: it must be like 's3://bucket/folder'; where it is a template, "
            "check what that renders to"
        )


def index_root(unrendered: object, rendered: object, index: object = None) -> str:
    """
    Return where the catalogue and the submit records of a destination lie: a place that no template moves.

    :param unrendered: the destination as the DAG has it; None where nobody knows.
    :param rendered: the destination of this run.
    :param index: where the user wants it; None for the part of the destination before its first template,
        and where that names no bucket or folder, the destination of this run.
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
            "The catalogue of what is downloaded lies at %s. Where the destination changes from run to run, "
            "set index= to one place for all, which the clean-up then goes by",
            destination,
        )
    return destination

"""Opens a user's destination: a folder on local disk, or in any store that Airflow has a file system for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_magichour.exceptions import MagicHourArgumentError, MagicHourDownloadError
from airflow_provider_magichour.storage import Storage


def open_destination(destination: object, name: str = "destination") -> Storage:
    """
    Return the storage of a destination.

    :param destination: a path, a ``file://`` URL, or what ObjectStoragePath takes, such as
        ``s3://conn_id@bucket/key``.
    :raises MagicHourArgumentError: if it is not a path.
    :raises MagicHourDownloadError: if Airflow has no file system for it, or cannot open it.
    """
    shown = _text(destination, name)
    parts = urlsplit(shown)
    if "://" not in shown or parts.scheme in {"file", "local"}:
        root = _local_path(shown) if "://" in shown else shown
        return Storage(str(Path(root).expanduser().absolute()), shown)
    conn_id, _, host = parts.netloc.rpartition("@")
    if not host and parts.scheme != "memory":
        raise MagicHourArgumentError(
            f"{name} {shown!r} names no bucket: it must be like 's3://bucket/folder'"
        )
    fs = _file_system(parts.scheme, conn_id or None, shown)
    url = f"{parts.scheme}://{host}{shown.partition('://')[2].removeprefix(parts.netloc)}"
    return Storage(str(fs._strip_protocol(url)), shown, fs, parts.scheme)


def _text(destination: object, name: str) -> str:
    conn_id = getattr(destination, "conn_id", None)
    options = getattr(destination, "storage_options", None)
    if not isinstance(destination, str | os.PathLike) and options is None:
        raise MagicHourArgumentError(
            f"{name} must be a path such as '/data' or 's3://conn_id@bucket/folder', not {destination!r}"
        )
    text = str(destination)
    if conn_id is None and options is not None:
        conn_id = options.get("conn_id")
    if conn_id and "@" not in urlsplit(text).netloc:  # Airflow 2.11 leaves it out
        scheme, _, rest = text.partition("://")
        text = f"{scheme}://{conn_id}@{rest}"
    if not text.strip() or "\0" in text:
        raise MagicHourArgumentError(f"{name} is empty: it must be the folder or bucket to store files in")
    return text


def _local_path(url: str) -> str:
    path = url.partition("://")[2]
    return path if path.startswith("/") else f"/{path.partition('/')[2]}"  # file://localhost/...


def _file_system(protocol: str, conn_id: str | None, shown: str) -> Any:
    try:
        from airflow.sdk.io.store import attach
    except ImportError:  # Airflow 2.11
        from airflow.io.store import attach  # type: ignore[no-redef,import-not-found,unused-ignore]
    try:
        try:
            return attach(protocol, conn_id).fs
        except ValueError:
            if conn_id:
                raise
            import fsspec  # type: ignore[import-untyped]  # a store without a provider, but with a package

            return fsspec.filesystem(protocol)
    except (ValueError, ImportError) as error:
        raise MagicHourDownloadError(
            f"Airflow has no file system for {shown}: {error} - install the provider of this store, with its "
            "extra for file systems, such as apache-airflow-providers-amazon[s3fs]"
        ) from error
    except Exception as error:
        raise MagicHourDownloadError(
            f"The store of {shown} could not be opened: {type(error).__name__}: {error} - check the "
            f"connection {conn_id or 'in its environment'!r}"
        ) from error

"""Open the storage of a destination, by Airflow's object storage where it is not a local folder."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_magichour._transfer.locations import LOCAL_SCHEMES, check_location
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour.exceptions import MagicHourDownloadError

log = logging.getLogger(__name__)

#: The extra of this package that installs a store's file system.
_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "amazon"),
    **dict.fromkeys(("gs", "gcs"), "google"),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), "azure"),
}


def open_destination(destination: object, name: str = "destination") -> Storage:
    """
    Return the storage of a destination.

    :param destination: as :func:`check_location` takes it.
    :raises MagicHourArgumentError: if it cannot be what the user meant.
    :raises MagicHourDownloadError: if Airflow has no file system for it, or cannot open it.
    """
    text = check_location(destination, name)
    parts = urlsplit(text)
    if "://" not in text and not str(destination).strip().startswith(("/", "~")):
        log.warning("%s %r is relative to the worker's working directory: it is %s", name, destination, text)
    if "://" not in text or parts.scheme in LOCAL_SCHEMES:
        return Storage(text.partition("://")[2].removeprefix(parts.netloc) if "://" in text else text, text)
    conn_id, _, bucket = parts.netloc.rpartition("@")
    fs = _file_system(parts.scheme, conn_id or None, text)
    url = f"{parts.scheme}://{bucket}{text.partition('://')[2].removeprefix(parts.netloc)}"
    return Storage(str(fs._strip_protocol(url)), text, fs, parts.scheme)


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
        extra = _EXTRAS.get(protocol)
        package = f"airflow-provider-magichour[{extra}]" if extra else "the Airflow provider of this store"
        raise MagicHourDownloadError(
            f"Airflow has no file system for {shown}: {error} - install {package} on the workers"
        ) from error
    except Exception as error:
        raise MagicHourDownloadError(
            f"The store of {shown} could not be opened: {type(error).__name__}: {error} - check the "
            f"connection {conn_id or 'in its environment'!r}"
        ) from error

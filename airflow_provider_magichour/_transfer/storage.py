"""
Small files below one folder, on local disk or in an object store.

Everything here appears whole or not at all: local files through a temporary name, objects because a store
publishes them when they are complete, and on file systems that promise neither, through a temporary name.
"""

from __future__ import annotations

import errno
import logging
import os
import posixpath
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_magichour._client.sanitize import without_query
from airflow_provider_magichour._transfer.locations import LOCAL_SCHEMES, check_location
from airflow_provider_magichour.exceptions import MagicHourDownloadError

log = logging.getLogger(__name__)

#: Stores whose ``open(..., "wb")`` shows the object only once it is closed.
PUBLISH_ON_CLOSE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "r2"})


class Storage:
    """
    Read and write files by their path relative to a folder.

    :param root: the folder, as the file system names it.
    :param shown: the folder as its user names it, which results and messages repeat.
    :param fs: the fsspec file system, None for the local disk.
    :param protocol: the file system's protocol.
    """

    def __init__(self, root: str, shown: str, fs: Any = None, protocol: str = "file") -> None:
        self.root = root.rstrip("/") or "/"
        self._shown = shown.rstrip("/") or "/"
        self.fs = fs
        self.protocol = protocol

    @property
    def is_local(self) -> bool:
        """Return whether the files are on the local disk."""
        return self.fs is None

    @property
    def publishes_on_close(self) -> bool:
        """Return whether a file that is being written is invisible until it is closed."""
        return self.protocol in PUBLISH_ON_CLOSE

    def full(self, path: str) -> str:
        """Return the path as the file system names it."""
        return f"{self.root.rstrip('/')}/{path}" if path else self.root

    def shown(self, path: str) -> str:
        """Return the path as the user names it."""
        return f"{self._shown.rstrip('/')}/{path}" if path else self._shown

    def local(self, path: str) -> Path:
        """Return the path on the local disk."""
        return Path(self.full(path))

    # ------------------------------------------------------------------------------------------- list

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the sizes in bytes of the files in a folder by name; empty where there is no folder."""
        if self.fs is None:
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.full(folder)) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
            return {}
        return {
            _name(entry["name"]): int(entry["size"])
            for entry in self._list(folder)
            if entry["type"] == "file" and entry.get("size") is not None
        }

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; empty where there is none."""
        if self.fs is None:
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.full(folder)) as entries:
                return sorted(entry.name for entry in entries)
            return []
        return sorted({_name(entry["name"]) for entry in self._list(folder)})

    def walk(self, folder: str) -> list[str]:
        """Return the names of all files in a folder and below, relative to it and sorted."""
        if self.fs is None:
            top = self.full(folder)
            return sorted(
                posixpath.join(os.path.relpath(at, top), name).removeprefix("./")
                for at, _, names in os.walk(top, onerror=_raise_unless_gone)
                for name in names
            )
        self.fs.invalidate_cache()
        start = f"{self.fs._strip_protocol(self.full(folder))}/"
        return sorted(str(found).removeprefix(start) for found in self.fs.find(self.full(folder)))

    def _list(self, folder: str) -> list[dict[str, Any]]:
        self.fs.invalidate_cache()  # another process may have written since
        try:
            return list(self.fs.ls(self.full(folder), detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return []

    # ------------------------------------------------------------------------------------------- read

    def read(self, path: str, limit: int) -> bytes | None:
        """
        Return a file's bytes, None where there is no file.

        :param limit: the most that is read; a longer file gives ``limit`` + 1 bytes.
        """
        try:
            if self.fs is None:
                with Path(self.full(path)).open("rb") as file:
                    return file.read(limit + 1)
            return bytes(self.fs.cat_file(self.full(path), start=0, end=limit + 1))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            if self.fs is not None and self.fs.size(self.full(path)) == 0:
                return b""  # no store has a range of an empty object
            raise

    def chunks(self, path: str) -> Iterator[bytes]:
        """Give a file's bytes in pieces of a few MiB."""
        with self.local(path).open("rb") if self.fs is None else self.fs.open(self.full(path), "rb") as file:
            while chunk := file.read(4 * 1024 * 1024):
                yield chunk

    # ------------------------------------------------------------------------------------------ write

    def make_folder(self, folder: str) -> None:
        """Make a folder, where the file system has folders."""
        if self.fs is None:
            Path(self.full(folder)).mkdir(parents=True, exist_ok=True)
        elif not self.publishes_on_close:  # an object store would take the bucket for the folder to make
            self.fs.makedirs(self.full(folder), exist_ok=True)

    def write(self, path: str, data: bytes) -> None:
        """Write a small file, whole or not at all; replaces one that is there."""
        folder, name = posixpath.split(path)
        if self.publishes_on_close:
            self.fs.pipe_file(self.full(path), data)
            return
        temporary = posixpath.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
        if self.fs is None:
            self._write_local(temporary, path, data)
            return
        self.make_folder(folder)
        self.fs.pipe_file(self.full(temporary), data)
        self.fs.mv(self.full(temporary), self.full(path))

    def _write_local(self, temporary: str, path: str, data: bytes) -> None:
        for last in (False, False, True):
            self.make_folder(posixpath.dirname(path))
            try:
                with self.local(temporary).open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                self.local(temporary).replace(self.local(path))
            except FileNotFoundError:  # a clean-up took the empty folder away at this very moment
                if last:
                    raise
            except OSError:
                self.local(temporary).unlink(missing_ok=True)
                raise
            else:
                sync_folder(self.local(path).parent)
                return

    def check_writable(self) -> None:
        """
        Write a small file and remove it, which finds out cheaply whether anything can be stored here.

        :raises MagicHourDownloadError: if nothing can, saying why.
        """
        # one name for all: where the connection may not delete, one object stays, and not one for each task
        probe = ".magichour-check" if self.fs else f".magichour-check-{uuid.uuid4().hex}"
        try:
            self.make_folder("")
            if self.fs is None:
                self.local(probe).touch(exist_ok=False)
            else:
                self.fs.pipe_file(self.full(probe), b"{}")
        except Exception as error:
            raise storage_error(error, self.shown("")) from error
        with suppress(Exception):
            self.remove(probe)

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        if self.fs is None:
            self.local(path).unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError):
            self.fs.rm_file(self.full(path))

    def prune(self, folder: str) -> None:
        """Remove a folder if it is empty, where the file system has folders."""
        if self.fs is None:
            with suppress(OSError):
                Path(self.full(folder)).rmdir()


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder outlive a power cut, where the file system lets us."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _raise_unless_gone(error: OSError) -> None:
    """Tell of a folder that cannot be listed; one that is not there, or was pruned meanwhile, is empty."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _name(path: str) -> str:
    return posixpath.basename(path.rstrip("/"))


def open_destination(destination: object, name: str = "destination") -> Storage:
    """
    Return the storage of a destination.

    :param destination: as :func:`check_location` takes it.
    :param name: the argument, for messages.
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


#: The extra of this package that brings a store's file system.
_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "amazon"),
    **dict.fromkeys(("gs", "gcs"), "google"),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), "azure"),
}


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


_CURES = {
    errno.ENOSPC: "the disk is full: free space, then run the task again",
    errno.EDQUOT: "the quota is used up: free space, then run the task again",
    errno.EFBIG: "it exceeds the largest file that the worker may write: raise that limit (ulimit -f)",
    errno.EROFS: "the file system is read-only: choose another destination",
    errno.EACCES: "the worker may not write there: give its user the right, or choose another destination",
    errno.EPERM: "the worker may not write there: give its user the right, or choose another destination",
    errno.ENOTDIR: "a file is where a folder is needed: remove it, or choose another destination",
    errno.EEXIST: "a file is where a folder is needed: remove it, or choose another destination",
    errno.EISDIR: "a folder is where the file belongs: remove it, or choose another destination",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter destination",
    errno.ENOENT: "the folder or bucket does not exist: make it first, or check its name",
}

_OTHER = "check that the destination exists, and that the worker or its connection may write there"


def storage_error(error: Exception, shown: str, project_id: str | None = None) -> MagicHourDownloadError:
    """Return what a store's own error means for the file at a path."""
    cure = _CURES.get(_number(error), _OTHER)
    said = without_query(f"{type(error).__name__}: {error}")[:500]
    return MagicHourDownloadError(f"{shown} could not be stored: {said} - {cure}", project_id)


def _number(error: Exception) -> int:
    if isinstance(error, FileNotFoundError):
        return errno.ENOENT
    if isinstance(error, PermissionError):
        return error.errno or errno.EACCES
    return (error.errno or 0) if isinstance(error, OSError) else 0

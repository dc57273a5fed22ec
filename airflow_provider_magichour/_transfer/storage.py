"""
Small files below one folder, on local disk or in an object store.

A file is visible only when it is complete. Local files get a temporary name first, and most object stores
show an object only when it is complete. Files on all other file systems get a temporary name first, too.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import posixpath
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_provider_magichour._transfer.storage_errors import storage_error

#: Stores in which an object is visible only after ``open(..., "wb")`` is closed.
PUBLISH_ON_CLOSE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "r2"})

#: The last letters of S3 Express buckets. Their lists have no order, and cannot start after a name.
S3_EXPRESS = "--x-s3"

#: What a local disk must take: an empty file fits on a full one.
_PROBE = bytes(64 * 1024)

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp", re.DOTALL)

#: How many names of a local folder are in memory at once.
_WINDOW = 20_000


class Storage:
    """
    Read and write files by their path relative to a folder.

    :param root: the folder, in the form of the file system.
    :param shown: the folder in the user's form, for results and messages.
    :param fs: the fsspec file system, None for the local disk.
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
    def is_s3(self) -> bool:
        """Return whether S3's own lists can be used, which are in order. S3 Express has others."""
        return hasattr(self.fs, "call_s3") and not self.root.partition("/")[0].endswith(S3_EXPRESS)

    @property
    def publishes_on_close(self) -> bool:
        """Return whether a file is invisible until it is closed."""
        return self.protocol in PUBLISH_ON_CLOSE

    def full(self, path: str) -> str:
        """Return the path in the form of the file system."""
        return f"{self.root.rstrip('/')}/{path}" if path else self.root

    def shown(self, path: str) -> str:
        """Return the path in the user's form."""
        return f"{self._shown.rstrip('/')}/{path}" if path else self._shown

    def local(self, path: str) -> Path:
        """Return the path on the local disk."""
        return Path(self.full(path))

    @property
    def url(self) -> str:
        """Return the folder without the connection, for other programs."""
        return self.root if self.fs is None else f"{self.protocol}://{self.root}"

    def relative(self, url: str) -> str | None:
        """Return a folder, given as its :attr:`url`, relative to this one; None if it is not below it."""
        if url == self.url:
            return ""
        start = f"{self.url.rstrip('/')}/"
        path = url.removeprefix(start)
        is_below = url.startswith(start) and not {"", ".", ".."}.intersection(path.split("/"))
        return path if is_below else None

    def below(self, folder: str) -> Storage:
        """Return the storage of a folder below this one."""
        return Storage(self.full(folder), self.shown(folder), self.fs, self.protocol) if folder else self

    # ------------------------------------------------------------------------------------------- list

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the sizes in bytes of the files in a folder by name; empty if there is no folder."""
        if self.fs is None:
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.full(folder)) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
            return {}
        return {
            _name(entry["name"]): int(entry["size"])
            for page in self._pages(folder)
            for entry in page
            if entry["type"] == "file" and entry.get("size") is not None
        }

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; empty if there is none."""
        if self.fs is None:
            return sorted(self._local_names(folder))
        return sorted({_name(entry["name"]) for page in self._pages(folder) for entry in page})

    def scan(self, folder: str, after: str = "") -> Iterator[str]:
        """
        Yield the names in a folder in order. Only a part of a very large one is in memory at once.

        :param after: only names that are greater than this.
        """
        if self.fs is not None:
            for page in self._pages(folder, after):
                yield from sorted(name for entry in page if (name := _name(entry["name"])) > after)
            return
        while True:
            window = heapq.nsmallest(_WINDOW, (name for name in self._local_names(folder) if name > after))
            yield from window
            if len(window) < _WINDOW:
                return
            after = window[-1]

    def first_names(self, folder: str, after: str) -> tuple[list[str], bool]:
        """
        Return the first names of all files in a folder and below, from one request. Only on S3.

        :param after: only names that are greater than this.
        :return: the names, relative to the folder and sorted, and whether these are all.
        """
        bucket, key, _ = self.fs.split_path(self.full(folder))
        top = f"{key}/"
        page = self.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=top, StartAfter=f"{top}{after}")
        names = [one["Key"].removeprefix(top) for one in page.get("Contents", ())]
        return names, not page.get("IsTruncated")

    def _local_names(self, folder: str) -> Iterator[str]:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.full(folder)) as entries:
            for entry in entries:
                yield entry.name

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

    def _pages(self, folder: str, after: str = "") -> Iterator[list[dict[str, Any]]]:
        """Yield the file system's descriptions of a folder's content, with as few requests as possible."""
        with suppress(FileNotFoundError, NotADirectoryError):
            if self.is_s3:
                yield from self._s3_pages(folder, after)
                return
            self.fs.invalidate_cache()  # another process may have written since
            yield list(self.fs.ls(self.full(folder), detail=True))

    def _s3_pages(self, folder: str, after: str) -> Iterator[list[dict[str, Any]]]:
        """List with S3's own call. s3fs loads a whole folder, and lists its parent if it is empty."""
        bucket, key, _ = self.fs.split_path(self.full(folder))
        prefix = f"{key}/" if key else ""
        more = {"StartAfter": f"{prefix}{after}"} if after else {}
        while True:
            page = self.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter="/", **more)
            files = [
                {"name": one["Key"], "size": one["Size"], "type": "file"}
                for one in page.get("Contents", ())
                if one["Key"] != prefix
            ]
            folders = [{"name": one["Prefix"], "type": "directory"} for one in page.get("CommonPrefixes", ())]
            yield [*files, *folders]
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    # ------------------------------------------------------------------------------------------- read

    def read(self, path: str, limit: int) -> bytes | None:
        """
        Return a file's bytes, None if there is no file.

        :param limit: the most bytes to read. For a longer file, the result has ``limit`` + 1 bytes.
        """
        try:
            if self.fs is None:
                with self.local(path).open("rb") as file:
                    return file.read(limit + 1)
            return bytes(self.fs.cat_file(self.full(path), start=0, end=limit + 1))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            if self.fs is not None and self.fs.size(self.full(path)) == 0:
                return b""  # stores refuse a range of an empty object
            raise

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of a file, which is read in pieces of a few MiB."""
        digest = hashlib.sha256()
        with self.local(path).open("rb") if self.fs is None else self.fs.open(self.full(path), "rb") as file:
            while chunk := file.read(4 * 1024 * 1024):
                digest.update(chunk)
        return digest.hexdigest()

    # ------------------------------------------------------------------------------------------ write

    def make_folder(self, folder: str) -> None:
        """Make a folder, where the file system has folders."""
        if self.fs is None:
            Path(self.full(folder)).mkdir(parents=True, exist_ok=True)
        elif not self.publishes_on_close:  # in an object store, this would create a bucket
            self.fs.makedirs(self.full(folder), exist_ok=True)

    def write(self, path: str, data: bytes, *, sync: bool = True) -> None:
        """
        Write a small file, whole or not at all; replaces one that is there.

        :param sync: whether to flush it to the disk at once, if it is on a local disk.
        """
        folder, name = posixpath.split(path)
        if self.publishes_on_close:
            self.fs.pipe_file(self.full(path), data)
            return
        temporary = posixpath.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
        if self.fs is None:
            self._write_local(temporary, path, data, sync=sync)
            return
        self.make_folder(folder)
        self.fs.pipe_file(self.full(temporary), data)
        self.fs.mv(self.full(temporary), self.full(path))

    def _write_local(self, temporary: str, path: str, data: bytes, *, sync: bool) -> None:
        partial, final = self.local(temporary), self.local(path)
        for tries_left in (2, 1, 0):
            try:
                with partial.open("xb") as file:
                    file.write(data)
                    file.flush()
                    if sync:
                        os.fsync(file.fileno())
                partial.replace(final)
            except FileNotFoundError:  # the folder does not exist yet, or a clean-up has just removed it
                if not tries_left:
                    raise
                self.make_folder(posixpath.dirname(path))
            except OSError:
                partial.unlink(missing_ok=True)
                raise
            else:
                if sync:
                    sync_folder(final.parent)
                return

    def check_writable(self) -> None:
        """
        Write a small file and remove it, to check whether files can be stored here.

        :raises MagicHourDownloadError: if not. The message says why.
        """
        # in a store always the same name: without the permission to delete, only one object remains
        probe = ".magichour-check" if self.fs else f".magichour-check-{uuid.uuid4().hex}"
        try:
            self.make_folder("")
            if self.fs is None:
                self.local(probe).write_bytes(_PROBE)
            else:
                self.fs.pipe_file(self.full(probe), b"{}")
        except Exception as error:
            raise storage_error(error, self.shown("")) from error
        finally:
            with suppress(Exception):
                self.remove(probe)

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        if self.fs is None:
            self.local(path).unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError):
            self.fs.rm_file(self.full(path))

    def remove_stale_temporaries(self, folders: Iterable[str], before: datetime) -> None:
        """
        Remove the temporary files of killed tasks below folders on a local disk.

        :param before: only files that were last written before this time.
        """
        if self.fs is not None:
            return
        for folder in folders:
            for path in self.local(folder).rglob(".*.tmp"):
                with suppress(OSError):
                    if _TEMPORARY.fullmatch(path.name) and path.lstat().st_mtime < before.timestamp():
                        path.unlink()

    def prune(self, folder: str) -> None:
        """Remove a folder if it is empty, where the file system has folders."""
        if self.fs is None:
            with suppress(OSError):
                Path(self.full(folder)).rmdir()


def sync_folder(folder: Path) -> None:
    """Flush a rename in a folder to the disk, if the file system supports it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _raise_unless_gone(error: OSError) -> None:
    """Raise the error of a folder that cannot be listed. A folder that does not exist counts as empty."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _name(path: str) -> str:
    return posixpath.basename(path.rstrip("/"))

"""Decides which files are media, and reads them without following links."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from airflow_provider_magichour._transfer.storage import Storage

#: Bytes that are read at once.
CHUNK = 1024 * 1024
#: How long a presigned URL works, in seconds. A browser downloads a video in parts while it plays.
SIGNED_SECONDS = 3600

# No SVG and no other types that a browser may run as code.
_TYPES = {
    "avif": "image/avif",
    "gif": "image/gif",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "m4v": "video/mp4",
    "mov": "video/quicktime",
    "mp4": "video/mp4",
    "webm": "video/webm",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "m4a": "audio/mp4",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "wav": "audio/wav",
}


def media_of(name: str) -> tuple[str, str]:
    """Return the kind and the content type of a file by its name; empty if it is not to be shown."""
    _, dot, extension = name.lower().rpartition(".")
    content_type = _TYPES.get(extension, "") if dot else ""
    return content_type.partition("/")[0], content_type


def file_key(file: Mapping[str, Any]) -> str:
    """Return the number of a file in URLs. It is computed from the content, so it never changes."""
    return str(file["sha256"])[:16]


@dataclass(frozen=True)
class StoredFile:
    """
    A file of a receipt.

    :param root: the root of the view that contains it.
    :param path: relative to the root.
    :param size: its size in bytes, according to the receipt.
    """

    root: Storage
    path: str
    size: int
    content_type: str

    def sign(self) -> str | None:
        """Return a presigned URL, or None if the store has none."""
        if self.root.is_local:
            return None
        more = {"ResponseContentType": self.content_type} if self.root.is_s3 else {}
        try:
            url = str(self.root.fs.sign(self.root.full(self.path), expiration=SIGNED_SECONDS, **more))
        except Exception:  # noqa: BLE001 - stores raise whatever their libraries do
            return None
        return url if url.startswith(("https://", "http://")) else None

    def open(self) -> BinaryIO:
        """
        Open the file.

        :raises FileNotFoundError: if it does not exist, has another size, or its local path contains a link.
        """
        if self.root.is_local:
            file = _open_without_links(self.root.root, self.path)
        else:  # without a cache, it downloads what is read
            file = self.root.fs.open(self.root.full(self.path), "rb", cache_type="none")
        if file.seek(0, os.SEEK_END) != self.size:
            file.close()
            raise FileNotFoundError(self.path)
        return file


def read_range(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of a range in pieces, and close the file."""
    with file:
        file.seek(start)
        while chunk := file.read(min(CHUNK, end - file.tell())):
            yield chunk


def _open_without_links(root: str, path: str) -> BinaryIO:
    """Open a regular file below a folder, without following links."""
    *folders, name = path.split("/")
    if {"", ".", ".."}.intersection((*folders, name)):
        raise FileNotFoundError(path)
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        # so that a pipe does not block
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
    except OSError as error:
        raise FileNotFoundError(path) from error
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileNotFoundError(path)
    return os.fdopen(handle, "rb")

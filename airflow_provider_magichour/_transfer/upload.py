"""
Files from object storage to Magic Hour: streamed to presigned URLs, several side by side.

The API gives a URL for each file; the bytes go there without the API key. A URL that has expired, or a PUT
that broke, is made good with a fresh URL: uploads cost nothing.
"""

from __future__ import annotations

import functools
import io
import logging
import os
import random
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import requests
import tenacity
from urllib3.exceptions import HTTPError

from airflow_provider_magichour._client import api, retry
from airflow_provider_magichour._client.sanitize import one_line
from airflow_provider_magichour._client.timeouts import BufferedResponse, mount
from airflow_provider_magichour._client.transport import CONNECT_TIMEOUT, USER_AGENT, Sender
from airflow_provider_magichour._transfer.body_files import asset_type, is_remote
from airflow_provider_magichour._transfer.session import adapter, no_auth
from airflow_provider_magichour._transfer.storage import open_destination
from airflow_provider_magichour.exceptions import (
    MagicHourArgumentError,
    MagicHourDownloadError,
    MagicHourError,
    MagicHourUploadError,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_magichour._client.settings import Settings

log = logging.getLogger(__name__)

#: What can be uploaded: a path or object-storage URL, a path object, or an open binary file with a name.
Source: TypeAlias = "str | os.PathLike[str] | ObjectStoragePath | IO[bytes]"

#: Files uploaded side by side.
MAX_PARALLEL = 4
#: Bytes read from storage at once; every read of an object-storage file has its price.
CHUNK = 1024 * 1024
#: What no fresh URL mends: the file itself is refused.
_REFUSED = frozenset({411, 413, 414, 415})


class _Target(NamedTuple):
    """A place to put one file's bytes, and the name that create calls know it by."""

    url: str
    file_path: str


def upload_all(settings: Settings, sources: Sequence[tuple[Source, str]]) -> list[str | MagicHourError]:
    """
    Upload files side by side.

    :param settings: how to reach Magic Hour.
    :param sources: each file with a hint at its type, see :func:`asset_type`; what Magic Hour can read by
        itself is left alone.
    :return: in their order, what create calls take (``api-assets/...``), or the error.
    """

    def upload(source_and_hint: tuple[Source, str]) -> str | MagicHourError:
        source, hint = source_and_hint
        try:
            return upload_one(Sender(settings), source, hint)
        except MagicHourError as error:
            return error

    if len(sources) == 1:
        return [upload(sources[0])]
    with ThreadPoolExecutor(MAX_PARALLEL, thread_name_prefix="magichour-upload") as executor:
        return list(executor.map(upload, sources))


def upload_one(sender: Sender, source: Source, hint: str = "") -> str:
    """
    Upload one file.

    :return: what create calls take: ``api-assets/...``.
    :raises MagicHourArgumentError: if there is no such file, or it is empty or of an unknown type.
    :raises MagicHourUploadError: if it could not be uploaded; a later try may pass.
    """
    if isinstance(source, str) and is_remote(source):
        return source
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_AgainError),
        stop=tenacity.stop_after_attempt(sender.settings.max_attempts),
        wait=lambda state: retry.retry_wait(state.attempt_number, None, random.random()),
        before_sleep=lambda state: log.warning(
            "%s; trying again with a fresh URL", state.outcome and state.outcome.exception()
        ),
        reraise=True,
    )
    with _open(source) as (path, size, file):
        type_and_extension = asset_type(path, hint)
        name = one_line(path)  # for messages

        def attempt() -> str:
            target = _ask_for_target(sender, *type_and_extension)
            file.seek(0)
            _put(sender.settings, target, name, file, size)
            return target.file_path

        try:
            file_path = retrying(attempt)
        except _AgainError as error:
            raise MagicHourUploadError(str(error)) from error
    log.info("Uploaded %s (%d bytes) as %s", name, size, file_path)
    return file_path


class _AgainError(Exception):
    """A PUT failed in a way that a fresh URL may mend."""


def _ask_for_target(sender: Sender, kind: str, extension: str) -> _Target:
    answer = sender.send(api.upload_urls([(kind, extension)]))
    try:
        item = answer["items"][0]
        target = _Target(item["upload_url"], item["file_path"])
        parts = urlsplit(target.url)
    except (TypeError, KeyError, IndexError, ValueError, AttributeError):
        raise MagicHourUploadError(
            "Magic Hour gave no upload URL where one was asked for: is the connection's host the API?"
        ) from None
    named = isinstance(target.file_path, str) and re.fullmatch(r"[!-~]{1,1024}", target.file_path, re.ASCII)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not named:
        raise MagicHourUploadError("Magic Hour gave an upload URL that is not http(s), or no name for it")
    if _is_over(item.get("expires_at")):
        raise _AgainError("The upload URL had expired when it arrived")
    return target


def _is_over(expires_at: object) -> bool:
    try:
        when = datetime.fromisoformat(str(expires_at))
    except ValueError:
        return False
    return (when if when.tzinfo else when.replace(tzinfo=UTC)) <= datetime.now(UTC)


def _put(settings: Settings, target: _Target, name: str, file: IO[bytes], size: int) -> None:
    """Send the bytes, with their length announced and nothing that tells who sends them."""
    body = _Body(file, size)
    host = urlsplit(target.url).hostname
    with requests.Session() as session:
        session.auth = no_auth
        mount(session, adapter(BufferedResponse, settings.allow_private_hosts))
        try:
            with session.put(
                target.url,
                data=body,
                headers={"User-Agent": USER_AGENT},
                timeout=(min(CONNECT_TIMEOUT, settings.timeout), settings.timeout),
                allow_redirects=False,
                stream=True,
            ) as response:
                status = response.status_code
                said = "" if 200 <= status < 300 else _quoted(response)
        except (requests.RequestException, OSError) as error:
            # without the exception, whose own text holds the signed URL
            raise _AgainError(f"Uploading {name} to {host} broke off: {type(error).__name__}") from None
        except MagicHourDownloadError as error:  # the guard's
            raise MagicHourUploadError(f"{name} was not uploaded: {error}") from None
    if body.is_short:
        raise MagicHourUploadError(f"{name} became shorter than its {size} bytes while it was uploaded")
    if 200 <= status < 300:
        return
    message = f"Uploading {name}: {host} answered {status}: {said}"
    if status in _REFUSED:
        raise MagicHourUploadError(message)
    raise _AgainError(message)


def _quoted(response: requests.Response) -> str:
    """Return what an answer says in its first bytes, whatever is wrong with the rest."""
    try:
        first = response.raw.read1(4096, decode_content=True)
    except (HTTPError, OSError):
        first = b""
    return api.quoted_message(api.Response(response.status_code, {}, first))


class _Body:
    """
    A file as a request's body: of known length, read in large chunks, handed out in small ones.

    :param file: read from where it stands.
    :param size: how many bytes are announced; not one more is sent, should the file grow meanwhile.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = self._left = size
        self._buffer = memoryview(b"")
        self.is_short = False

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(CHUNK):
            yield chunk

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes."""
        if not self._buffer:
            chunk = self._file.read(min(CHUNK, self._left)) if self._left else b""
            if self._left and not chunk:
                self.is_short = True
                raise OSError("the file ended early")
            self._left -= len(chunk)
            self._buffer = memoryview(chunk)
        count = len(self._buffer) if count is None or count < 0 else count
        piece, self._buffer = self._buffer[:count], self._buffer[count:]
        return bytes(piece)


# ------------------------------------------------------------------------------------------------ sources


@contextmanager
def _open(source: Source) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Give a source's name, size and bytes."""
    if isinstance(source, io.IOBase) or hasattr(source, "read"):
        yield from _open_file_object(source)
        return
    name, size, open_file = _find(source)
    with open_file() as file:
        yield name, size, file


def _open_file_object(file: Any) -> Iterator[tuple[str, int, IO[bytes]]]:
    name = getattr(file, "name", None)
    if not isinstance(name, str):
        raise MagicHourArgumentError(
            "source is an open file without a name, so its type is not known: pass a path, or a named file"
        )
    stands = file.tell()
    try:
        size = file.seek(0, io.SEEK_END)
        yield name, _not_empty(name, size), file
    finally:
        file.seek(stands)


def _find(source: Any) -> tuple[str, int, Callable[[], IO[bytes]]]:
    """
    Return a source's name, its size in bytes, and what opens it.

    :raises MagicHourArgumentError: if there is no such file, or it is empty.
    :raises MagicHourUploadError: if its store cannot be read; a later try may pass.
    """
    is_path = isinstance(source, str | os.PathLike) or hasattr(source, "storage_options")
    if not is_path or not str(source).strip():
        raise MagicHourArgumentError(f"source must be a path or an object-storage URL, not {source!r}")
    try:
        storage = open_destination(source, "source")
        if storage.fs is None:
            found = Path(storage.root).stat()
            kind = "directory" if stat.S_ISDIR(found.st_mode) else "file"
            size = found.st_size
        else:
            info = storage.fs.info(storage.root)
            kind, size = info["type"], info["size"]
    except MagicHourArgumentError:
        raise
    except MagicHourDownloadError as error:
        raise MagicHourUploadError(str(error)) from error
    except (FileNotFoundError, NotADirectoryError):
        raise MagicHourArgumentError(
            f"There is no file {str(source)!r} to upload. It is looked for where the task runs; "
            "what was uploaded before is named 'api-assets/...'"
        ) from None
    except Exception as error:
        raise MagicHourUploadError(
            f"{str(source)!r} cannot be read: {type(error).__name__}: {error}"
        ) from error
    name = storage.shown("")
    if kind == "directory":
        raise MagicHourArgumentError(f"{name!r} is a folder; only files can be uploaded")
    if storage.fs is None:
        return name, _not_empty(name, size), lambda: Path(storage.root).open("rb")
    return name, _not_empty(name, size), functools.partial(storage.fs.open, storage.root, "rb")


def _not_empty(name: str, size: int) -> int:
    if not size:
        raise MagicHourArgumentError(f"{name!r} is empty, so it was not uploaded")
    return size


# ------------------------------------------------------------------------------------------------- bodies

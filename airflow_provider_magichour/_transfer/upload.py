"""
Uploads files to Magic Hour: streamed to presigned URLs, several in parallel.

The API returns a presigned URL for each file. The bytes are sent there without the API key. If a URL has
expired or a PUT fails, the file is sent again to a fresh URL, because uploads cost nothing.
"""

from __future__ import annotations

import io
import logging
import os
import random
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import requests
import tenacity

from airflow_provider_magichour._client import api, retry
from airflow_provider_magichour._client.environment import Session
from airflow_provider_magichour._client.sanitize import one_line
from airflow_provider_magichour._client.timeouts import BufferedResponse, mount
from airflow_provider_magichour._client.transport import CONNECT_TIMEOUT, USER_AGENT, Sender
from airflow_provider_magichour._transfer.body_files import asset_type, is_remote
from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour._transfer.session import Sockets, adapter, no_auth, quoted
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour._validation import NATIVE_HINT
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

#: A source: a path or object-storage URL, a path object, or an open binary file with a name.
Source: TypeAlias = "str | os.PathLike[str] | ObjectStoragePath | IO[bytes]"

#: How many files are uploaded in parallel.
MAX_PARALLEL = 4
#: Bytes that are read from the disk at once.
CHUNK = 1024 * 1024
#: Bytes that must be sent within the connection's timeout.
SENT = 16 * 1024
#: Bytes of an object that one request reads, and how many such requests are ahead of the upload.
PART = 8 * CHUNK
AHEAD = 3
#: Seconds that the end of a task waits for its uploads to stop.
STOP_TIMEOUT = 5.0
#: Statuses that refuse the file itself, so that a fresh presigned URL does not help.
_REFUSED = frozenset({411, 413, 414, 415})
#: The largest file of each plan, in bytes.
MAX_BYTES = {"free": 200 << 20, "creator": 2 << 30, "pro": 5 << 30, "business": 10 << 30}


class _Target(NamedTuple):
    """A presigned URL for one file, and the file's name in create calls."""

    url: str
    file_path: str


def upload_all(settings: Settings, sources: Sequence[tuple[Source, str]]) -> list[str | MagicHourError]:
    """
    Upload files in parallel.

    :param sources: each file with a hint at its type, see :func:`asset_type`; what Magic Hour can read by
        itself is left alone.
    :return: in their order, what create calls take (``api-assets/...``), or the error.
    """
    sockets = Sockets()

    def upload(source_and_hint: tuple[Source, str]) -> str | MagicHourError:
        source, hint = source_and_hint
        try:
            return upload_one(Sender(settings), source, hint, sockets)
        except MagicHourError as error:
            return error

    if len(sources) == 1:
        return [upload(sources[0])]
    executor = ThreadPoolExecutor(MAX_PARALLEL, thread_name_prefix="magichour-upload")
    running = [executor.submit(upload, one) for one in sources]
    try:
        return [one.result() for one in running]
    except BaseException:  # the task ends, so stop at the next write
        sockets.shut_down()
        executor.shutdown(wait=False, cancel_futures=True)
        wait([one for one in running if not one.cancelled()], STOP_TIMEOUT)
        raise
    finally:
        executor.shutdown(wait=False)


def upload_one(sender: Sender, source: Source, hint: str = "", sockets: Sockets | None = None) -> str:
    """
    Upload one file.

    :param sockets: where the connections are registered, so that they can be ended.
    :return: what create calls take: ``api-assets/...``, which Magic Hour deletes after 7 days.
    :raises MagicHourArgumentError: if there is no such file, or it is empty, too large for the account's plan
        or of an unknown type.
    :raises MagicHourUploadError: if it could not be uploaded; a later try may succeed.
    """
    if isinstance(source, str) and is_remote(source):
        return source
    sockets = sockets or Sockets()
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_RetryableError),
        stop=tenacity.stop_after_attempt(sender.settings.max_attempts),
        wait=lambda state: retry.retry_wait(state.attempt_number, None, random.random()),
        before_sleep=lambda state: log.warning(
            "%s; trying again with a fresh presigned URL", state.outcome and state.outcome.exception()
        ),
        reraise=True,
    )
    with _open(source) as file:
        type_and_extension = asset_type(file.name, hint)
        name = one_line(file.name)  # for messages
        _check_plan(sender, name, file.size)

        def attempt() -> str:
            if sockets.is_shut_down:
                raise MagicHourUploadError(f"{name} was not uploaded: stopped, because the task ends")
            target = _request_target(sender, *type_and_extension)
            _put(sender.settings, target, file._replace(name=name), sockets)
            return target.file_path

        try:
            file_path = retrying(attempt)
        except _RetryableError as error:
            raise MagicHourUploadError(str(error)) from error
    log.info("Uploaded %s (%d bytes) as %s", name, file.size, file_path)
    return file_path


def _check_plan(sender: Sender, name: str, size: int) -> None:
    """
    Check a large file against the limit of the account's plan, if the plan is known.

    :raises MagicHourArgumentError: if it is too large.
    """
    if size <= min(MAX_BYTES.values()):
        return
    try:
        tier = sender.send(api.get_account())["tier"]
        limit = MAX_BYTES[tier]
    except (MagicHourError, KeyError, TypeError):
        return
    if size > limit:
        raise MagicHourArgumentError(
            f"{name!r} has {size} bytes, but Magic Hour accepts at most {limit >> 20} MiB on the plan "
            f"{tier!r}: make it smaller, or upgrade the plan"
        )


class _RetryableError(Exception):
    """A PUT failed, but may succeed with a fresh presigned URL."""


def _request_target(sender: Sender, kind: str, extension: str) -> _Target:
    given = sender.send(api.upload_urls([(kind, extension)]))
    try:
        item = given["items"][0]
        target = _Target(item["upload_url"], item["file_path"])
        parts = urlsplit(target.url)
    except (TypeError, KeyError, IndexError, ValueError, AttributeError):
        raise MagicHourUploadError(
            "Magic Hour gave no presigned URL for the upload: is the connection's host the API?"
        ) from None
    named = isinstance(target.file_path, str) and re.fullmatch(r"[!-~]{1,1024}", target.file_path, re.ASCII)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not named:
        raise MagicHourUploadError(
            "Magic Hour gave a presigned URL that is not http(s), or no name for the upload"
        )
    if _is_expired(item.get("expires_at")):
        raise _RetryableError("The presigned URL had expired when it arrived")
    return target


def _is_expired(expires_at: object) -> bool:
    try:
        when = datetime.fromisoformat(str(expires_at))
    except ValueError:
        return False
    return (when if when.tzinfo else when.replace(tzinfo=UTC)) <= datetime.now(UTC)


def _put(settings: Settings, target: _Target, file: _File, sockets: Sockets) -> None:
    """Send the bytes, with a Content-Length and without the API key."""
    body = _Body(file.chunks(), file.size)
    host = urlsplit(target.url).hostname
    with Session() as session:
        session.auth = no_auth
        mount(session, adapter(BufferedResponse, settings.allow_private_hosts, sockets))
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
                said = "" if 200 <= status < 300 else quoted(response)
        except (requests.RequestException, OSError) as error:
            # without the exception, because its text contains the presigned URL
            raise _RetryableError(f"Uploading {file.name} to {host} failed: {type(error).__name__}") from None
        except MagicHourDownloadError as error:  # a host that the connection does not allow
            raise MagicHourUploadError(f"{file.name} was not uploaded: {error}") from None
    if body.is_short:
        raise MagicHourUploadError(f"{file.name} became shorter than its {file.size} bytes during the upload")
    if 200 <= status < 300:
        return
    message = f"Uploading {file.name}: {host} responded with {status}: {said}"
    if status in _REFUSED:
        raise MagicHourUploadError(message)
    raise _RetryableError(message)


class _Body:
    """
    A file as a request's body, of known length.

    :param size: the Content-Length. No more bytes are sent, even if the file grows.
    """

    def __init__(self, chunks: Iterator[bytes], size: int) -> None:
        self._chunks, self._size = chunks, size
        self.is_short = False

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        left = self._size
        while left:
            chunk = memoryview(next(self._chunks, b""))[:left]
            if not chunk:
                self.is_short = True
                raise OSError("the file ended early")
            left -= len(chunk)
            for start in range(0, len(chunk), SENT):
                yield bytes(chunk[start : start + SENT])


# ------------------------------------------------------------------------------------------------ sources


class _File(NamedTuple):
    """A file to upload: its name, its size in bytes, and a function that reads it from its start."""

    name: str
    size: int
    chunks: Callable[[], Iterator[bytes]]


@contextmanager
def _open(source: Source) -> Iterator[_File]:
    """Open a source. The position of an open file does not change."""
    if not (isinstance(source, io.IOBase) or hasattr(source, "read")):
        yield _find(source)
        return
    file: Any = source
    name = getattr(file, "name", None)
    if not isinstance(name, str):
        raise MagicHourArgumentError(
            "source is an open file without a name, so its type is not known: pass a path, or a named file"
        )
    position = file.tell()
    try:
        size = _not_empty(name, file.seek(0, io.SEEK_END))
        yield _File(name, size, lambda: _read_from_start(file))
    finally:
        file.seek(position)


def _read_from_start(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(CHUNK):
        yield chunk


def _read_local(path: str) -> Iterator[bytes]:
    with Path(path).open("rb") as file:
        yield from _read_from_start(file)


def _read_object(storage: Storage, size: int, version: Mapping[str, Any]) -> Iterator[bytes]:
    """
    Yield an object's bytes. The next parts are read while one is sent.

    :raises MagicHourUploadError: if it was replaced between two parts.
    """
    starts = iter(range(0, size, PART))
    reading: deque[Future[bytes]] = deque()
    executor = ThreadPoolExecutor(AHEAD, "magichour-source")

    def read(start: int) -> bytes:
        return bytes(storage.fs.cat_file(storage.root, start=start, end=min(start + PART, size)))

    try:
        for start in starts:
            reading.append(executor.submit(read, start))
            if len(reading) > AHEAD:
                yield reading.popleft().result()
        while reading:
            part = reading.popleft().result()
            if not reading and size > PART:
                storage.fs.invalidate_cache()
                if _version(storage.fs.info(storage.root)) != version:
                    raise MagicHourUploadError(
                        f"{storage.shown('')} was replaced during the upload; try again"
                    )
            yield part
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _find(source: Any) -> _File:
    """
    Find a file by its path or URL.

    :raises MagicHourArgumentError: if there is no such file, or it is empty.
    :raises MagicHourUploadError: if its store cannot be read; a later try may succeed.
    """
    is_path = isinstance(source, str | os.PathLike) or hasattr(source, "storage_options")
    if not is_path or not str(source).strip():
        raise MagicHourArgumentError(f"source must be a path or an object-storage URL, not {source!r}")
    version: dict[str, Any] = {}
    try:
        storage = open_destination(source, "source")
        if storage.fs is None:
            found = Path(storage.root).stat()
            kind = "directory" if stat.S_ISDIR(found.st_mode) else "file"
            size = found.st_size
        else:
            storage.fs.invalidate_cache()  # a listing may show another time than a HEAD
            info = storage.fs.info(storage.root)
            kind, size, version = info["type"], info["size"], _version(info)
    except MagicHourArgumentError:
        raise
    except MagicHourDownloadError as error:
        raise MagicHourUploadError(str(error)) from error
    except (FileNotFoundError, NotADirectoryError):
        is_collection = re.fullmatch(r"(?s)\s*[\[{(].*[\]})]\s*", str(source))
        raise MagicHourArgumentError(
            f"There is no file {str(source)!r} to upload on the worker where the task runs; "
            "the path of an earlier upload begins with 'api-assets/'"
            + (f". {NATIVE_HINT}" if is_collection else "")
        ) from None
    except Exception as error:
        raise MagicHourUploadError(
            f"{str(source)!r} cannot be read: {type(error).__name__}: {error}"
        ) from error
    name = storage.shown("")
    if kind == "directory":
        raise MagicHourArgumentError(f"{name!r} is a folder; only files can be uploaded")
    size = _not_empty(name, size)
    if storage.fs is None:
        return _File(name, size, lambda: _read_local(storage.root))
    return _File(name, size, lambda: _read_object(storage, size, version))


def _version(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a store says about the version of an object."""
    names = ("size", "ETag", "etag", "LastModified", "last_modified", "mtime", "generation")
    return {name: info[name] for name in names if name in info}


def _not_empty(name: str, size: int) -> int:
    if not size:
        raise MagicHourArgumentError(f"{name!r} is empty, so it was not uploaded")
    return size

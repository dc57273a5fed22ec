"""Where a download's bytes go on the way to an object store: in parts, uploaded beside the download."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from airflow_provider_magichour._transfer.responses import InterruptedDownloadError, Validator
from airflow_provider_magichour._transfer.s3 import (
    S3,
    MultipartUpload,
    SmallObject,
    open_s3,
    translated_errors,
)
from airflow_provider_magichour._transfer.sinks import Beside, Digest
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour._transfer.storage_errors import storage_error
from airflow_provider_magichour.exceptions import MagicHourArgumentError

_MIB = 1024 * 1024
#: The size of a part in bytes. All parts of a file but the last have the same size, as Cloudflare R2
#: requires.
PART = 6 * _MIB
#: The most parts of one object, below S3's limit of 10,000.
_MAX_PARTS = 9000


class ObjectSink:
    """
    An object that is visible only when it is complete.

    On file systems that show a file while it is written, it gets a temporary name first. Parts are not on the
    heap: memory that many threads allocate and free there in turn stays with the process.

    :param open_args: arguments of the store's fsspec ``open``, such as ``ServerSideEncryption`` for S3.
    :param s3: uploads to S3; None for other stores.
    :param project_id: stored in the metadata of the object, if the store has any.
    """

    def __init__(
        self,
        storage: Storage,
        path: str,
        open_args: Mapping[str, Any] | None = None,
        s3: S3 | None = None,
        project_id: str | None = None,
    ) -> None:
        self._storage, self._path = storage, path
        self._open_args, self._s3, self._project_id = open_args or {}, s3, project_id
        self._digest = Digest()
        self._pieces: list[bytes] = []
        self._held = 0
        self._upload: _Upload | None = None
        self._is_first = True
        self.offset = 0
        self.validator = Validator()
        self.content_type = ""
        self.suffix = ""

    def head(self) -> bytes:
        """Return nothing, because a try cannot continue with an object of another try."""
        return b""

    def restart(self, validator: Validator) -> None:
        self._abort()
        self._digest.restart()
        self.offset, self.validator = 0, validator

    def write(self, chunk: bytes) -> None:
        """
        Take the next bytes.

        :raises InterruptedDownloadError: if somebody else aborted the upload; the file starts over.
        """
        self.offset += len(chunk)
        size = self.part_size
        while self._held + len(chunk) > size:  # the last part is kept for the end, so that it is not empty
            self._pieces.append(chunk[: size - self._held])
            chunk = chunk[size - self._held :]
            self._put(self._take())
        self._pieces.append(chunk)
        self._held += len(chunk)

    def publish(self) -> str:
        """
        Give the object its final name and return its sha256.

        :raises InterruptedDownloadError: if somebody else aborted the upload; the file starts over.
        """
        last = self._take()
        self._digest.update(last)
        sha256 = self._digest.hexdigest()
        try:
            if self._upload is None:
                self._upload = self._open(self._metadata(sha256), is_small=True)
            self._upload.finish(last, self._metadata(sha256))
        except InterruptedDownloadError:
            self.restart(Validator())
            raise
        except BaseException:
            self._abort()
            raise
        self._upload = None
        self._digest.close()
        return sha256

    def close(self) -> None:
        """Close it. Another worker cannot continue with an object."""
        self.discard()

    def discard(self) -> None:
        self._abort()
        self._digest.close()

    # ------------------------------------------------------------------------------------------ parts

    @property
    def part_size(self) -> int:
        """Return the bytes of each part but the last."""
        if self.validator.length is None:
            return 2 * PART
        least = -(-self.validator.length // _MAX_PARTS)
        return max(PART, -(-least // _MIB) * _MIB)

    def _take(self) -> bytes:
        part = b"".join(self._pieces)
        self._pieces, self._held = [], 0
        return part

    def _put(self, part: bytes) -> None:
        self._digest.update(part)
        try:
            if self._upload is None:
                self._upload = self._open(self._metadata(None), is_small=False)
            self._upload.put(part)
        except InterruptedDownloadError:
            self.restart(Validator())
            raise

    def _metadata(self, sha256: str | None) -> dict[str, str]:
        metadata = {"project_id": self._project_id, "sha256": sha256}
        return {name: value for name, value in metadata.items() if value is not None}

    def _open(self, metadata: Mapping[str, str], *, is_small: bool) -> _Upload:
        folder = self._path.rpartition("/")[0]
        final, s3 = self._storage.full(f"{self._path}{self.suffix}"), self._s3
        if s3 and is_small:
            return SmallObject(s3, final, self.content_type)
        if s3:
            first, self._is_first = self._is_first, False
            return MultipartUpload(s3, final, self.content_type, metadata, abort_others=first)
        self._storage.make_folder(folder)
        arguments = _file_arguments(self._storage.protocol, self._open_args, self.content_type, metadata)
        target = final
        if not self._storage.publishes_on_close:
            name = self._path.rpartition("/")[2]
            target = self._storage.full(f"{folder}/.{name}.{uuid.uuid4().hex[:12]}.part")
        return _FileUpload(self._storage, target, final, {"block_size": self.part_size, **arguments})

    def _abort(self) -> None:
        self._pieces, self._held = [], 0
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.abort()


def _file_arguments(
    protocol: str, open_args: Mapping[str, Any], content_type: str, metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Return the arguments of a file system's ``open`` for an object; none for an unknown file system."""
    arguments = dict(open_args)
    if protocol not in {"gs", "gcs", "abfs", "abfss", "az", "adl"}:
        return arguments
    arguments["metadata"] = {**metadata, **(open_args.get("metadata") or {})}
    if content_type and protocol in {"gs", "gcs"}:
        arguments.setdefault("content_type", content_type)
    elif content_type:
        arguments.setdefault("content_settings", {"content_type": content_type})
    return arguments


def check_open_args(storage: Storage, open_args: Any) -> None:
    """
    Check whether a store accepts ``open_args``, as far as possible before a file is stored.

    A small file is written with them and removed.

    :raises MagicHourArgumentError: if they are wrong, or the store refuses them.
    :raises MagicHourDownloadError: if the store cannot be written.
    """
    if not isinstance(open_args, Mapping | None):
        raise MagicHourArgumentError(f"open_args must be a mapping of names to values, not {open_args!r}")
    if not open_args or storage.is_local:
        return
    probe = ".magichour-check"
    s3 = open_s3(storage, open_args)
    try:
        if s3:
            s3.close()
            with translated_errors():
                s3.try_arguments(storage.full(probe))
        else:
            storage.make_folder("")
            arguments = {"block_size": PART, **_file_arguments(storage.protocol, open_args, "", {})}
            with storage.fs.open(storage.full(probe), "wb", **arguments) as file:
                file.write(b"{}")
    except MagicHourArgumentError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise MagicHourArgumentError(
            f"open_args has {', '.join(sorted(map(str, open_args)))}, with which {storage.shown('')} cannot "
            f"be written: {error} - use the arguments that the store's fsspec open takes"
        ) from error
    except Exception as error:
        raise storage_error(error, storage.shown("")) from error
    with suppress(Exception):
        storage.remove(probe)


class _Upload(Protocol):
    """An object that is being uploaded to the store."""

    def put(self, part: bytes) -> None:
        """Upload a part. The upload may still run when this returns."""

    def finish(self, last: bytes, metadata: Mapping[str, str]) -> None:
        """Upload the last part, and publish the object."""

    def abort(self) -> None:
        """Cancel the upload, and leave nothing behind."""


class _FileUpload:
    """A file of any file system, written by its own thread, so that the download continues."""

    def __init__(self, storage: Storage, target: str, final: str, arguments: Mapping[str, Any]) -> None:
        self._storage = storage
        self._target = target
        self._final = final
        self._file = storage.fs.open(target, "wb", **arguments)
        self._writer = Beside("magichour-object")

    def put(self, part: bytes) -> None:
        self._writer.start(self._write, part)

    def _write(self, part: bytes) -> None:
        self._file.write(bytes(part))  # of each file system's own make, which may take nothing else

    def finish(self, last: bytes, metadata: Mapping[str, str]) -> None:
        self._writer.finish()
        self._write(last)
        if isinstance(getattr(self._file, "metadata", None), dict):  # Azure gets it with the last request
            self._file.metadata = {**metadata, **self._file.metadata}
        self._file.close()
        if self._target != self._final:
            try:
                self._storage.fs.mv(self._target, self._final)
            except BaseException:
                with suppress(Exception):
                    self._storage.fs.rm_file(self._target)
                raise
        self._writer.close()

    def abort(self) -> None:
        """Discard the file. Closing it would publish the bytes so far."""
        self._writer.close()
        if hasattr(self._file, "discard"):
            with suppress(Exception):  # if it cannot be discarded, the upload never completes
                self._file.discard()
        if self._storage.publishes_on_close:
            with suppress(Exception):
                self._file.closed = True  # otherwise, its finalizer would publish it
            return
        with suppress(Exception):
            self._file.close()
        with suppress(Exception):
            self._storage.fs.rm_file(self._target)

"""Where a download's bytes go on the way to an object store: in parts, uploaded beside the download."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from airflow_provider_magichour._transfer.responses import InterruptedDownloadError, Validator
from airflow_provider_magichour._transfer.s3 import S3, MultipartUpload, SmallObject, open_s3
from airflow_provider_magichour._transfer.sinks import Digest
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour._transfer.storage_errors import storage_error
from airflow_provider_magichour.exceptions import MagicHourArgumentError

_MIB = 1024 * 1024
#: Bytes of a part; of one file, all but the last are equal, as Cloudflare R2 demands.
PART = 6 * _MIB
#: Parts of one object, below the 10,000 that S3 takes.
_MAX_PARTS = 9000


@dataclass(frozen=True)
class ObjectOptions:
    """
    What objects are written with.

    :param open_args: what the store's fsspec ``open`` takes, such as ``ServerSideEncryption`` for S3.
    :param metadata: the objects' own metadata, where the store keeps any.
    :param s3: what uploads to S3; None for other stores.
    """

    open_args: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    s3: S3 | None = None


class ObjectSink:
    """
    An object that appears only when it is whole.

    On file systems that show a file while it is written, it is written under a temporary name.
    """

    def __init__(self, storage: Storage, path: str, options: ObjectOptions | None = None) -> None:
        self._storage = storage
        self._path = path
        self._options = options or ObjectOptions()
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
        """Return nothing: no try can go on with what another left."""
        return b""

    def restart(self, validator: Validator) -> None:
        """Drop what is held: what follows is the file from its start, in this version."""
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
        while self._held + len(chunk) > size:
            room = size - self._held
            self._pieces.append(chunk[:room])
            chunk = chunk[room:]
            part, self._pieces, self._held = b"".join(self._pieces), [], 0
            self._digest.update(part)
            self._put(part)
        self._pieces.append(chunk)
        self._held += len(chunk)

    def publish(self) -> str:
        """
        Give the object its final name and return its sha256.

        :raises InterruptedDownloadError: if somebody else aborted the upload; the file starts over.
        """
        last, self._pieces, self._held = b"".join(self._pieces), [], 0
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
        """Let go; an object cannot be gone on with by another worker."""
        self.discard()

    def discard(self) -> None:
        """Let go and leave nothing behind."""
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

    def _put(self, part: bytes) -> None:
        try:
            if self._upload is None:
                self._upload = self._open(self._metadata(None), is_small=False)
            self._upload.put(part)
        except InterruptedDownloadError:
            self.restart(Validator())
            raise

    def _metadata(self, sha256: str | None) -> dict[str, str]:
        return {**self._options.metadata, **({} if sha256 is None else {"sha256": sha256})}

    def _open(self, metadata: Mapping[str, str], *, is_small: bool) -> _Upload:
        folder = self._path.rpartition("/")[0]
        final, s3 = self._storage.full(f"{self._path}{self.suffix}"), self._options.s3
        if s3 and is_small:
            return SmallObject(s3, final, self.content_type)
        if s3:
            first, self._is_first = self._is_first, False
            return MultipartUpload(s3, final, self.content_type, metadata, abort_others=first)
        self._storage.make_folder(folder)
        arguments = _file_arguments(
            self._storage.protocol, self._options.open_args, self.content_type, metadata
        )
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
    """Return what a file system's ``open`` takes to write an object; nothing of ours where it is unknown."""
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
    Raise where a store refuses ``open_args``, as far as that can be known before a file is stored.

    A small file is written with them and removed.

    :raises MagicHourArgumentError: if they are none, or the store does not take them.
    :raises MagicHourDownloadError: if nothing can be stored with them.
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
    """An object on its way to the store."""

    def put(self, part: bytes) -> None:
        """Take a part; it may still be on its way when this returns."""

    def finish(self, last: bytes, metadata: Mapping[str, str]) -> None:
        """Take the last part and make the object appear."""

    def abort(self) -> None:
        """Leave nothing behind."""


class _FileUpload:
    """A file of any file system, written by a thread of its own so that the download goes on meanwhile."""

    def __init__(self, storage: Storage, target: str, final: str, arguments: Mapping[str, Any]) -> None:
        self._storage = storage
        self._target = target
        self._final = final
        self._file = storage.fs.open(target, "wb", **arguments)
        self._writer = ThreadPoolExecutor(1, "magichour-object")
        self._writing: Future[Any] | None = None

    def put(self, part: bytes) -> None:
        self._settle()
        self._writing = self._writer.submit(self._file.write, part)

    def _settle(self) -> None:
        """Wait for the part that is being written; it may have failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def finish(self, last: bytes, metadata: Mapping[str, str]) -> None:
        self._settle()
        self._file.write(last)
        if isinstance(getattr(self._file, "metadata", None), dict):  # Azure takes it with the last request
            self._file.metadata = {**metadata, **self._file.metadata}
        self._file.close()
        if self._target != self._final:
            try:
                self._storage.fs.mv(self._target, self._final)
            except BaseException:
                with suppress(Exception):
                    self._storage.fs.rm_file(self._target)
                raise
        self._writer.shutdown()

    def abort(self) -> None:
        """Give up. Plainly closing the file would publish what was written so far."""
        with suppress(Exception):
            self._settle()
        self._writer.shutdown()
        if hasattr(self._file, "discard"):
            with suppress(Exception):  # what can't be discarded is an upload that never completes
                self._file.discard()
        if self._storage.publishes_on_close:
            with suppress(Exception):
                self._file.closed = True  # or its finalizer would publish it
            return
        with suppress(Exception):
            self._file.close()
        with suppress(Exception):
            self._storage.fs.rm_file(self._target)

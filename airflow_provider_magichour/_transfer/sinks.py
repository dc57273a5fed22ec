"""Where a download's bytes go until they are complete and verified: a local file, or an object."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import uuid
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from airflow_provider_magichour._transfer.responses import Validator
from airflow_provider_magichour._transfer.storage import Storage, sync_folder

_MIB = 1024 * 1024
#: What an object store takes at a time: the smallest that keeps 10,000 parts enough for 80 GB.
_BLOCK = 8 * _MIB
_MAX_PARTS = 9000
#: How much is written between two flushes to the disk.
_FLUSH = 64 * _MIB


class Sink(Protocol):
    """
    Takes a file's bytes and gives them their final name when told that they are whole.

    ``offset`` is how many bytes it holds, ``validator`` which version of the file they are of.
    """

    offset: int
    validator: Validator

    def restart(self, validator: Validator) -> None:
        """Drop what is held: what follows is the file from its start, in this version."""

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""

    def publish(self) -> str:
        """Give the file its final name and return its sha256."""
        ...

    def close(self) -> None:
        """Let go; keep what a later try can go on with. Does nothing after ``publish``."""

    def discard(self) -> None:
        """Let go and leave nothing behind."""


def open_sink(storage: Storage, path: str, *, fresh: bool) -> Sink:
    """
    Return the sink for a file.

    :param fresh: whether to leave out what an earlier try has left.
    """
    if not storage.is_local:
        return ObjectSink(storage, path)
    storage.make_folder(path.rpartition("/")[0])
    sink = LocalSink(storage.local(path))
    if fresh:
        sink.restart(Validator())
    return sink


class LocalSink:
    """
    A partial file next to the final one, with a note beside it of which version it is of.

    It is locked while it is written. A worker's death frees the lock, and the task's retry goes on with the
    file; where another task is writing it at this moment, this one writes a partial file of its own.
    """

    def __init__(self, final: Path) -> None:
        self._final = final
        self._digest = Digest()
        self._flusher = ThreadPoolExecutor(1, "magichour-flush")
        self._flushing: Future[None] | None = None
        self._unflushed = 0
        self._part = final.with_name(f".{final.name}.part")
        self._file: int | None = _open_locked(self._part)
        self._shared = self._file is not None
        if self._file is None:
            self._part, self._file = _open_own(final)
        self._note = self._part.with_name(f"{self._part.name}.json")
        self.offset = 0
        self.validator = Validator()
        self._take_up()

    def _take_up(self) -> None:
        """Go on with what an earlier try left, if it is known which version it is of."""
        assert self._file is not None  # noqa: S101 - for the type checker
        size = os.fstat(self._file).st_size
        try:
            known = Validator.from_dict(json.loads(self._note.read_bytes()[: 64 * 1024]))
        except (OSError, ValueError, RecursionError):
            known = Validator()
        if not size or known.condition is None or (known.length is not None and size > known.length):
            os.ftruncate(self._file, 0)
            return
        while chunk := os.read(self._file, 4 * _MIB):
            self._digest.update(chunk)
            self.offset += len(chunk)
        self.validator = known

    def restart(self, validator: Validator) -> None:
        """Drop what is held: what follows is the file from its start, in this version."""
        assert self._file is not None  # noqa: S101 - for the type checker
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self._digest.restart()
        self.offset, self.validator = 0, validator
        if self._shared and validator.condition:
            temporary = self._note.with_name(f"{self._note.name}.tmp")
            with open(temporary, "w", opener=_open_no_link) as note:
                json.dump(validator.as_dict(), note)
            temporary.replace(self._note)
        else:
            self._note.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        assert self._file is not None  # noqa: S101 - for the type checker
        self._digest.update(chunk)
        rest = memoryview(chunk)
        while rest:
            written = os.write(self._file, rest)
            self.offset += written
            rest = rest[written:]
        self._unflushed += len(chunk)
        if self._unflushed >= _FLUSH and (self._flushing is None or self._flushing.done()):
            self._settle()
            self._flushing = self._flusher.submit(os.fdatasync, self._file)
            self._unflushed = 0

    def publish(self) -> str:
        """Give the file its final name and return its sha256."""
        assert self._file is not None  # noqa: S101 - for the type checker
        sha256 = self._digest.hexdigest()
        self._settle()
        os.fsync(self._file)
        self._part.replace(self._final)
        sync_folder(self._final.parent)
        self._note.unlink(missing_ok=True)
        self._release()
        return sha256

    def close(self) -> None:
        """Let go; keep the partial file if a later try can go on with it."""
        if self._file is None:
            return
        if self._shared and self.offset and self.validator.condition:
            self._release()
        else:
            self.discard()

    def discard(self) -> None:
        """Let go and leave nothing behind."""
        if self._file is None:
            return
        self._note.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)
        self._release()

    def _settle(self) -> None:
        """Wait for the flush that runs beside the network; it may have failed."""
        flushing, self._flushing = self._flushing, None
        if flushing is not None:
            flushing.result()

    def _release(self) -> None:
        assert self._file is not None  # noqa: S101 - for the type checker
        self._flusher.shutdown()
        os.close(self._file)
        self._file = None
        self._digest.close()


def _open_locked(path: Path) -> int | None:
    """Open a file that nobody else writes; None where somebody does, or the file system can't tell."""
    while True:
        handle = _open_no_link(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except FileNotFoundError:
            pass  # it got its final name, or was removed, between open and lock: what we hold is not it
        except OSError as error:
            os.close(handle)
            if error.errno in {errno.EWOULDBLOCK, errno.EACCES, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}:
                return None
            raise
        os.close(handle)


def _open_own(final: Path) -> tuple[Path, int]:
    """Open a partial file that no other task takes up; where it can be locked, no sweep takes it either."""
    part = final.with_name(f".{final.name}.{uuid.uuid4().hex[:12]}.part")
    handle = _open_locked(part)
    return part, _open_no_link(part, os.O_RDWR | os.O_CREAT) if handle is None else handle


def _open_no_link(path: str | Path, flags: int) -> int:
    """Open a file, but not through a link that somebody put in its place."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def sweep(folder: Path) -> None:
    """Remove the partial files that nobody writes any more, once the folder's files are all complete."""
    for part in folder.glob(".*.part"):
        with suppress(OSError):  # gone, or of somebody else: no reason to fail
            handle = _open_no_link(part, os.O_RDWR | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for name in (f"{part.name}.json.tmp", f"{part.name}.json", part.name):
                    part.with_name(name).unlink(missing_ok=True)
            finally:
                os.close(handle)


class ObjectSink:
    """
    An object that appears only when it is whole.

    On file systems that show a file while it is written, it is written under a temporary name.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage = storage
        self._final = storage.full(path)
        self._folder, _, name = path.rpartition("/")
        self._target = self._final
        if not storage.publishes_on_close:
            self._target = storage.full(f"{self._folder}/.{name}.{uuid.uuid4().hex[:12]}.part")
        self._file: Any = None
        self._digest = Digest()
        self.offset = 0
        self.validator = Validator()

    def restart(self, validator: Validator) -> None:
        """Drop what is held: what follows is the file from its start, in this version."""
        self._abort()
        self._digest.restart()
        self.offset, self.validator = 0, validator

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._file is None:
            self._storage.make_folder(self._folder)
            block = max(_BLOCK, -(-(self.validator.length or 0) // _MAX_PARTS))
            block = -(-block // _MIB) * _MIB
            if self.validator.length is None:
                block *= 2
            self._file = self._storage.fs.open(self._target, "wb", block_size=block)
        self._digest.update(chunk)
        self._file.write(chunk)
        self.offset += len(chunk)

    def publish(self) -> str:
        """Give the object its final name and return its sha256."""
        sha256 = self._digest.hexdigest()
        try:
            self._file.close()
        except BaseException:
            self._abort()
            raise
        self._file = None
        if self._target != self._final:
            try:
                self._storage.fs.mv(self._target, self._final)
            except BaseException:
                with suppress(Exception):
                    self._storage.fs.rm_file(self._target)
                raise
        self._digest.close()
        return sha256

    def close(self) -> None:
        """Let go; an object cannot be gone on with by another worker."""
        self.discard()

    def discard(self) -> None:
        """Let go and leave nothing behind."""
        self._abort()
        self._digest.close()

    def _abort(self) -> None:
        """Give up the upload. Plainly closing the file would publish what was written so far."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if hasattr(file, "discard"):
                with suppress(Exception):  # what can't be discarded is an upload that never completes
                    file.discard()
        finally:
            if self._storage.publishes_on_close:
                with suppress(Exception):
                    file.closed = True  # or its finalizer would publish it
            else:
                with suppress(Exception):
                    file.close()
                with suppress(Exception):
                    self._storage.fs.rm_file(self._target)


class Digest:
    """
    Hashes chunks in a thread of its own: hashing lets other threads run, so it costs no time.

    At most ``_AHEAD`` chunks wait for it, which bounds the memory.
    """

    _AHEAD = 4

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "magichour-sha256")
        self._waiting: deque[Future[None]] = deque()
        self._hash = hashlib.sha256()

    def update(self, chunk: bytes) -> None:
        """Take the next chunk, which must not change afterwards."""
        self._waiting.append(self._executor.submit(self._hash.update, chunk))
        if len(self._waiting) > self._AHEAD:
            self._waiting.popleft().result()

    def restart(self) -> None:
        """Forget everything so far."""
        self._settle()
        self._hash = hashlib.sha256()

    def hexdigest(self) -> str:
        """Return the sha256 of all chunks so far."""
        self._settle()
        return self._hash.hexdigest()

    def close(self) -> None:
        """End the thread."""
        self._settle()
        self._executor.shutdown()

    def _settle(self) -> None:
        while self._waiting:
            self._waiting.popleft().result()

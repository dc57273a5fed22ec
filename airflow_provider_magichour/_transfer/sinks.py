"""Where a download's bytes go until they are complete and verified; here, a file on the local disk."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import uuid
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from airflow_provider_magichour._transfer.responses import HEAD, Validator
from airflow_provider_magichour._transfer.storage import sync_folder

_MIB = 1024 * 1024
#: How much is written between two flushes to the disk.
_FLUSH = 64 * _MIB


class Sink(Protocol):
    """
    Takes a file's bytes and gives them their final name once they are complete.

    ``offset`` is how many bytes it holds, ``validator`` which version of the file they are of. The file's
    ``content_type`` and the ``suffix`` that completes its name are set before its first byte is written.
    """

    offset: int
    validator: Validator
    content_type: str
    suffix: str

    def restart(self, validator: Validator) -> None:
        """Drop what is held: what follows is the file from its start, in this version."""

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""

    def head(self) -> bytes:
        """Return the first bytes of what an earlier try left."""
        ...

    def publish(self) -> str:
        """Give the file its final name and return its sha256."""
        ...

    def close(self) -> None:
        """Let go; keep what a later try can go on with. Does nothing after ``publish``."""

    def discard(self) -> None:
        """Let go and leave nothing behind."""


class LocalSink:
    """
    A partial file next to the final one, with a note beside it of which version it is of.

    It is locked while it is written. A worker's death frees the lock, and the task's retry goes on with the
    file; where another task is writing it at this moment, this one writes a partial file of its own.
    """

    def __init__(self, final: Path) -> None:
        self._final = final
        self.content_type = ""
        self.suffix = ""
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

    def head(self) -> bytes:
        """Return the first bytes of what an earlier try left."""
        return b"" if self._file is None else os.pread(self._file, HEAD, 0)

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
        self._part.replace(self._final.with_name(f"{self._final.name}{self.suffix}"))
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


def sweep(folder: Path, names: Iterable[str]) -> None:
    """
    Remove the partial files that nobody writes any more, once the folder's files are all complete.

    :param names: the complete files; a partial file of another name, without a note beside it, is not ours.
    """
    stems = {each for name in names for each in (name, name.rpartition(".")[0])}
    for part in folder.glob(".*.part"):
        match = re.fullmatch(r"\.(.+?)(\.[0-9a-f]{12})?\.part", part.name)
        note = part.with_name(f"{part.name}.json")
        if not match or (match[1] not in stems and not note.exists()):
            continue
        with suppress(OSError):  # gone, or of somebody else: no reason to fail
            handle = _open_no_link(part, os.O_RDWR | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for name in (f"{part.name}.json.tmp", f"{part.name}.json", part.name):
                    part.with_name(name).unlink(missing_ok=True)
            finally:
                os.close(handle)


class Digest:
    """
    Hashes chunks in a thread of its own: hashing lets other threads run, so it costs no time.

    One chunk may wait for it, and small ones up to ``_AHEAD`` bytes, which bounds the memory. A small file is
    not worth a thread.
    """

    _AHEAD = 4 * _MIB
    _SMALL = _MIB

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._waiting: deque[tuple[int, Future[None]]] = deque()
        self._hash = hashlib.sha256()
        self._done = 0

    def update(self, chunk: bytes) -> None:
        """Take the next chunk, which must not change afterwards."""
        self._done += len(chunk)
        if self._done <= self._SMALL:
            self._hash.update(chunk)
            return
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "magichour-sha256")
        self._waiting.append((len(chunk), self._executor.submit(self._hash.update, chunk)))
        while len(self._waiting) > 1 and sum(size for size, _ in self._waiting) > self._AHEAD:
            self._waiting.popleft()[1].result()

    def restart(self) -> None:
        """Forget everything so far."""
        self._settle()
        self._hash, self._done = hashlib.sha256(), 0

    def hexdigest(self) -> str:
        """Return the sha256 of all chunks so far."""
        self._settle()
        return self._hash.hexdigest()

    def close(self) -> None:
        """End the thread."""
        self._settle()
        if self._executor is not None:
            self._executor.shutdown()

    def _settle(self) -> None:
        while self._waiting:
            self._waiting.popleft()[1].result()

"""The target of a download until the file is complete and verified. Here: a file on the local disk."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from airflow_provider_magichour._transfer.responses import HEAD, Validator
from airflow_provider_magichour._transfer.storage import sync_folder

_MIB = 1024 * 1024
#: Bytes between two flushes to the disk.
_FLUSH = 64 * _MIB


class Sink(Protocol):
    """
    Stores the bytes of a file, and gives the file its final name when it is complete.

    ``offset`` is the number of bytes so far, and ``validator`` their version of the file. ``content_type``
    and the ``suffix`` that is added to the name are set before the first byte is written.
    """

    offset: int
    validator: Validator
    content_type: str
    suffix: str

    def restart(self, validator: Validator) -> None:
        """Drop the bytes so far, because this version of the file follows from its start."""

    def write(self, chunk: bytes) -> None:
        """Store the next bytes."""

    def head(self) -> bytes:
        """Return the first bytes of the partial file of an earlier try."""
        ...

    def publish(self) -> str:
        """Give the file its final name and return its sha256."""
        ...

    def close(self) -> None:
        """Close it, and keep the bytes that a later try can continue with. After ``publish``, do nothing."""

    def discard(self) -> None:
        """Close it, and leave nothing behind."""


class LocalSink:
    """
    A partial file next to the final one, with a note beside it that contains the version of the file.

    It is locked while it is written. If the worker is killed, the lock is released, and the task's retry
    continues with the file. If another task is writing the file at the same time, this one writes its own
    partial file.
    """

    def __init__(self, final: Path) -> None:
        self._final = final
        self.content_type = ""
        self.suffix = ""
        self._digest = Digest()
        self._flusher = Beside("magichour-flush")
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
        """Continue with the partial file of an earlier try, if its version is known."""
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
        return b"" if self._file is None else os.pread(self._file, HEAD, 0)

    def restart(self, validator: Validator) -> None:
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
        assert self._file is not None  # noqa: S101 - for the type checker
        self._digest.update(chunk)
        rest = memoryview(chunk)
        while rest:
            written = os.write(self._file, rest)
            self.offset += written
            rest = rest[written:]
        self._unflushed += len(chunk)
        if self._unflushed >= _FLUSH and self._flusher.is_idle:
            self._flusher.start(os.fdatasync, self._file)
            self._unflushed = 0

    def publish(self) -> str:
        assert self._file is not None  # noqa: S101 - for the type checker
        sha256 = self._digest.hexdigest()
        self._flusher.finish()
        os.fsync(self._file)
        self._part.replace(self._final.with_name(f"{self._final.name}{self.suffix}"))
        sync_folder(self._final.parent)
        self._note.unlink(missing_ok=True)
        self._release()
        return sha256

    def close(self) -> None:
        """Close it, and keep the partial file if a later try can continue with it."""
        if self._file is None:
            return
        if self._shared and self.offset and self.validator.condition:
            self._release()
        else:
            self.discard()

    def discard(self) -> None:
        if self._file is None:
            return
        self._note.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        assert self._file is not None  # noqa: S101 - for the type checker
        self._flusher.close()
        os.close(self._file)
        self._file = None
        self._digest.close()


def _open_locked(path: Path) -> int | None:
    """Open a file that nobody else writes; None if somebody does, or if the file system has no locks."""
    while True:
        handle = _open_no_link(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except FileNotFoundError:
            pass  # the file was renamed or removed between open and lock, so this handle is another file
        except OSError as error:
            os.close(handle)
            if error.errno in {errno.EWOULDBLOCK, errno.EACCES, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}:
                return None
            raise
        os.close(handle)


def _open_own(final: Path) -> tuple[Path, int]:
    """Open a partial file that no other task continues with. If it can be locked, nobody removes it."""
    part = final.with_name(f".{final.name}.{uuid.uuid4().hex[:12]}.part")
    handle = _open_locked(part)
    return part, _open_no_link(part, os.O_RDWR | os.O_CREAT) if handle is None else handle


def _open_no_link(path: str | Path, flags: int) -> int:
    """Open a file, but not through a link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def sweep(folder: Path, names: Iterable[str]) -> None:
    """
    Remove the partial files that nobody writes any more, after all files of the folder are complete.

    :param names: the complete files. A partial file with another name and without a note belongs to another
        program.
    """
    stems = {each for name in names for each in (name, name.rpartition(".")[0])}
    for part in folder.glob(".*.part"):
        match = re.fullmatch(r"\.(.+?)(\.[0-9a-f]{12})?\.part", part.name)
        note = part.with_name(f"{part.name}.json")
        if not match or (match[1] not in stems and not note.exists()):
            continue
        with suppress(OSError):  # it does not exist any more, or belongs to somebody else
            handle = _open_no_link(part, os.O_RDWR | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for name in (f"{part.name}.json.tmp", f"{part.name}.json", part.name):
                    part.with_name(name).unlink(missing_ok=True)
            finally:
                os.close(handle)


class Beside:
    """
    Runs one call at a time in its own thread, in parallel with the download.

    :param name: the name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._executor: ThreadPoolExecutor | None = None
        self._running: Future[Any] | None = None

    @property
    def is_idle(self) -> bool:
        """Return whether a call could start without waiting for another."""
        return self._running is None or self._running.done()

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Wait for the previous call, and start one. An error of the previous call is raised here."""
        self.finish()
        self._executor = self._executor or ThreadPoolExecutor(1, self._name)
        self._running = self._executor.submit(function, *arguments)

    def finish(self) -> None:
        """Wait for the call, and raise its error."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Wait for the call, ignore its error, and end the thread."""
        if self._executor is not None:
            self._executor.shutdown()


class Digest:
    """
    Hashes chunks in its own thread. Hashing releases the GIL, so the download does not become slower.

    One chunk may wait, or small ones up to ``_AHEAD`` bytes, which limits the memory. A small file is hashed
    without a thread.
    """

    _AHEAD = 4 * _MIB
    _SMALL = _MIB

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._waiting: deque[tuple[int, Future[None]]] = deque()
        self._hash = hashlib.sha256()
        self._done = 0

    def update(self, chunk: bytes) -> None:
        """Add the next chunk, which must not change afterwards."""
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
        """Start again."""
        self._wait()
        self._hash, self._done = hashlib.sha256(), 0

    def hexdigest(self) -> str:
        """Return the sha256 of all chunks so far."""
        self._wait()
        return self._hash.hexdigest()

    def close(self) -> None:
        """End the thread."""
        if self._executor is not None:
            self._executor.shutdown()

    def _wait(self) -> None:
        while self._waiting:
            self._waiting.popleft()[1].result()

"""The sha256 of what passes, computed beside the network."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor


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

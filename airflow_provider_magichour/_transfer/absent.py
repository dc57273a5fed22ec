"""Finds the projects without stored files, without listing the folder of each project."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence, Set

#: Seconds that a list is valid, because other tasks store projects.
FRESH = 5.0


class Absent:
    """
    The projects that have no folder in the destination, as far as this is known.

    :param made: projects that this try of the task has created, so that they cannot be stored.
    :param project_ids: the projects of the later calls, each once.
    :param find: returns the projects without a folder, with one request; None if the store has no such
        request.
    """

    def __init__(
        self,
        made: Set[str],
        project_ids: Sequence[str],
        find: Callable[[Sequence[str]], Set[str]] | None,
    ) -> None:
        self._made = made
        self._left = dict.fromkeys(one for one in project_ids if one not in made)
        self._find = find
        self._lock = threading.Lock()
        self._found: Set[str] = frozenset()
        self._expires = 0.0

    def includes(self, project_id: str) -> bool:
        """Return whether a project has no folder; False if that is not known. It may list the store again."""
        if project_id in self._made:
            return True
        with self._lock:
            if time.monotonic() >= self._expires:
                self._ask()
            self._left.pop(project_id, None)
            return project_id in self._found

    def _ask(self) -> None:
        self._found = frozenset()
        if self._find and len(self._left) > 1:
            try:
                self._found = self._find(list(self._left))
            except Exception:  # noqa: BLE001 - each project's own list says what is wrong
                self._find = None
        self._expires = time.monotonic() + FRESH

"""Tell which projects have nothing stored, without a list of each one's folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence, Set

#: Seconds that a list counts: other tasks store projects meanwhile.
FRESH = 5.0


class Absent:
    """
    Projects that have no folder at the destination, as far as that is known.

    :param made: projects that this try of the task has made, of which nothing can be there.
    :param project_ids: the projects that will be asked for, each once.
    :param find: returns which projects have no folder, with one request; None where a store cannot tell.
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
        """Return whether a project has no folder, False where that is not known; may list the store again."""
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

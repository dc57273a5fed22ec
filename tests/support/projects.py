"""Magic Hour's projects at a scripted server: each has its own script."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.support.scripted_server import Reply, ScriptedServer, Seen

KEY = "mhk_live_waiting"


def project(project_id: str, status: str = "complete", **more: Any) -> dict[str, Any]:
    """Return a project as the API gives it."""
    return {
        "id": project_id,
        "name": None,
        "status": status,
        "type": "AI_IMAGE",
        "created_at": "2026-11-21T10:00:00.000Z",
        "enabled": True,
        "credits_charged": 5,
        "downloads": [],
        "error": None,
        **more,
    }


class Projects:
    """
    What the server says of each project: its replies in turn, the last one again and again.

    A project without a script is complete.
    """

    def __init__(self, server: ScriptedServer, key: str = KEY) -> None:
        self.server = server
        self.keys = {key}
        self.asked: Counter[str] = Counter()
        self._scripts: dict[str, list[Any]] = {}
        server.respond = self._respond

    def script(self, project_id: str, *steps: Any) -> None:
        """Set what is said: statuses, whole projects (dicts), replies, or functions that return one."""
        self._scripts[project_id] = list(steps)

    def _respond(self, seen: Seen) -> Reply:
        project_id = seen.path.rpartition("/")[2]
        self.asked[project_id] += 1
        if seen.headers.get("authorization") not in {f"Bearer {key}" for key in self.keys}:
            return Reply(401, {"message": "Invalid API key"})
        steps = self._scripts.get(project_id, ["complete"])
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        if callable(step):
            return step()
        if isinstance(step, Reply):
            return step
        return Reply(200, step if isinstance(step, dict) else project(project_id, step))

"""Projects at the simulator, and what a test wants to know of stored files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.simulator import Simulator

IMAGE = {"image_count": 1, "orientation": "square", "style": {"prompt": "a cat"}}


def complete_project(simulator: Simulator, hook: MagicHourHook, **body: Any) -> str:
    """Return the id of a complete image project."""
    project_id = str(hook.create_project("ai-image-generator", {**IMAGE, **body})["id"])
    simulator.end_project(project_id)
    return project_id


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def visible(folder: Path) -> list[str]:
    """Return the files below a folder that a user sees, relative to it."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if not any(part.startswith(".") for part in path.parts))

"""Projects at the simulator, and what a test wants to know of stored files."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
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
    """Return the media below a folder, relative to it: no hidden files, and not the catalogue."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(
        str(path)
        for path in found
        if not any(part.startswith(".") or part == "magichour-catalog" for part in path.parts)
    )


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the objects of the catalogue below a folder by their names, without ``.json``."""
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("magichour-catalog/*/*.json")}


def entry(folder: Path, project_id: str) -> dict[str, Any]:
    """Return the entry of a project in the catalogue below a folder."""
    (found,) = (data for name, data in entries(folder).items() if name[7:] == project_id)
    return found


def write_old_receipt(
    folder: Path,
    project_id: str,
    *,
    files: list[dict[str, Any]],
    downloaded_at: datetime = datetime(2026, 11, 21, 10, 27, 30, tzinfo=UTC),
    conn_id: str = "magichour_default",
    **more: Any,
) -> Path:
    """Write what version 0.1.0 wrote beside a project's files, and into its index; return the hint."""
    receipt = {
        "version": 1,
        "project_id": project_id,
        "kind": "image",
        "type": "AI_IMAGE",
        "name": "a cat",
        "created_at": f"{downloaded_at:%Y-%m-%dT%H:%M:%SZ}",
        "credits_charged": 5,
        "magichour_conn_id": conn_id,
        "downloaded_at": f"{downloaded_at:%Y-%m-%dT%H:%M:%SZ}",
        "downloaded_by": {"dag_id": "media", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 1},
        "files": files,
        "deleted_at": None,
        **more,
    }
    (folder / project_id).mkdir(exist_ok=True, parents=True)
    (folder / project_id / ".magichour-receipt.json").write_text(json.dumps(receipt, indent=2) + "\n")
    name = f"{downloaded_at:%Y-%m-%d/%H/%Y%m%dT%H%M%SZ}_{project_id}.json"
    hint = folder / ".magichour-index" / conn_id / name
    hint.parent.mkdir(exist_ok=True, parents=True)
    hint.write_text(json.dumps({"version": 1, "receipt": f"{project_id}/.magichour-receipt.json"}))
    return hint

"""What the simulator's tests share."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from airflow_provider_magichour.simulator import Simulator

EXAMPLE_BODIES: Mapping[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "example_bodies.json").read_text("utf-8")
)
IMAGE = EXAMPLE_BODIES["ai-image-generator"]
VIDEO = EXAMPLE_BODIES["text-to-video"]
AUDIO = EXAMPLE_BODIES["ai-voice-generator"]
TOOL_OF_KIND = {"image": "ai-image-generator", "video": "text-to-video", "audio": "ai-voice-generator"}


def session(simulator: Simulator, api_key: str | None = None) -> requests.Session:
    found = requests.Session()
    found.headers["Authorization"] = f"Bearer {api_key or simulator.api_key}"
    return found


def create(simulator: Simulator, kind: str = "image", **changes: Any) -> str:
    tool = TOOL_OF_KIND[kind]
    with session(simulator) as http:
        response = http.post(f"{simulator.url}/v1/{tool}", json=EXAMPLE_BODIES[tool] | changes)
    response.raise_for_status()
    return str(response.json()["id"])


def get(simulator: Simulator, kind: str, project_id: str) -> dict[str, Any]:
    with session(simulator) as http:
        response = http.get(f"{simulator.url}/v1/{kind}-projects/{project_id}")
    response.raise_for_status()
    return dict(response.json())


def wait(simulator: Simulator, kind: str, project_id: str, seconds: float = 60) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        project = get(simulator, kind, project_id)
        if project["status"] in {"complete", "error", "canceled"}:
            return project
        time.sleep(0.02)
    raise AssertionError(f"{project_id} is still {project['status']}")


def make(simulator: Simulator, kind: str = "image", **changes: Any) -> dict[str, Any]:
    """Create a project and wait for its end."""
    return wait(simulator, kind, create(simulator, kind, **changes))


def download(project: dict[str, Any], **headers: str) -> requests.Response:
    """Fetch a complete project's first file."""
    return requests.get(project["downloads"][0]["url"], headers=headers, timeout=60)

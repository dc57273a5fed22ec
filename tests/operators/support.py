"""What the tests of the operators that submit share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from airflow_provider_magichour.operators import MagicHourCreateProjectOperator, MagicHourGenerateOperator
from airflow_provider_magichour.simulator import Simulator
from tests.support.airflow import allow_execute
from tests.support.tasks import TaskStateStore, run_trigger

TOOL = "ai-image-generator"
BODY: dict[str, Any] = {
    "image_count": 1,
    "aspect_ratio": "1:1",
    "style": {"prompt": "a lighthouse"},
}
CREATE = {"route": "create_project"}


def operator(body: Any = BODY, **kwargs: Any) -> MagicHourCreateProjectOperator:
    return MagicHourCreateProjectOperator(task_id="create", **{"tool": TOOL, "body": body, **kwargs})


def generate(body: Any = BODY, **kwargs: Any) -> MagicHourGenerateOperator:
    given = {"tool": TOOL, "body": body, "poll_interval": 0.1, "timeout": 30, "defer_after": 0, **kwargs}
    return MagicHourGenerateOperator(task_id="generate", **given)


def bodies(count: int) -> list[dict[str, Any]]:
    return [{**BODY, "name": f"number {position}"} for position in range(count)]


def created(sim: Simulator) -> int:
    """Return how many projects Magic Hour made, each of which was paid for."""
    return int(sum(sim.state()["created"].values()))


def posts(sim: Simulator) -> int:
    return len(sim.requests("create_project"))


def has_open_record(store: TaskStateStore) -> bool:
    """Return whether a later try would find a project, or a submit whose outcome is unknown."""
    records = [json.loads(value) for key, value in store.values.items() if "submit" in key]
    return any(record["state"] in {"intent", "made"} for record in records)


def only_project(sim: Simulator) -> str:
    (project_id,) = sim.state()["projects"]
    return str(project_id)


def ended(sim: Simulator, trigger: Any) -> Any:
    """End the projects that a trigger waits for, and return its event."""
    for project_id in trigger.serialize()[1]["project_ids"]:
        sim.end_project(project_id)
    return run_trigger(trigger)


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def execute(task: Any, context: Any) -> Any:
    """Execute a task on any thread."""
    allow_execute()
    return task.execute(context)

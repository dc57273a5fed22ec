"""
Write what version 0.1.0 stored, by running its code: records of submits, triggers, receipts.

    git worktree add ../v0.1.0 abd8c88
    cd ../v0.1.0 && PYTHONPATH=. python OTHER_CHECKOUT/tests/data/stored-0.1.0/make.py

Needs the pins of that commit. ``records.json`` has a sample for each state in which a task can be left; its
``store`` is the task state store as Airflow keeps it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="stored-")

from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_magichour import __version__, durable
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import (
    MagicHourCreateProjectOperator,
    MagicHourDetectFacesOperator,
    MagicHourGenerateOperator,
)
from airflow_provider_magichour.sensors import MagicHourProjectSensor
from tests.support.scripted_server import Reply, ScriptedServer, Seen, scripted_server
from tests.support.tasks import TaskStateStore, task_context

FOLDER = Path(__file__).parent
TOOL = "ai-image-generator"
BODIES = [
    {"image_count": 1, "style": {"prompt": f"a lighthouse, {number}"}, "name": f"number {number}"}
    for number in range(3)
]
KEY = "mhk_live_stored"


class MagicHour:
    """Makes the projects made-1, made-2...; refuses a body or drops a call where told."""

    def __init__(self, server: ScriptedServer, store: TaskStateStore) -> None:
        self.server, self.store = server, store
        self.status, self.refused, self.dropped, self.made = "complete", "", "", 0
        self.at_create: dict[str, Any] = {}
        server.respond = self.respond

    def respond(self, seen: Seen) -> Reply:
        name = seen.path.rpartition("/")[2]
        if seen.method == "POST":
            self.at_create = stored(self.store)
            body = seen.json
            if self.dropped and body.get("name") == self.dropped:
                return Reply(drop=True)
            if self.refused and body.get("name") == self.refused:
                return Reply(400, {"message": "style.prompt is not allowed"})
            self.made += 1
            return Reply(200, {"id": f"made-{self.made}", "credits_charged": 5, "estimated_frame_cost": 5})
        if seen.path.startswith("/files/"):
            return Reply(200, f"the media of {name}".encode(), {"Content-Type": "image/png"})
        url = f"{self.server.url}/files/{name}.png"
        return Reply(200, {
            "id": name, "name": f"project {name}", "status": self.status, "type": "AI_IMAGE", "enabled": True,
            "created_at": "2026-11-01T10:00:00.000Z", "credits_charged": 5, "error": None,
            "downloads": [{"url": url, "expires_at": "2030-01-01T00:00:00Z"}], "faces": [],
        })  # fmt: skip


def stored(store: TaskStateStore) -> dict[str, Any]:
    return {key: json.loads(value) for key, value in store.values.items()}


def create(body: Any, **more: Any) -> Any:
    return MagicHourCreateProjectOperator(task_id="task", tool=TOOL, body=body, **more)


def generate(body: Any, **more: Any) -> Any:
    return MagicHourGenerateOperator(task_id="task", tool=TOOL, body=body, **more)


def sensor(**more: Any) -> Any:
    return MagicHourProjectSensor(
        task_id="task", project_id=["made-1", "made-2"], kind="image", deferrable=True, timeout=3600, **more
    )


def run(operator: Any, **behaviour: Any) -> dict[str, Any]:
    """Run a task to its end, its error or its deferral, and return what it left."""
    store = TaskStateStore()
    with scripted_server() as server:
        magic_hour = MagicHour(server, store)
        for name, value in behaviour.items():
            setattr(magic_hour, name, value)
        connection = {
            "conn_type": "magichour",
            "host": server.url,
            "password": KEY,
            "extra": {"max_attempts": 1},
        }
        os.environ["AIRFLOW_CONN_MAGICHOUR_DEFAULT"] = json.dumps(connection)
        context = task_context(store=store, dag_id="stored", run_id="run_1", max_tries=2)
        left: dict[str, Any] = {"max_tries": 2}
        with contextlib.suppress(TaskDeferred):
            try:
                left["returned"] = operator.execute(context)
            except TaskDeferred as deferred:
                path, arguments = deferred.trigger.serialize()
                left["deferred"] = {
                    "trigger": path, "arguments": arguments,
                    "method_name": deferred.method_name, "kwargs": deferred.kwargs,
                }  # fmt: skip
            except Exception as error:  # noqa: BLE001  # whatever it raises is the sample
                left["raised"] = [type(error).__name__, str(error)]
    return {**left, "store": stored(store), "at_create": magic_hour.at_create}


def receipts() -> None:
    """Download two projects, as the operator of that time did."""
    destination = FOLDER / "destination"
    shutil.rmtree(destination, ignore_errors=True)
    with scripted_server() as server:
        MagicHour(server, TaskStateStore())
        connection = {"conn_type": "magichour", "host": server.url, "password": KEY}
        os.environ["AIRFLOW_CONN_MAGICHOUR_DEFAULT"] = json.dumps(connection)
        task = {
            "dag_id": "stored",
            "task_id": "download",
            "run_id": "run_1",
            "map_index": -1,
            "try_number": 1,
        }
        MagicHourHook().download_all("image", ["made-1", "made-2"], str(destination), downloaded_by=task)


def main() -> None:
    assert __version__ == "0.1.0"
    assert durable.__file__
    killed = run(create(BODIES[0]))
    samples = {
        "create": run(create(BODIES[0])),
        "create_list": run(create(BODIES)),
        "create_list_with_a_refused_body": run(create(BODIES), refused="number 1"),
        "create_uncertain": run(create(BODIES[0]), dropped="number 0"),
        "create_killed_during_the_call": {"max_tries": 2, "store": killed["at_create"]},
        "generate": run(generate(BODIES[0])),
        "generate_deferred": run(generate(BODIES, deferrable=True), status="rendering", refused="number 1"),
        "generate_deferred_delete_on_kill": run(
            generate(BODIES[0], deferrable=True, delete_on_kill=True), status="rendering"
        ),
        "sensor_deferred": run(sensor(), status="rendering"),
        "detect_faces": run(
            MagicHourDetectFacesOperator(
                task_id="task", assets={"target_file_path": "https://example.com/a.png"}, timeout=0.5
            ),
            status="rendering",
        ),
    }
    for sample in samples.values():
        sample.pop("at_create", None)
    document = {
        "version": __version__,
        "made_at": time.time(),
        "bodies": BODIES,
        "tool": TOOL,
        "samples": samples,
    }
    (FOLDER / "records.json").write_text(json.dumps(document, indent=1, default=str) + "\n")
    receipts()


if __name__ == "__main__":
    main()

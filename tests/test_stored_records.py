"""What version 0.1.0 stored stays readable: submit records, deferred tasks, receipts."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.module_loading import import_string

from airflow_provider_magichour.exceptions import (
    MagicHourInvalidRequestError,
    MagicHourUncertainSubmitError,
)
from airflow_provider_magichour.operators import (
    MagicHourCleanupOperator,
    MagicHourCreateProjectOperator,
    MagicHourDetectFacesOperator,
    MagicHourDownloadOperator,
    MagicHourGenerateOperator,
)
from airflow_provider_magichour.sensors import MagicHourProjectSensor
from tests.support.projects import project
from tests.support.scripted_server import Reply, ScriptedServer, Seen
from tests.support.tasks import TaskStateStore, run_trigger, stored, task_context

FOLDER = Path(__file__).parent / "data" / "stored-0.1.0"
DOCUMENT = json.loads((FOLDER / "records.json").read_text())
SAMPLES, BODIES, TOOL = DOCUMENT["samples"], DOCUMENT["bodies"], DOCUMENT["tool"]
FACES = [{"path": "a.png-0.png", "url": "https://example.com/a.png-0.png"}]


class MagicHour:
    """Knows every project, all of them complete; makes new ones where it is asked to."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.missing: set[str] = set()
        server.respond = self._respond

    def _respond(self, seen: Seen) -> Reply:
        name = seen.path.rpartition("/")[2]
        if seen.method == "POST":
            return Reply(200, {"id": f"new-{len(self.posts)}", "credits_charged": 5})
        if seen.method == "DELETE":
            return Reply(204)
        if name == "account":
            return Reply(200, {"id": "account-1", "credits": 100})
        if name in self.missing:
            return Reply(404, {"message": "Not found"})
        url = {"url": f"{self.server.url}/files/{name}.png", "expires_at": "2030-01-01T00:00:00Z"}
        return Reply(200, project(name, downloads=[url], faces=FACES))

    def _paths(self, method: str, part: str = "") -> list[str]:
        return [seen.path for seen in self.server.seen if seen.method == method and part in seen.path]

    @property
    def posts(self) -> list[str]:
        return self._paths("POST")

    @property
    def posted_names(self) -> list[str]:
        return [seen.json["name"] for seen in self.server.seen if seen.method == "POST"]

    @property
    def fetches(self) -> list[str]:
        return self._paths("GET", "/files/")

    @property
    def deletes(self) -> list[str]:
        return sorted(path.rpartition("/")[2] for path in self._paths("DELETE"))


@pytest.fixture
def magic_hour(server: ScriptedServer, connect: Callable[..., str]) -> MagicHour:
    connect(server.url, "mhk_live_stored", timeout=30, max_attempts=1)
    return MagicHour(server)


def context_of(sample: str, *, clears: int = 0, store: TaskStateStore | None = None) -> Any:
    """Return the context of the next try of a task; each Clear raises ``max_tries``."""
    if store is None:
        store = TaskStateStore()
        for key, value in SAMPLES[sample]["store"].items():
            store.set(key, value)
    max_tries = SAMPLES[sample]["max_tries"] + clears
    return task_context(store=store, dag_id="stored", run_id="run_1", try_number=2, max_tries=max_tries)


def create(body: Any) -> Any:
    return MagicHourCreateProjectOperator(task_id="task", tool=TOOL, body=body)


def generate(body: Any, **more: Any) -> Any:
    return MagicHourGenerateOperator(
        task_id="task", tool=TOOL, body=body, poll_interval=0.05, timeout=20, **more
    )


def ids(created: Any) -> list[str]:
    return [one["id"] for one in created]


def test_retry_continues_with_the_stored_project(magic_hour: MagicHour) -> None:
    assert create(BODIES[0]).execute(context_of("create"))["id"] == "made-1"
    assert ids(create(BODIES).execute(context_of("create_list"))) == ["made-1", "made-2", "made-3"]
    assert magic_hour.posts == []


def test_clear_of_a_stored_success_submits_again(magic_hour: MagicHour) -> None:
    assert create(BODIES[0]).execute(context_of("create", clears=1))["id"] == "new-1"


def test_retry_submits_only_the_body_without_a_record(magic_hour: MagicHour) -> None:
    created = create(BODIES).execute(context_of("create_list_with_a_refused_body"))
    assert ids(created) == ["made-1", "new-1", "made-2"]
    assert magic_hour.posted_names == ["number 1"]


def test_reported_uncertain_submit_needs_one_clear(magic_hour: MagicHour) -> None:
    with pytest.raises(MagicHourUncertainSubmitError):
        create(BODIES[0]).execute(context_of("create_uncertain"))
    assert magic_hour.posts == []
    assert create(BODIES[0]).execute(context_of("create_uncertain", clears=1))["id"] == "new-1"


def test_open_intent_is_uncertain_until_it_was_reported(magic_hour: MagicHour) -> None:
    context = context_of("create_killed_during_the_call", clears=1)
    with pytest.raises(MagicHourUncertainSubmitError):
        create(BODIES[0]).execute(context)
    assert magic_hour.posts == []
    cleared = context_of("create_killed_during_the_call", clears=2, store=context["task_state_store"])
    assert create(BODIES[0]).execute(cleared)["id"] == "new-1"


def test_stored_result_is_returned_though_its_project_is_gone(magic_hour: MagicHour) -> None:
    magic_hour.missing = {"made-1"}
    result = generate(BODIES[0]).execute(context_of("generate"))
    assert result["project"] == SAMPLES["generate"]["returned"]["project"]
    assert result["files"] == []
    assert magic_hour.posts == []


def event_of(sample: str) -> tuple[Any, dict[str, Any]]:
    """Run the trigger that Airflow has in its database, and return its event and the stored kwargs."""
    deferred = copy.deepcopy(SAMPLES[sample]["deferred"])
    arguments = {**deferred["arguments"], "deadline": time.time() + 20, "poll_interval": 0.05}
    event = run_trigger(import_string(deferred["trigger"])(**stored(arguments)))
    return event, stored(deferred["kwargs"] or {})


def test_deferred_generate_task_resumes(magic_hour: MagicHour) -> None:
    sample = "generate_deferred_delete_on_kill"
    event, kwargs = event_of(sample)
    operator = generate(BODIES[0], deferrable=True, delete_on_kill=True)
    resume = getattr(operator, SAMPLES[sample]["deferred"]["method_name"])
    result = resume(context_of(sample), event=event, **kwargs)
    assert result["project"]["id"] == "made-1"
    assert magic_hour.posts == []


def test_deferred_generate_task_with_a_refused_body_resumes(magic_hour: MagicHour) -> None:
    sample = "generate_deferred"
    event, kwargs = event_of(sample)
    context = context_of(sample)
    with pytest.raises(MagicHourInvalidRequestError, match=r"style\.prompt is not allowed"):
        generate(BODIES, deferrable=True).execute_complete(context, event=event, **kwargs)
    assert magic_hour.posts == []
    results = context["ti"].xcoms.pull("task", "results")
    assert [result and result["project"]["id"] for result in results] == ["made-1", None, "made-2"]


def test_deferred_sensor_resumes(magic_hour: MagicHour) -> None:
    event, kwargs = event_of("sensor_deferred")
    sensor = MagicHourProjectSensor(
        task_id="task", project_id=["made-1", "made-2"], kind="image", deferrable=True
    )
    found = sensor.execute_complete(context_of("sensor_deferred"), event=event, **kwargs)
    assert ids(found) == ["made-1", "made-2"]


def test_retry_continues_with_the_stored_face_detection(magic_hour: MagicHour) -> None:
    operator = MagicHourDetectFacesOperator(
        task_id="task", assets={"target_file_path": "https://example.com/a.png"}, timeout=20
    )
    assert operator.execute(context_of("detect_faces")) == FACES
    assert magic_hour.posts == []


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER / "destination", tmp_path / "media"))


def test_stored_receipt_spares_the_download(magic_hour: MagicHour, destination: Path) -> None:
    files = MagicHourDownloadOperator(
        task_id="task", project_id="made-1", kind="image", destination=str(destination)
    ).execute(task_context())
    receipt = json.loads((FOLDER / "destination" / "made-1" / ".magichour-receipt.json").read_text())
    assert [file["sha256"] for file in files] == [file["sha256"] for file in receipt["files"]]
    assert magic_hour.fetches == []


def test_cleanup_deletes_what_stored_receipts_name(magic_hour: MagicHour, destination: Path) -> None:
    (destination / "made-2" / "made-2.png").unlink()
    report = MagicHourCleanupOperator(
        task_id="task", destination=str(destination), older_than=timedelta(0)
    ).execute(task_context())
    assert report["deleted"] == magic_hour.deletes == ["made-1"]
    assert [kept["id"] for kept in report["kept"]] == ["made-2"]

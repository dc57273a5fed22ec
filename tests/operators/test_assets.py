"""MagicHourDetectFacesOperator against the simulator. Uploads are tested in tests/transfer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour import exceptions
from airflow_provider_magichour.operators import MagicHourDetectFacesOperator, MagicHourGenerateOperator
from airflow_provider_magichour.simulator import Simulator
from tests.support.tasks import TaskStateStore, run_task, task_context

pytestmark = pytest.mark.usefixtures("no_pauses")

CREATE = {"route": "create_face_detection"}
GET = {"route": "get_face_detection"}
ASSETS = {"target_file_path": "api-assets/id/group.png"}


def operator(**kwargs: Any) -> MagicHourDetectFacesOperator:
    return MagicHourDetectFacesOperator(
        **{"task_id": "detect", "assets": ASSETS, "poll_interval": 0.05, **kwargs}
    )


def posts(sim: Simulator) -> int:
    return len(sim.requests("create_face_detection"))


def test_detected_faces_feed_a_face_swap(sim: Simulator, tmp_path: Path) -> None:
    group = tmp_path / "group.png"
    group.write_bytes(b"png")
    faces = operator(assets={"target_file_path": str(group)}).execute(task_context())
    (face,) = faces
    assert face["path"].endswith("0-0.png")
    assert face["url"].startswith("http")
    swap = MagicHourGenerateOperator(
        task_id="swap",
        tool="face-swap-photo",
        body={
            "assets": {
                "face_swap_mode": "individual-faces",
                "face_mappings": [{"original_face": face["path"], "new_face": str(group)}],
                "target_file_path": "api-assets/id/group.png",
            }
        },
        poll_interval=0.1,
    )
    run_task(swap, task_context())
    (project,) = sim.state()["projects"].values()
    (mapping,) = project["body"]["assets"]["face_mappings"]
    assert mapping["original_face"] == face["path"]
    assert mapping["new_face"].startswith("api-assets/")


def test_detection_is_recorded_in_the_folder_of_the_connection(
    sim: Simulator, connect: Callable[..., str], tmp_path: Path
) -> None:
    connect(sim.url, sim.api_key, submit_records=str(tmp_path))
    sim.faults({"match": GET, "times": 1, "status": 403})
    with pytest.raises(exceptions.MagicHourPermissionError):
        operator().execute(task_context())
    assert operator().execute(task_context(try_number=2))
    assert posts(sim) == 1


def test_retry_continues_with_the_same_detection(sim: Simulator, store: TaskStateStore) -> None:
    sim.faults({"match": GET, "merge": {"status": "rendering"}})
    with pytest.raises(exceptions.MagicHourTimeoutError, match="rendering"):
        operator(timeout=0.3).execute(task_context(store=store))
    sim.clear_faults()
    assert operator().execute(task_context(store=store, try_number=2))
    assert posts(sim) == 1


def test_retry_submits_a_failed_detection_again(sim: Simulator, store: TaskStateStore) -> None:
    sim.faults({"match": GET, "merge": {"status": "error"}})
    with pytest.raises(exceptions.MagicHourRenderError):
        operator().execute(task_context(store=store))
    sim.faults()
    with pytest.raises(exceptions.MagicHourRenderError):
        operator().execute(task_context(store=store, try_number=2))
    assert posts(sim) == 2


def test_uncertain_submit_is_not_sent_again(sim: Simulator, store: TaskStateStore) -> None:
    sim.faults({"match": CREATE, "drop": "after"})
    for try_number in (1, 2):
        with pytest.raises(exceptions.MagicHourUncertainSubmitError):
            operator().execute(task_context(store=store, try_number=try_number))
    assert posts(sim) == 1


def test_transient_errors_do_not_end_the_wait(sim: Simulator) -> None:
    sim.faults({"match": GET, "times": 3, "status": 503})
    assert operator().execute(task_context())


@pytest.mark.parametrize("status", [401, 403, 404])
def test_proxy_error_page_does_not_end_the_wait(sim: Simulator, status: int) -> None:
    sim.faults({"match": GET, "times": 2, "status": status, "body": "<html>Sign in to the network</html>"})
    assert operator().execute(task_context())


def test_timeout_quotes_the_last_error(sim: Simulator) -> None:
    sim.faults({"match": GET, "status": 503})
    with pytest.raises(exceptions.MagicHourTimeoutError, match="503"):
        operator(timeout=0.2).execute(task_context())


@pytest.mark.parametrize("status", [401, 404])
def test_permanent_error_ends_the_wait(sim: Simulator, status: int) -> None:
    sim.faults({"match": GET, "status": status})
    with pytest.raises(exceptions.MagicHourApiError, match=str(status)):
        operator().execute(task_context())


def test_image_without_faces_returns_an_empty_list(sim: Simulator) -> None:
    sim.faults({"match": GET, "merge": {"status": "complete", "faces": []}})
    assert operator().execute(task_context()) == []


def test_confidence_score_is_sent_as_a_number(sim: Simulator) -> None:
    task = operator(confidence_score="{{ score }}")
    task.confidence_score = "0.9"  # type: ignore[assignment]
    assert task.execute(task_context())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"assets": None}, "assets"),
        ({"assets": {}}, "target_file_path"),
        ({"assets": {"target_file_path": " "}}, "target_file_path"),
        ({"confidence_score": 2}, "confidence_score"),
        ({"confidence_score": True}, "confidence_score"),
        ({"timeout": 0}, "timeout"),
        ({"poll_interval": -1}, "poll_interval"),
    ],
)
def test_constructor_names_the_wrong_argument(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(exceptions.MagicHourArgumentError, match=named):
        operator(**arguments)

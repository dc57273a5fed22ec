"""Arguments that are only known, or only wrong, when the task runs: what is wrong costs nothing."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour import exceptions
from airflow_provider_magichour._client import api
from airflow_provider_magichour.operators import (
    MagicHourDetectFacesOperator,
    MagicHourDownloadOperator,
    MagicHourUploadOperator,
    _patience,
)
from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import created, execute, generate, operator, wait_for
from tests.support.tasks import task_context


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("name", ["poll_interval", "defer_after", "timeout"])
def test_wrong_time_of_a_template_costs_nothing(sim: Simulator, name: str, deferrable: bool) -> None:
    task = generate(deferrable=deferrable)
    setattr(task, name, "soon")
    with pytest.raises(exceptions.MagicHourArgumentError, match=name):
        task.execute(task_context("generate"))
    assert created(sim) == 0


@pytest.mark.parametrize(
    ("name", "value"), [("parallel", 0), ("parallel", "x"), ("max_bytes", 0), ("max_bytes", "10MB")]
)
def test_generate_refuses_wrong_numbers_while_the_dag_is_parsed(name: str, value: Any) -> None:
    with pytest.raises(exceptions.MagicHourArgumentError, match=name):
        generate(**{name: value})


@pytest.mark.parametrize("name", ["poll_interval", "timeout"])
def test_wrong_time_of_a_detection_is_found_first(sim: Simulator, name: str) -> None:
    task = detect_faces("https://example.com/a.png")
    setattr(task, name, "soon")
    with pytest.raises(exceptions.MagicHourArgumentError, match=name):
        task.execute(task_context("detect"))
    assert sim.requests("create_face_detection") == []


@pytest.mark.parametrize("name", ["max_credits", "keep_credits"])
@pytest.mark.parametrize("rendered", ["None", ""])
def test_limit_that_rendered_to_nothing_is_logged(
    sim: Simulator, caplog: pytest.LogCaptureFixture, name: str, rendered: str
) -> None:
    task = operator()
    setattr(task, name, rendered)
    with caplog.at_level(logging.WARNING):
        task.execute(task_context())
    assert f"{name} is {rendered!r}, so there is no such limit" in caplog.text


def detect_faces(target: Any) -> MagicHourDetectFacesOperator:
    return MagicHourDetectFacesOperator(task_id="detect", assets={"target_file_path": target})


def test_detection_takes_a_path(sim: Simulator, tmp_path: Path) -> None:
    (tmp_path / "group.png").write_bytes(b"png")
    assert detect_faces(tmp_path / "group.png").execute(task_context("detect"))
    assert len(sim.state()["uploads"]) == 1


def test_kill_stops_the_submit_of_a_detection(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_patience, "FIRST_LIMIT_PAUSE", 400.0)
    monkeypatch.setattr(_patience, "MAX_LIMIT_PAUSE", 400.0)
    sim.faults({"match": {"route": "create_face_detection"}, "times": 1, "status": 429})
    task = detect_faces("https://example.com/a.png")
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(execute, task, task_context("detect"))
        wait_for(lambda: len(sim.requests("create_face_detection")) == 1)
        time.sleep(0.2)
        task.on_kill()
        with pytest.raises(exceptions.MagicHourError):
            running.result(100)
    assert len(sim.requests("create_face_detection")) == 1


@pytest.mark.parametrize("text", ["['a.png', 'b.png']", " {'path': 'a.png'} "])
def test_text_of_a_list_gets_the_hint(sim: Simulator, text: str) -> None:
    upload = MagicHourUploadOperator(task_id="upload", source=text)
    upscale = operator({"assets": {"image_file_path": text}}, tool="ai-image-upscaler")
    for task in (upload, upscale):
        with pytest.raises(exceptions.MagicHourArgumentError, match="render_template_as_native_obj"):
            task.execute(task_context())


def test_empty_list_of_downloads_is_logged(
    sim: Simulator, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    task = MagicHourDownloadOperator(task_id="download", project_id=[], destination=str(tmp_path))
    with caplog.at_level(logging.INFO):
        assert task.execute(task_context("download")) == []
    assert "project_id is an empty list" in caplog.text


@pytest.mark.parametrize("request_", [api.get_account(), api.create_project("text-to-video", {})])
def test_redirect_names_its_target_without_the_query(request_: api.Request) -> None:
    response = api.Response(301, {"location": "https://new.example/v1?token=secret"}, b"")
    with pytest.raises(exceptions.MagicHourError) as caught:
        api.result(request_, response)
    assert "a redirect to 'https://new.example/v1?...'" in str(caught.value)
    assert "secret" not in str(caught.value)

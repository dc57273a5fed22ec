"""A task's log has each step: submitted, waiting, finished, files, deleted. It has no secret."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_magichour._polling.wait import wait_for_finished
from airflow_provider_magichour._polling.wait_request import WaitRequest
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.hooks.connection import get_settings_async
from airflow_provider_magichour.operators import MagicHourDeleteProjectOperator, MagicHourGenerateOperator
from airflow_provider_magichour.simulator import Simulator
from tests.support.tasks import task_context


def test_task_log_covers_the_whole_project(
    magichour_simulator: Simulator,
    connect: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    connect(magichour_simulator.url, magichour_simulator.api_key)
    generate = MagicHourGenerateOperator(
        task_id="generate",
        tool="ai-image-generator",
        body={"image_count": 1, "style": {"prompt": "a lighthouse"}},
        destination=str(tmp_path),
        deferrable=False,
        poll_interval=0.05,
    )
    with caplog.at_level(logging.INFO, "airflow_provider_magichour"):
        made = generate.execute(task_context())
        project_id = made["project"]["id"]
        delete = MagicHourDeleteProjectOperator(task_id="delete", kind="image", project_id=project_id)
        delete.execute(task_context())
        delete.execute(task_context())

    story = [record.getMessage() for record in caplog.records]
    expected = [
        f"Submitted ai-image-generator, named 'dag.task run': project {project_id}, 5 credits",
        f"Stored {tmp_path}/{project_id}/output.png: ",
        f"Deleted: 1 image project(s): {project_id}",
        f"Gone already: 1 image project(s): {project_id}",
    ]
    positions = [next(i for i, line in enumerate(story) if start in line) for start in expected]
    assert positions == sorted(positions), story
    assert "MB/s), sha256 " in story[positions[1]]
    assert magichour_simulator.api_key not in caplog.text


def test_wait_logs_each_status_with_age_and_credits(
    magichour_simulator: Simulator, connect: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    name = connect(magichour_simulator.url, magichour_simulator.api_key)
    body = {"image_count": 1, "style": {"prompt": "a lighthouse"}}
    magichour_simulator.faults({"statuses": ["queued", "rendering", "complete"]})
    project_id = MagicHourHook().create_project("ai-image-generator", body)["id"]
    with caplog.at_level(logging.INFO, "airflow_provider_magichour"):
        wait_for_finished(
            WaitRequest("image", [project_id], time.time() + 300, 0.05), name, get_settings_async
        )

    story = [record.getMessage() for record in caplog.records if project_id in record.getMessage()]
    assert all(", next status check in 0 s" in line for line in story[:-1])
    said = rf"Project {project_id}: complete, \d+ s after it was created, 5 credits"
    assert re.fullmatch(said, story[-1])
    statuses = [line.split(": ")[1].split(",")[0] for line in story]
    assert statuses == ["queued", "rendering", "complete"]

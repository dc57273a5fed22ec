from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import MagicHourDeleteProjectOperator, MagicHourDownloadOperator
from tests.support.tasks import task_context


@pytest.fixture
def hook(magichour_simulator, connect):
    connect(magichour_simulator.url, magichour_simulator.api_key)
    return MagicHourHook()


def complete(simulator, hook, tool="ai-image-generator", **body):
    body = {"image_count": 1, "orientation": "square", "style": {"prompt": "a cat"}, **body}
    project_id = hook.create_project(tool, body)["id"]
    simulator.end_project(project_id)
    return project_id


def test_stores_the_file(magichour_simulator, hook, tmp_path):
    project_id = complete(magichour_simulator, hook)
    files = MagicHourDownloadOperator(
        task_id="t", project_id=project_id, kind="image", destination=str(tmp_path)
    ).execute(task_context())
    (file,) = files
    assert set(file) == {"path", "bytes", "sha256", "content_type"}
    data = Path(file["path"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == file["sha256"]
    again = hook.download_project("image", project_id, str(tmp_path))
    assert again == files
    out = MagicHourDeleteProjectOperator(task_id="d", project_id=[project_id], kind="image").execute({})
    assert out == {"deleted": [project_id], "missing": []}

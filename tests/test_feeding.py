"""Results of one task feed the next without code in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour.simulator import Simulator

DAG = """
from airflow.sdk import dag, task

from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import MagicHourCreateProjectOperator, MagicHourDownloadOperator
from airflow_provider_magichour.sensors import MagicHourProjectSensor

BODIES = [{"image_count": 1, "style": {"prompt": f"door {number}"}} for number in range(2)]


@dag(schedule=None)
def feeding():
    make = MagicHourCreateProjectOperator.partial(task_id="make_each", tool="ai-image-generator")
    each = make.expand(body=BODIES).output.map(lambda made: made["id"])
    waits = MagicHourProjectSensor.partial(task_id="waits", kind="image").expand(project_id=each)
    waits >> MagicHourDownloadOperator.partial(
        task_id="downloads", kind="image", destination="{{ dag_run.conf['folder'] }}"
    ).expand(project_id=each)

    many = MagicHourCreateProjectOperator(task_id="many", tool="ai-image-generator", body=BODIES)
    ids = many.output.map(lambda made: made["id"])
    MagicHourProjectSensor(task_id="wait", kind="image", project_id=ids) >> MagicHourDownloadOperator(
        task_id="download", kind="image", project_id=ids, destination="{{ dag_run.conf['folder'] }}"
    )

    @task
    def credits_left() -> int:
        return MagicHourHook().get_account()["credits"]

    credits_left()


feeding()
"""


def test_ids_pass_from_task_to_task_mapped_and_listed(
    run_dag: Callable[..., Any],
    magichour_simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", magichour_simulator.connection_uri)
    file = tmp_path / "dags" / "feeding.py"
    file.parent.mkdir()
    file.write_text(DAG)

    run = run_dag(file, "feeding", {"folder": str(tmp_path / "media")})

    assert run.state == "success"
    assert len(list((tmp_path / "media").rglob("*.png"))) == 4
    assert magichour_simulator.state()["created"] == {"ai-image-generator": 4}

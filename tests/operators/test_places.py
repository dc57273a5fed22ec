"""A destination or an index that a template, or the task before, leaves empty."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import (
    MagicHourCleanupOperator,
    MagicHourDeleteProjectOperator,
    MagicHourDownloadOperator,
)
from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import generate, posts
from tests.support.files import complete_project
from tests.support.tasks import run_task, task_context


def task(name: str, project_id: str, **places: Any) -> Any:
    made = {
        "generate": lambda: generate(**places),
        "download": lambda: MagicHourDownloadOperator(
            task_id="t", project_id=project_id, kind="image", **places
        ),
        "delete": lambda: MagicHourDeleteProjectOperator(
            task_id="t", project_id=project_id, kind="image", **places
        ),
        "cleanup": lambda: MagicHourCleanupOperator(task_id="t", older_than=timedelta(0), **places),
    }
    with DAG("places", schedule=None, render_template_as_native_obj=True):
        return made[name]()


@pytest.mark.parametrize("place", ["destination", "index"])
@pytest.mark.parametrize("name", ["generate", "download", "delete", "cleanup"])
def test_place_that_a_native_template_leaves_empty_is_refused(
    sim: Simulator, hook: MagicHourHook, tmp_path: Path, name: str, place: str
) -> None:
    project_id = complete_project(sim, hook)
    hook.download_project("image", project_id, str(tmp_path))
    before = posts(sim)
    operator = task(name, project_id, **{"destination": str(tmp_path), place: "{{ params.folder }}"})
    context = task_context(params={"folder": None})
    operator.render_template_fields(context)
    assert getattr(operator, place) is None
    with pytest.raises(errors.MagicHourArgumentError, match=re.escape(f"{place} is None, because its")):
        run_task(operator, context)
    assert posts(sim) == before
    assert sim.state()["projects"][project_id]["status"] == "complete"


def test_none_in_the_dag_means_none(sim: Simulator, hook: MagicHourHook) -> None:
    assert run_task(task("generate", "", destination=None, index=None), task_context())["files"] == []
    project_id = complete_project(sim, hook)
    deleted = run_task(task("delete", project_id, destination=None), task_context())
    assert deleted["deleted"] == [project_id]


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("index", ["{tmp}/file", "{tmp}/file/below", "s3://aws_test@no-such-bucket/x"])
def test_index_that_cannot_be_written_costs_nothing(
    sim: Simulator, s3_store: Any, tmp_path: Path, index: str, durable: bool
) -> None:
    (tmp_path / "file").write_text("mine")
    index = index.format(tmp=tmp_path)
    operator = generate(destination=str(tmp_path / "media"), index=index, durable=durable)
    with pytest.raises(errors.MagicHourError):
        operator.execute(task_context())
    assert posts(sim) == 0

"""Type checkers find no errors in the package and in a user's DAG, and editors complete its names."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_magichour import operators, sensors
from tests.support.airflow import IS_AIRFLOW_3

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.skipif(not IS_AIRFLOW_3, reason="types are checked against Airflow 3"),
    pytest.mark.xdist_group("type_checkers"),
]

#: What users write; each line that is wrong on purpose says so.
DAG = """
from datetime import timedelta

from airflow.sdk import DAG, task

from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import (
    MagicHourCleanupOperator,
    MagicHourCreateProjectOperator,
    MagicHourDownloadOperator,
    MagicHourGenerateOperator,
)
from airflow_provider_magichour.sensors import MagicHourProjectSensor
from airflow_provider_magichour.types import GeneratedMedia, Project, SavedFile


@task
def credits_left() -> int:
    return int(MagicHourHook().get_account()["credits"])


@task
def name_of(project_id: str) -> str | None:
    project: Project = MagicHourHook("other").get_project("image", project_id)
    return project["name"]


@task
def sizes(results: list[GeneratedMedia]) -> list[int]:
    return [file["bytes"] for each in results for file in each["files"]]


with DAG("typed", schedule=None):
    make = MagicHourCreateProjectOperator(task_id="make", tool="ai-image-generator", body={"image_count": 1})
    new = MagicHourCreateProjectOperator(task_id="new", tool="not-known-yet", body={}, kind="video")
    wait = MagicHourProjectSensor(
        task_id="wait", project_id=make.output["id"], kind="image", deferrable=True, poll_interval=5
    )
    download = MagicHourDownloadOperator(
        task_id="download", project_id=wait.output["id"], kind="image", destination="{{ params.where }}"
    )
    many = MagicHourGenerateOperator.partial(task_id="many", tool="text-to-video").expand(body=[{}, {}])
    MagicHourCleanupOperator(task_id="tidy", destination="/data", older_than=timedelta(days=30))
    make >> wait >> download >> many

    MagicHourGenerateOperator(task_id="one", tool=1, body={})  # wrong: tool
    MagicHourGenerateOperator(task_id="two", tool="lip-sync", body="x")  # wrong: body
    MagicHourProjectSensor(task_id="three", project_id=3, kind="image")  # wrong: project_id


def first_path(files: list[SavedFile]) -> str:
    return files[0]["pfad"]  # wrong: a key that no file has
"""


@pytest.fixture(scope="module")
def dag_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("users") / "typed.py"
    file.write_text(DAG)
    return file


@pytest.fixture
def wrong() -> list[int]:
    return [number for number, line in enumerate(DAG.splitlines(), 1) if "# wrong" in line]


def run(*arguments: str, cwd: Path) -> str:
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(cwd)}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert not done.stderr, done.stderr
    return done.stdout


def test_pyright_finds_only_the_errors_of_a_users_dag(dag_file: Path, wrong: list[int]) -> None:
    (dag_file.parent / "pyrightconfig.json").write_text(
        json.dumps({"extraPaths": [str(ROOT)], "reportUnusedExpression": False})
    )
    options = ["--outputjson", "--pythonpath", sys.executable]
    report = json.loads(run("pyright", *options, "typed.py", cwd=dag_file.parent))
    found = report["generalDiagnostics"]
    assert [one["range"]["start"]["line"] + 1 for one in found] == wrong, found


@pytest.mark.parametrize("name", [*operators.__all__, "MagicHourProjectSensor"])
def test_every_argument_is_documented(name: str) -> None:
    """Arguments in ``**kwargs`` are not completed or checked, and undocumented ones are not shown."""
    found = getattr(operators, name, None) or getattr(sensors, name)
    parameters = inspect.signature(found.__init__).parameters
    assert "magichour_conn_id" in parameters
    documented = inspect.getdoc(found) or ""
    for parameter in parameters.values():
        if parameter.name in {"self", "kwargs", "poke_interval"}:
            continue
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert f":param {parameter.name}:" in documented, f"{name}: {parameter.name}"

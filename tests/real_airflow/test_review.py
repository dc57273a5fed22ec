"""The review in a real Airflow from 3.1 on: a person's choice, none of them, and nobody in time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour.simulator import Simulator
from scripts.local import LocalAirflow
from tests.support.airflow import AIRFLOW_VERSION
from tests.support.reviews import wait_for_question

pytestmark = [
    pytest.mark.real_airflow,
    pytest.mark.xdist_group("real_airflow"),
    pytest.mark.skipif(AIRFLOW_VERSION < (3, 1), reason="people are asked from Airflow 3.1 on"),
    pytest.mark.timeout(900),
]

REVIEW, HASTY = "magichour_review", "magichour_review_hasty"
EXAMPLE = Path(__file__).parents[2] / "example_dags" / f"{REVIEW}.py"
VIDEOS = [f"video_{n}" for n in range(1, 5)]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, media: Path) -> Iterator[LocalAirflow]:
    """An Airflow with the view, the example, and a copy of the example to which nobody responds in time."""
    dags = tmp_path_factory.mktemp("dags")
    text = EXAMPLE.read_text()
    assert "timedelta(days=1)" in text
    (dags / EXAMPLE.name).write_text(text)
    (dags / f"{HASTY}.py").write_text(text.replace(REVIEW, HASTY).replace("days=1", "seconds=20"))
    with (
        Simulator(duration=0.5, credits=1_000_000) as simulator,
        LocalAirflow(
            tmp_path_factory.mktemp("airflow"),
            [dags],
            connections={"magichour_default": simulator.connection_uri},
            env={"AIRFLOW__MAGICHOUR__VIEW_ROOTS": str(media)},
        ) as found,
    ):
        yield found


def respond(airflow: LocalAirflow, media: Path, choice: str) -> dict[str, str]:
    """Let a person choose, and return the states that the tasks end in."""
    airflow.unpause(REVIEW)
    run = airflow.trigger(REVIEW, {"destination": str(media), "prompt": "a <b>fox</b> ](x) in the rain"})
    details = f"/dags/{REVIEW}/dagRuns/{run}/taskInstances/review/-1/hitlDetails"
    wait_for_question(airflow, REVIEW, run)
    asked: dict[str, Any] = airflow.api("GET", details)
    assert asked["body"].count("![") == 4
    assert "(/magichour/view/media/" in asked["body"]
    airflow.api("PATCH", details, json={"chosen_options": [choice], "params_input": {}})
    return end(airflow, REVIEW, run)


def end(airflow: LocalAirflow, dag_id: str, run: str) -> dict[str, str]:
    assert airflow.wait_for_run(dag_id, run) == "success", airflow.failed_task_logs(dag_id, run)
    return {task["task_id"]: task["state"] for task in airflow.task_instances(dag_id, run)}


def test_chosen_draft_alone_becomes_a_video(airflow: LocalAirflow, media: Path) -> None:
    states = respond(airflow, media, "Draft 3")
    assert [states[name] for name in VIDEOS] == ["skipped", "skipped", "success", "skipped"]
    assert (states["rejected"], states["publish"]) == ("skipped", "success")
    assert len(list((media / "published").glob("*.mp4"))) == 1


def test_none_of_them_pays_for_no_video(airflow: LocalAirflow, media: Path) -> None:
    states = respond(airflow, media, "None of them")
    assert {states[name] for name in VIDEOS} == {"skipped"}
    assert (states["rejected"], states["publish"]) == ("success", "skipped")


def test_no_answer_in_time_pays_for_no_video(airflow: LocalAirflow, media: Path) -> None:
    airflow.unpause(HASTY)
    states = end(airflow, HASTY, airflow.trigger(HASTY, {"destination": str(media)}))
    assert {states[name] for name in VIDEOS} == {"skipped"}
    assert (states["rejected"], states["publish"]) == ("success", "skipped")

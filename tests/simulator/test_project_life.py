"""The life of projects in the simulator: queued, rendering, complete, deleted."""

from __future__ import annotations

import time

import pytest

from airflow_provider_magichour._client import api
from airflow_provider_magichour.simulator import Simulator
from airflow_provider_magichour.simulator.settings import Settings
from airflow_provider_magichour.tools import KINDS, TOOLS
from airflow_provider_magichour.types import Project
from tests.simulator.support import create, get, make, session, wait


@pytest.mark.parametrize("kind", KINDS)
def test_a_project_is_queued_then_rendering_then_complete(kind: str) -> None:
    with Simulator(duration=4, queue_share=0.5) as magichour:
        project_id = create(magichour, kind)
        seen = []
        until = time.monotonic() + 60
        while time.monotonic() < until and "complete" not in seen:
            status = get(magichour, kind, project_id)["status"]
            seen += [status] if status not in seen else []
            time.sleep(0.02)
        assert seen == ["queued", "rendering", "complete"]


def test_projects_have_the_fields_that_the_provider_knows(magichour: Simulator) -> None:
    project = make(magichour, "video")
    assert api.is_finished(project)
    # Images have a count, and the provider adds the kind.
    assert set(Project.__annotations__) - {"image_count", "kind"} <= set(project)


def test_a_deleted_project_stays_visible_and_is_gone(magichour: Simulator) -> None:
    magichour.faults({"duration": 600, "times": 1})
    project_id = create(magichour)
    url = f"{magichour.url}/v1/image-projects/{project_id}"
    with session(magichour) as http:
        assert [http.delete(url).status_code for _ in range(2)] == [204, 404]
        project = http.get(url).json()
    assert (project["enabled"], project["downloads"]) == (False, [])
    state = magichour.state()["projects"][project_id]
    assert (state["enabled"], state["gets"], state["deletes"]) == (False, 1, 2)


def test_a_plan_limits_how_many_render_at_once() -> None:
    with Simulator(duration=6, queue_share=0, max_rendering=1) as magichour:
        first, second, third = (create(magichour) for _ in range(3))
        assert get(magichour, "image", first)["status"] == "rendering"
        assert get(magichour, "image", second)["status"] == "queued"
        with session(magichour) as http:
            http.delete(f"{magichour.url}/v1/image-projects/{second}")
        assert wait(magichour, "image", third)["status"] == "complete"
        assert get(magichour, "image", second)["status"] == "queued"


def test_several_images_cost_several_times(magichour: Simulator) -> None:
    project = make(magichour, image_count=4)
    assert project["image_count"] == len(project["downloads"]) == 4
    assert project["credits_charged"] == 20


def test_durations_follow_the_table_of_tools() -> None:
    for name, tool in TOOLS.items():
        seconds = Settings(speed_up=10).tool_seconds(name)
        assert seconds == pytest.approx((tool.typical_seconds or seconds * 10) / 10)
        assert seconds > 0
        assert Settings(duration=3, speed_up=10).tool_seconds(name) == 3


def test_speed_up_makes_projects_complete_sooner() -> None:
    typical = TOOLS["text-to-video"].typical_seconds or 0
    with Simulator(speed_up=typical * 2) as magichour:
        started = time.monotonic()
        wait(magichour, "video", create(magichour, "video"))
        assert 0.5 <= time.monotonic() - started < typical

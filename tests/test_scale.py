"""The arithmetic of docs/scale.md, and that the page says what its figures give."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.scale import model, page
from benchmarks.scale.model import Work


def figures(**process: float) -> dict[str, Any]:
    """Return round figures: a task start costs 1 s of each component, a project in it 0.1 s."""

    def run(projects: int, starts: int, cost: float) -> dict[str, Any]:
        cpu = dict.fromkeys(("workers", "api-server", "scheduler", "triggerer", "postgresql"), cost)
        return {"projects": projects, "starts": starts, "cpu": cpu, "database": {"all": cost}, "logs": cost}

    return {
        "process": {"status_check": 0.0, "megabyte_s3": 0.0, **process},
        "airflow": {
            "scale_nothing": run(10, 10, 0.5),
            "scale_mapped": run(10, 20, 1.1),
            "scale_listed": run(200, 4, 0.11),
        },
    }


def test_cost_of_a_task_is_shared_by_its_projects() -> None:
    assert model.share(1.1, 0.11, 100, 1) == pytest.approx(1.1)
    assert model.share(1.1, 0.11, 100, 100) == pytest.approx(0.11)
    assert model.share(1.1, 0.11, 100, 10) == pytest.approx(1 / 10 + 0.1)


def test_capacity_follows_from_the_costs() -> None:
    mapped = model.carries(figures(), Work("text-to-video", 0, 1))
    assert mapped["API key, 5 at once"] == pytest.approx(
        5 * 86_400 / (Work("text-to-video", 0, 1).median * 1.1331), rel=1e-4
    )
    assert mapped["worker core"] == pytest.approx(86_400 / 1.1)
    assert mapped["scheduler"] == pytest.approx(86_400 / (2 * 0.5))
    assert mapped["worker slot"] == pytest.approx(86_400 / (1.1 + 1.1 + 4 * 0.2))
    listed = model.carries(figures(), Work("text-to-video", 0, 100))
    assert listed["scheduler"] == pytest.approx(100 * mapped["scheduler"])
    assert listed["worker slot"] == pytest.approx(86_400 / (0.11 + 0.11 + 4 * 0.2 / 4))


def test_megabytes_and_status_checks_cost_what_was_measured() -> None:
    work = Work("text-to-video", 10, 1)
    one = model.cost(figures(megabyte_s3=0.02, status_check=0.001), work)
    assert one["workers"] == pytest.approx(1.1 + 10 * 0.02)
    assert one["triggerer"] == pytest.approx(1.1 + work.checks * 0.001)


def test_list_waits_for_its_slowest_project() -> None:
    assert Work("lip-sync", 0, 1).slowest == Work("lip-sync", 0, 1).mean
    assert Work("lip-sync", 0, 100).slowest > 3 * Work("lip-sync", 0, 100).median


def test_most_loaded_part_is_named_first() -> None:
    said = model.first_to_give_way(figures(), Work("text-to-video", 0, 1), 86_400)
    assert said == "API server process (110 %), then triggerer (110 %)"


def test_page_matches_its_figures() -> None:
    written = page.PAGE.read_text()
    found = page.read_figures()
    for text in [*page.sections(found).values(), page.measured_table(found)]:
        assert text.strip() in written

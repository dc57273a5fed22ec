"""The hook's wait: the same as the sensor's, on the caller's thread."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.projects import Projects, project
from tests.support.scripted_server import Reply


def test_wait_returns_the_project_or_the_list_in_order(projects: Projects) -> None:
    projects.script("p1", "rendering", Reply(503), "complete")
    assert MagicHourHook().wait_for_project("image", "p1", 20, 0.05) == project("p1")
    found = MagicHourHook().wait_for_project("image", ["p2", "p1", "p2"], 20, poll_interval=0.05)
    assert [one["id"] for one in found] == ["p2", "p1", "p2"]


def test_first_failure_is_raised_and_names_the_others(projects: Projects) -> None:
    projects.script("p1", "canceled")
    projects.script("p2", project("p2", "error", error={"code": "no_source_face", "message": "no face"}))
    with pytest.raises(errors.MagicHourProjectCanceledError) as caught:
        MagicHourHook().wait_for_project("image", ["p3", "p1", "p2"], 20, 0.05)
    assert "no_source_face" in "".join(caught.value.__notes__)


def test_timeout_names_the_project(projects: Projects) -> None:
    projects.script("p1", "rendering")
    with pytest.raises(
        errors.MagicHourTimeoutError, match="Timed out waiting for project p1 \\(status: rendering\\)"
    ) as caught:
        MagicHourHook().wait_for_project("image", "p1", 0.5, 0.05)
    assert not isinstance(caught.value, errors.MagicHourSensorTimeoutError)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("sculpture", "p1", 5), "kind"),
        (("image", "", 5), "project_id"),
        (("image", "p1", 0), "timeout"),
        (("image", "p1", -1), "timeout"),
        (("image", "p1", 5, 0), "poll_interval"),
    ],
)
def test_bad_arguments_are_refused_before_any_request(projects: Projects, arguments: Any, named: str) -> None:
    with pytest.raises(errors.MagicHourArgumentError, match=named):
        MagicHourHook().wait_for_project(*arguments)
    assert not projects.asked

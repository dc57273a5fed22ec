"""The sensor in its three modes: they check alike, decide alike and return the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
)

from airflow_provider_magichour import exceptions as errors
from tests.sensors.support import AirflowRescheduleException, run, sensor
from tests.support.projects import Projects, project
from tests.support.scripted_server import Reply
from tests.support.tasks import task_context


def test_sensor_returns_the_finished_project(mode: str, projects: Projects) -> None:
    projects.script("p1", "queued", "rendering", "complete")
    assert run(sensor(mode, "p1")) == project("p1", kind="image")


def test_list_is_returned_in_order_with_duplicates(mode: str, projects: Projects) -> None:
    projects.script("p1", "rendering", "complete")
    found = run(sensor(mode, ["p2", "p1", "p2"]))
    assert [one["id"] for one in found] == ["p2", "p1", "p2"]


def test_duplicate_ids_cost_one_request(mode: str, projects: Projects) -> None:
    assert (
        run(sensor(mode, ["p1", "p1"], return_projects=False))
        == [{"id": "p1", "kind": "image", "status": "complete"}] * 2
    )
    assert projects.asked["p1"] == 1


@pytest.mark.parametrize(
    ("last", "error", "words"),
    [
        (
            project("p1", "error", error={"code": "no_source_face", "message": "no face"}),
            errors.MagicHourProjectFailedError,
            "Project p1 failed (no_source_face): no face",
        ),
        ("canceled", errors.MagicHourProjectCanceledError, "Project p1 was canceled"),
        (project("p1", enabled=False), errors.MagicHourNotFoundError, "p1 was deleted"),
        (Reply(404, {"message": "none such"}), errors.MagicHourNotFoundError, "none such"),
        (Reply(403, {"message": "not for you"}), errors.MagicHourPermissionError, "not for you"),
        (Reply(401, {"message": "bad key"}), errors.MagicHourAuthenticationError, "bad key"),
    ],
)
def test_sensor_raises_the_project_error(
    mode: str, projects: Projects, last: Any, error: type[Exception], words: str
) -> None:
    projects.script("p1", "rendering", last)
    with pytest.raises(error) as caught:
        run(sensor(mode, "p1"))
    assert words in str(caught.value)
    assert isinstance(caught.value, AirflowFailException)


def test_fail_on_error_false_returns_the_failed_project(mode: str, projects: Projects) -> None:
    projects.script("p1", "canceled")
    projects.script("p2", project("p2", enabled=False))
    found = run(sensor(mode, ["p1", "p2", "p3"], fail_on_error=False))
    assert [(one["status"], one["enabled"]) for one in found] == [
        ("canceled", True),
        ("complete", False),
        ("complete", True),
    ]
    statuses = run(sensor(mode, ["p1", "p2"], fail_on_error=False, return_projects=False))
    assert statuses == [
        {"id": "p1", "kind": "image", "status": "canceled"},
        {"id": "p2", "kind": "image", "status": "deleted"},
    ]


def test_failed_project_fails_the_list_when_all_are_finished(mode: str, projects: Projects) -> None:
    projects.script("p2", "canceled")
    projects.script("p1", "rendering", "rendering", "rendering", "complete")
    with pytest.raises(errors.MagicHourProjectCanceledError):
        run(sensor(mode, ["p1", "p2"], return_projects=False))
    assert projects.asked["p1"] == 4


@pytest.mark.parametrize(
    "transient_error", [Reply(500), Reply(429), Reply(drop=True), Reply(200, b"<html>oops")]
)
def test_failed_status_check_does_not_end_the_wait(
    mode: str, projects: Projects, transient_error: Reply
) -> None:
    projects.script("p1", transient_error, "rendering", transient_error, "complete")
    assert run(sensor(mode, "p1"))["status"] == "complete"


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"status": None},
        {"status": 7},
        {"id": "p2", "status": "complete"},
        Reply(200, ["complete"]),
        Reply(200, b""),
        Reply(200, b"[" * 100_000),
        Reply(200, b"\xff\xfe"),
        Reply(302, headers={"Location": "http://127.0.0.1:9/"}),
    ],
)
def test_response_about_another_project_is_refused(mode: str, projects: Projects, odd: Any) -> None:
    projects.script("p1", odd, "canceled")
    with pytest.raises(errors.MagicHourProjectCanceledError):
        run(sensor(mode, "p1"))


def test_unknown_status_is_waited_on_and_warned_of_once(
    mode: str, projects: Projects, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    projects.script("p1", "post-processing", "post-processing", "complete")
    assert run(sensor(mode, "p1", return_projects=True))["status"] == "complete"
    texts = (*capfd.readouterr(), caplog.text)  # where it goes depends on the Airflow
    said = max(text.count("status 'post-processing'") for text in texts)
    assert said == (1 if mode == "poke" else 2)  # of each process: of a poke; before and after a deferral


def test_missing_connection_fails_at_once_with_its_cure(
    mode: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.wait.JOIN_PAUSES", (0.01,))
    with pytest.raises(errors.MagicHourConnectionNotFoundError, match="nowhere"):
        run(sensor(mode, "p1", magichour_conn_id="nowhere"))
    assert "trying again" not in caplog.text


def test_missing_project_is_waited_for_as_long_as_its_submit_may_lag(
    mode: str, projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.not_found.CERTAIN_SECONDS", 100)
    missing = Reply(404, {"message": "none such"})
    projects.script("p1", missing, missing, missing, missing, "complete")  # two of them request other kinds
    assert run(sensor(mode, "p1"))["status"] == "complete"


def test_project_of_another_kind_is_named(mode: str, projects: Projects) -> None:
    def respond(seen: Any) -> Reply:
        if seen.path.startswith("/v1/video-projects/"):
            return Reply(200, project("p1"))
        return Reply(404, {"message": "none such"})

    projects.server.respond = respond
    with pytest.raises(errors.MagicHourNotFoundError, match="video"):
        run(sensor(mode, "p1", kind="image"))


@pytest.mark.parametrize("mode", ["reschedule"], indirect=True)
@pytest.mark.parametrize(
    ("response", "poll_interval", "seconds"),
    [
        (None, None, 60),
        (None, 7, 7),
        (Reply(429, {"message": "slow down"}, {"Retry-After": "200"}), None, 200),
        (Reply(503, {"message": "overloaded"}, {"Retry-After": "90"}), 7, 90),
    ],
)
def test_reschedule_mode_starts_the_task_once_a_minute_at_most(
    mode: str, projects: Projects, response: Any, poll_interval: float | None, seconds: float
) -> None:
    created = datetime.now(UTC).isoformat()
    projects.script("p1", response or project("p1", "rendering", type="NEW_TYPE", created_at=created))
    before = datetime.now(UTC)
    with pytest.raises(AirflowRescheduleException) as caught:
        sensor(mode, "p1", kind="video", poll_interval=poll_interval, timeout=1000).execute(
            task_context("wait")
        )
    soonest = (caught.value.reschedule_date - datetime.now(UTC)).total_seconds()
    latest = (caught.value.reschedule_date - before).total_seconds()
    assert soonest - 2 <= seconds <= latest + 2


@pytest.mark.parametrize("mode", ["reschedule"], indirect=True)
def test_a_failed_check_does_not_make_a_list_wait_for_the_next_poke(
    mode: str, projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.wait.LAST_CHECK_PAUSE", 0.01)
    ids = [f"p{number}" for number in range(20)]
    for one in ids[::3]:
        projects.script(one, Reply(503, {"message": "overloaded"}), "complete")
    found = sensor(mode, ids, timeout=1000).execute(task_context("wait"))
    assert [one["id"] for one in found] == ids


def test_secrets_backend_that_is_away_does_not_fail_a_later_poke(
    projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.wait.JOIN_PAUSES", (0.01,))
    monkeypatch.delenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT")
    context = task_context("wait")
    task = sensor("reschedule", "p1")
    with pytest.raises(errors.MagicHourConnectionNotFoundError):
        task.poke(context)
    context["ti"].get_first_reschedule_date = lambda context: datetime.now(UTC)
    assert task.poke(context) is False

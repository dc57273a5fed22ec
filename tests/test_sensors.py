"""The sensor in its three modes: they look alike, judge alike and raise the same."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:
    from airflow.exceptions import AirflowRescheduleException

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour.sensors import MagicHourProjectSensor
from tests.support.airflow import IS_AIRFLOW_3
from tests.support.projects import KEY, Projects, project
from tests.support.scripted_server import Reply
from tests.support.tasks import rebuilt, run_task, stored, task_context

MODES = ("poke", "reschedule", "deferrable")


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "reschedule" and not IS_AIRFLOW_3:
        # Airflow 2 asks its database when the sensor was rescheduled first.
        now = datetime.now(UTC)
        monkeypatch.setattr("airflow.sensors.base._orig_start_date", lambda **_: now)
    return str(request.param)


def sensor(mode: str, project_id: Any, **arguments: Any) -> MagicHourProjectSensor:
    how: dict[str, Any] = (
        {"deferrable": True} if mode == "deferrable" else {"mode": mode, "deferrable": False}
    )
    arguments = {"kind": "image", "poll_interval": 0.05, "timeout": 20, **how, **arguments}
    return MagicHourProjectSensor(task_id="wait", project_id=project_id, **arguments)


def run(task: MagicHourProjectSensor, **context: Any) -> Any:
    """Run the sensor to its end, as Airflow does in its mode."""
    around = task_context("wait", **context)
    first = around["ti"].start_date
    while True:
        try:
            return run_task(task, around)
        except AirflowRescheduleException as again:
            around["ti"].get_first_reschedule_date = lambda context: first
            time.sleep(max((again.reschedule_date - datetime.now(UTC)).total_seconds(), 0))


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


def test_all_modes_raise_the_same_timeout(mode: str, projects: Projects) -> None:
    projects.script("p1", "rendering")
    with pytest.raises(errors.MagicHourSensorTimeoutError) as caught:
        run(sensor(mode, ["p1", "p2"], timeout=1))
    assert isinstance(caught.value, errors.MagicHourTimeoutError)
    assert isinstance(caught.value, AirflowSensorTimeout)
    assert str(caught.value).startswith("Timed out waiting for 1 of 2 projects: p1 (status: rendering), at ")
    assert caught.value.project_id == "p1"


def test_all_modes_raise_the_same_timeout_when_the_server_is_down(mode: str, projects: Projects) -> None:
    projects.script("p1", Reply(503, {"message": "overloaded"}))
    with pytest.raises(errors.MagicHourSensorTimeoutError, match="overloaded"):
        run(sensor(mode, "p1", timeout=1))


@pytest.mark.parametrize("lenient", ["soft_fail", "never_fail"])
@pytest.mark.parametrize(
    ("last", "why"),
    [
        ("canceled", "Project p1 was canceled in the Magic Hour web app"),
        ("rendering", r"Timed out waiting for project p1 \(status: rendering\), at "),
        (Reply(404, {"message": "none such"}), "GET /v1/image-projects/p1 returned 404: none such"),
    ],
)
def test_soft_fail_skips_with_the_reason(
    mode: str, projects: Projects, last: Any, why: str, lenient: str
) -> None:
    projects.script("p1", last)
    with pytest.raises(AirflowSkipException, match=f"^Skipping due to {lenient} is set to True: {why}"):
        run(sensor(mode, "p1", timeout=1, **{lenient: True}))


@pytest.mark.parametrize("lenient", ["soft_fail", "never_fail"])
def test_soft_fail_does_not_skip_a_running_project(mode: str, projects: Projects, lenient: str) -> None:
    projects.script("p1", "rendering", Reply(500), "complete")
    assert run(sensor(mode, "p1", **{lenient: True})) == project("p1", kind="image")


@pytest.mark.parametrize("lenient", ["soft_fail", "never_fail"])
def test_soft_fail_skips_when_resumed_by_airflow(projects: Projects, lenient: str) -> None:
    task = sensor("deferrable", "p1", **{lenient: True})
    event = {"kind": "image", "outcomes": {"p1": "canceled"}}
    projects.script("p1", "canceled")
    with pytest.raises(AirflowSkipException):
        task.resume_execution("execute_complete", {"event": event}, task_context("wait"))


def test_soft_fail_skips_alike_when_resumed_and_on_a_worker(projects: Projects) -> None:
    task = sensor("deferrable", "p1", soft_fail=True)
    foreign = {"kind": "image", "outcomes": {"p2": "complete"}}
    with pytest.raises(errors.MagicHourError, match="not trusted"):
        task.resume_execution("execute_complete", {"event": foreign}, task_context("wait"))
    error = {"class": "MagicHourTimeoutError", "args": ["p1 was late"]}
    late = {"kind": "image", "project_ids": ["p1"], "error": error}
    with pytest.raises(AirflowSkipException, match="p1 was late"):
        task.resume_execution("execute_complete", {"event": late}, task_context("wait"))


#: What Airflow resumes a task with whose deferral took longer than its ``timeout``.
DEFERRAL_TIMEOUT = {"error": "Trigger timeout" if IS_AIRFLOW_3 else "Trigger/execution timeout"}


@pytest.mark.parametrize("reason", [DEFERRAL_TIMEOUT, {"error": "Trigger failure", "traceback": ["Oops"]}])
@pytest.mark.parametrize("lenient", [{}, {"soft_fail": True}, {"never_fail": True}])
def test_complete_project_is_returned_where_the_deferral_failed(
    projects: Projects, lenient: dict[str, Any], reason: dict[str, Any]
) -> None:
    task = sensor("deferrable", "p1", **lenient)
    found = task.resume_execution("__fail__", reason, task_context("wait"))
    assert found == project("p1", kind="image")


def test_deferral_timeout_raises_the_same_error(projects: Projects) -> None:
    projects.script("p1", "rendering")
    context = task_context("wait", start_date=datetime.now(UTC) - timedelta(seconds=21))
    with pytest.raises(errors.MagicHourSensorTimeoutError, match=r"p1 \(status: rendering\)"):
        sensor("deferrable", "p1", timeout=20).resume_execution("__fail__", DEFERRAL_TIMEOUT, context)


@pytest.mark.parametrize("lenient", [{}, {"soft_fail": True}])
def test_broken_trigger_fails_the_task_whose_project_is_not_finished(
    projects: Projects, lenient: dict[str, Any]
) -> None:
    projects.script("p1", "rendering")
    task = sensor("deferrable", "p1", **lenient)
    with pytest.raises(AirflowSkipException if lenient else AirflowException, match="Trigger failure"):
        task.resume_execution("__fail__", {"error": "Trigger failure"}, task_context("wait"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"project_id": None}, "project_id"),
        ({"project_id": ""}, "project_id"),
        ({"project_id": "  "}, "project_id"),
        ({"project_id": []}, "project_id"),
        ({"kind": "sculpture"}, "kind"),
        ({"kind": None}, "kind"),
        ({"poll_interval": 0}, "poll_interval"),
        ({"poll_interval": -1}, "poll_interval"),
        ({"poll_interval": float("nan")}, "poll_interval"),
        ({"poll_interval": "soon"}, "poll_interval"),
        ({"timeout": -1}, "timeout"),
        ({"poke_interval": -1}, "poke_interval"),
    ],
)
def test_constructor_refuses_bad_arguments(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises((ValueError, AirflowException), match=named):
        sensor("poke", **{"project_id": "p1", **arguments})


@pytest.mark.parametrize("value", [None, "", [], ["p1", None], "../p1", {"name": "p1"}, 7])
def test_rendered_value_that_is_no_id_is_refused(mode: str, projects: Projects, value: Any) -> None:
    task = sensor(mode, "p1")
    task.project_id = value
    with pytest.raises(errors.MagicHourArgumentError, match="project_id"):
        run(task)
    assert not projects.asked


def deferred(task: MagicHourProjectSensor, context: Any) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        task.execute(context)
    return caught.value


def test_sensor_defers_once_without_a_secret(projects: Projects) -> None:
    ids = [f"p{n}" for n in range(1000)]
    for one in ids:
        projects.script(one, "rendering")
    context = task_context("wait")
    ended = deferred(sensor("deferrable", ids), context)
    assert KEY not in json.dumps(stored(ended.trigger.serialize()[1]))
    assert len(rebuilt(ended.trigger).project_ids) == 1000
    assert context["ti"].xcoms.pull("wait", "_link_MagicHourProjectLink").endswith("?imageId=p0")


def test_deadline_counts_from_the_start_of_the_try(projects: Projects) -> None:
    projects.script("p1", "rendering")
    start = datetime.now(UTC) - timedelta(seconds=100)
    context = task_context("wait", start_date=start)
    ended = deferred(sensor("deferrable", "p1", timeout=3600), context)
    assert ended.trigger.deadline == start.timestamp() + 3600
    assert ended.timeout is not None
    assert ended.timeout.total_seconds() > 3500 + 60
    shorter = sensor("deferrable", "p1", timeout=3600, execution_timeout=timedelta(minutes=10))
    assert deferred(shorter, context).trigger.deadline == start.timestamp() + 600


def test_explicit_poke_interval_is_the_poll_interval(projects: Projects) -> None:
    projects.script("p1", "rendering")
    plain = {"poll_interval": None}
    assert deferred(sensor("deferrable", "p1", **plain), task_context()).trigger.poll_interval is None
    explicit = sensor("deferrable", "p1", poke_interval=7, **plain)
    assert deferred(explicit, task_context()).trigger.poll_interval == 7
    both = sensor("deferrable", "p1", poke_interval=timedelta(seconds=7), poll_interval=3)
    assert deferred(both, task_context()).trigger.poll_interval == 3


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
    with pytest.raises(AirflowRescheduleException) as caught:
        sensor(mode, "p1", kind="video", poll_interval=poll_interval, timeout=1000).execute(
            task_context("wait")
        )
    delay = (caught.value.reschedule_date - datetime.now(UTC)).total_seconds()
    assert delay == pytest.approx(seconds, abs=2)


@pytest.mark.parametrize(
    "event",
    [
        None,
        "complete",
        {},
        {"kind": "video", "outcomes": {"p1": "complete"}},
        {"kind": "image", "outcomes": {"p2": "complete"}},
        {"kind": "image", "outcomes": {"p1": "complete", "p2": "complete"}},
        {"kind": "image", "outcomes": {}},
        {"kind": "image", "outcomes": {"p1": "rendering"}},
        {"kind": "image", "outcomes": {"p1": ["complete"]}},
        {"kind": "image", "project_ids": ["p2"], "error": {"class": "MagicHourError", "args": ["x"]}},
        {"kind": "image", "project_ids": ["p1"], "error": {"class": "SystemExit", "args": []}},
        {"kind": "image", "project_ids": ["p1"], "error": None},
    ],
)
def test_foreign_event_fails_the_task(projects: Projects, event: Any) -> None:
    with pytest.raises(errors.MagicHourError):
        sensor("deferrable", "p1").execute_complete(task_context("wait"), event)
    assert not projects.asked


def test_event_contradicted_by_the_api_fails(projects: Projects) -> None:
    projects.script("p1", "rendering")
    event = {"kind": "image", "outcomes": {"p1": "complete"}}
    with pytest.raises(errors.MagicHourError, match="not finished"):
        sensor("deferrable", "p1").execute_complete(task_context("wait"), event)


def test_missing_connection_fails_at_once_with_its_cure(
    mode: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.wait.JOIN_PAUSES", (0.01,))
    with pytest.raises(errors.MagicHourConnectionNotFoundError, match="nowhere"):
        run(sensor(mode, "p1", magichour_conn_id="nowhere"))
    assert "trying again" not in caplog.text


# ------------------------------------------------------------------ what other tasks returned, and splits


@pytest.mark.parametrize(
    "value",
    [
        {"id": "p1", "kind": "image", "tool": "ai-image-generator", "credits_charged": 5},
        {"project": {"id": "p1", "status": "complete"}, "files": [], "kind": "image"},
        {"id": "p1", "kind": "image", "status": "complete"},
    ],
)
def test_result_of_another_task_names_the_project_and_its_kind(
    mode: str, projects: Projects, value: dict[str, Any]
) -> None:
    assert run(sensor(mode, value, kind=None)) == project("p1", kind="image")
    found = run(sensor(mode, [value, {"id": "p2", "kind": "image"}], kind=None, return_projects=False))
    assert [one["id"] for one in found] == ["p1", "p2"]
    assert run(sensor(mode, run(sensor(mode, value, kind=None)), kind=None))["id"] == "p1"


def test_contradicting_kind_is_refused_without_printing_the_value(mode: str, projects: Projects) -> None:
    value = {"id": "p1", "kind": "video", "downloads": [{"url": "https://x/?signature=secret"}]}
    task = sensor(mode, "p1")
    task.project_id = value
    with pytest.raises(errors.MagicHourArgumentError, match="video") as caught:
        run(task)
    assert "secret" not in str(caught.value)


def test_long_list_waits_in_several_triggers_with_one_deadline(
    projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.deferral.MAX_STORED_BYTES", 3_500)
    ids = [f"project-{number:04d}" for number in range(100)]
    for one in ids:
        projects.script(one, "rendering", "complete")
    context = task_context("wait")
    task = sensor("deferrable", ids, poll_interval=None, return_projects=False)
    parts, deadlines = [], set()
    ended = deferred(task, context)
    while True:
        trigger = rebuilt(ended.trigger)
        parts.append(trigger.project_ids)
        deadlines.add(trigger.deadline)
        event = {"kind": "image", "outcomes": dict.fromkeys(trigger.project_ids, "complete")}
        try:
            found = task.execute_complete(context, event, **stored(ended.kwargs or {}))
            break
        except TaskDeferred as again:
            ended = again
    assert [one for part in parts for one in part] == ids
    assert len(parts) > 1
    assert len(deadlines) == 1
    assert [one["id"] for one in found] == ids


def test_task_deferred_by_the_first_version_resumes_with_the_event_alone(projects: Projects) -> None:
    event = {"kind": "image", "outcomes": {"p1": "complete", "p2": "complete"}}
    found = sensor("deferrable", ["p1", "p2"]).execute_complete(task_context("wait"), event)
    assert [one["id"] for one in found] == ["p1", "p2"]


# ------------------------------------------------------------------------------ before and after a deferral


def test_finished_project_is_not_deferred(projects: Projects) -> None:
    assert sensor("deferrable", "p1").execute(task_context("wait")) == project("p1", kind="image")


def test_short_render_is_waited_for_on_the_worker(projects: Projects) -> None:
    now = datetime.now(UTC).isoformat()
    projects.script("p1", project("p1", "rendering", created_at=now), project("p1", created_at=now))
    task = sensor("deferrable", "p1", poll_interval=0.05)
    assert task.execute(task_context("wait"))["status"] == "complete"


@pytest.mark.parametrize("defer_after", [0, "0", timedelta(0)])
def test_defer_after_zero_defers_at_once(projects: Projects, defer_after: Any) -> None:
    now = datetime.now(UTC).isoformat()
    projects.script("p1", project("p1", "rendering", created_at=now))
    deferred(sensor("deferrable", "p1", defer_after=defer_after), task_context("wait"))
    assert projects.asked["p1"] == 1


def test_defer_after_waits_so_long_on_the_worker(projects: Projects) -> None:
    projects.script("p1", *["rendering"] * 4, "complete")
    task = sensor("deferrable", "p1", kind="video", defer_after=5, poll_interval=0.05)
    assert task.execute(task_context("wait"))["status"] == "complete"


@pytest.mark.parametrize("mode", ["poke", "reschedule"], indirect=True)  # deferred, Airflow does not watch it
@pytest.mark.parametrize("lenient", [{}, {"soft_fail": True}])
def test_execution_timeout_is_the_sensors_own_timeout(
    projects: Projects, mode: str, lenient: dict[str, Any]
) -> None:
    from airflow.providers.common.compat.sdk import AirflowTaskTimeout

    def ring() -> None:
        raise AirflowTaskTimeout

    task = sensor(mode, "p1", execution_timeout=timedelta(seconds=9), **lenient)
    task._wait_on_worker = lambda wanted: ring()  # type: ignore[method-assign, assignment]
    task._check_once = lambda context, wanted: ring()  # type: ignore[method-assign, assignment, return-value]
    expected = AirflowSkipException if lenient else errors.MagicHourSensorTimeoutError
    with pytest.raises(expected, match="Timed out after execution_timeout"):
        run(task)


def test_wait_on_a_worker_ends_before_the_alarm_of_execution_timeout(projects: Projects) -> None:
    projects.script("p1", "rendering")
    started = time.monotonic()
    with pytest.raises(errors.MagicHourSensorTimeoutError, match="Timed out waiting for project p1"):
        run(sensor("poke", "p1", execution_timeout=timedelta(seconds=1)))
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("argument", ["exponential_backoff", "max_wait", "silent_fail"])
def test_argument_without_a_use_is_refused_with_a_sentence(argument: str) -> None:
    with pytest.raises(errors.MagicHourArgumentError, match=f"{argument} is not supported: "):
        sensor("poke", "p1", **{argument: 5})


def test_poke_interval_of_zero_is_a_second(monkeypatch: pytest.MonkeyPatch, projects: Projects) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.schedule.MIN_POLL_INTERVAL", 0.4)
    projects.script("p1", "rendering", "rendering", "complete")
    started = time.monotonic()
    run(sensor("poke", "p1", poll_interval=None, poke_interval=0))
    assert time.monotonic() - started >= 0.8


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


def test_missing_project_is_waited_for_as_long_as_its_submit_may_lag(
    mode: str, projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.poller.MISSING_SECONDS", 5)
    missing = Reply(404, {"message": "none such"})
    projects.script("p1", missing, missing, missing, missing, "complete")  # two of them ask for other kinds
    assert run(sensor(mode, "p1"))["status"] == "complete"


def test_project_of_another_kind_is_named(mode: str, projects: Projects) -> None:
    def respond(seen: Any) -> Reply:
        if seen.path.startswith("/v1/video-projects/"):
            return Reply(200, project("p1"))
        return Reply(404, {"message": "none such"})

    projects.server.answer = respond
    with pytest.raises(errors.MagicHourNotFoundError, match="video"):
        run(sensor(mode, "p1", kind="image"))

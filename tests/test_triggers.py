"""The trigger sends one small event about its own projects, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._polling.poller import Poller
from airflow_provider_magichour.exceptions import MagicHourArgumentError
from airflow_provider_magichour.triggers import MagicHourProjectTrigger, read_event
from tests.support.projects import KEY, Projects
from tests.support.scripted_server import Reply
from tests.support.tasks import rebuilt, run_trigger


def trigger(project_ids: Any, seconds: float = 120, **more: Any) -> MagicHourProjectTrigger:
    arguments = {"poll_interval": 0.05, **more}
    return MagicHourProjectTrigger(
        "image", project_ids, "magichour_default", time.time() + seconds, **arguments
    )


def test_trigger_survives_serialization() -> None:
    one = trigger(["p1", "p2"], usual_seconds=9, submitted_at=1.5, missing_ok=True)
    assert rebuilt(one).serialize() == one.serialize()
    assert set(one.serialize()[1]) >= {
        "kind",
        "project_ids",
        "magichour_conn_id",
        "deadline",
        "poll_interval",
    }


def test_event_holds_the_outcome_of_each_project(projects: Projects) -> None:
    projects.script("p2", "rendering", "canceled")
    event = run_trigger(trigger(["p1", "p2"]))
    assert event == {"kind": "image", "outcomes": {"p1": "complete", "p2": "canceled"}}
    assert read_event(event, "image", ["p2", "p1", "p2"]) == {"p2": "canceled", "p1": "complete"}


def test_event_waits_for_the_scheduler_to_notice_the_deferral(
    projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(in_triggerer: bool) -> float:
        one = trigger(["p1"])
        if in_triggerer:
            one.task_instance = SimpleNamespace(task_id="wait")  # as a triggerer does
        started = time.monotonic()
        events = one.run()
        await anext(events)
        await events.aclose()
        return time.monotonic() - started

    monkeypatch.setattr("airflow_provider_magichour.triggers.MIN_EVENT_SECONDS", 60)
    assert asyncio.run(run(in_triggerer=False)) < 60
    monkeypatch.setattr("airflow_provider_magichour.triggers.MIN_EVENT_SECONDS", 0.5)
    assert asyncio.run(run(in_triggerer=True)) >= 0.5


def test_missing_ok_records_a_missing_project(projects: Projects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.not_found.CERTAIN_SECONDS", 0.2)
    projects.script("p2", Reply(404, {"message": "none such"}))
    event = run_trigger(trigger(["p1", "p2"], missing_ok=True))
    assert read_event(event, "image", ["p1", "p2"]) == {"p1": "complete", "p2": "missing"}


def test_trigger_checks_once_after_a_deadline_that_passed_while_no_triggerer_ran(projects: Projects) -> None:
    event = run_trigger(trigger(["p1"], seconds=-1))
    assert read_event(event, "image", ["p1"]) == {"p1": "complete"}
    assert projects.asked["p1"] == 1


def test_passed_deadline_times_out_after_one_status_check(projects: Projects) -> None:
    projects.script("p1", "rendering")
    event = run_trigger(trigger(["p1", "p2"], seconds=-1))
    with pytest.raises(errors.MagicHourTimeoutError, match=r"1 of 2 projects: p1 \(status: rendering\)"):
        read_event(event, "image", ["p1", "p2"])
    assert projects.asked == {"p1": 1, "p2": 1}


def test_hanging_server_moves_the_deadline_by_one_status_check(
    projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.poller.CHECK_SECONDS", 0.5)
    projects.script("p1", Reply(delay=120))
    started = time.monotonic()
    event = run_trigger(trigger(["p1"], seconds=0.2))
    assert time.monotonic() - started < 30  # far from LAST_CHECK_SECONDS
    with pytest.raises(errors.MagicHourTimeoutError):
        read_event(event, "image", ["p1"])


def test_missing_connection_becomes_an_error_event(
    projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_magichour._polling.wait.JOIN_PAUSES", (0.01,))
    monkeypatch.delenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT")
    event = run_trigger(trigger(["p1"]))
    with pytest.raises(errors.MagicHourConnectionNotFoundError, match="magichour_default"):
        read_event(event, "image", ["p1"])


def test_event_holds_no_key(projects: Projects) -> None:
    projects.keys = {"another"}
    event = run_trigger(trigger(["p1"]))
    assert KEY not in json.dumps(event)
    with pytest.raises(errors.MagicHourAuthenticationError):
        read_event(event, "image", ["p1"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"kind": "sculpture"}, "kind"),
        ({"project_ids": []}, "project_ids"),
        ({"project_ids": ["../x"]}, "project_ids"),
        ({"deadline": float("nan")}, "deadline"),
        ({"poll_interval": 0}, "poll_interval"),
    ],
)
def test_trigger_refuses_bad_arguments(arguments: dict[str, Any], named: str) -> None:
    good = {"kind": "image", "project_ids": ["p1"], "magichour_conn_id": "c", "deadline": 1.0}
    with pytest.raises(MagicHourArgumentError, match=named):
        MagicHourProjectTrigger(**{**good, **arguments})


def test_single_id_counts_as_a_list() -> None:
    assert trigger("p1").project_ids == ["p1"]


def test_canceled_trigger_leaves_the_shared_poller_running(projects: Projects) -> None:
    projects.script("p1", *["rendering"] * 8, "complete")
    projects.script("p2", Reply(delay=2, body={"id": "p2", "status": "rendering"}))

    async def main() -> Any:
        keep = asyncio.ensure_future(anext(trigger(["p1"]).run()))
        drop = asyncio.ensure_future(anext(trigger(["p2"]).run()))
        while not projects.asked["p2"]:  # noqa: ASYNC110  # the server is on another thread
            await asyncio.sleep(0.01)
        # in the middle of a status check of p2
        drop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drop
        event = await keep
        assert not Poller._shared[asyncio.get_running_loop()]
        assert len(asyncio.all_tasks()) == 1
        return event.payload

    assert asyncio.run(main())["outcomes"] == {"p1": "complete"}


@pytest.mark.parametrize(
    "stored_by_first_version",
    [
        {
            "kind": "image",
            "project_ids": ["p1", "p2"],
            "magichour_conn_id": "magichour_default",
            "deadline": 4102444800.0,
            "poll_interval": 0.05,
            "usual_seconds": 5,
            "submitted_at": 1795255200.0,
            "missing_ok": True,
        },
        {
            "kind": "image",
            "project_ids": ["p1", "p2"],
            "magichour_conn_id": "magichour_default",
            "deadline": 4102444800.0,
            "poll_interval": None,
            "usual_seconds": None,
            "submitted_at": None,
            "missing_ok": False,
        },
    ],
)
@pytest.mark.parametrize("name", ["MagicHourProjectTrigger", "MagicHourGenerateTrigger"])
def test_row_stored_by_the_first_version_is_read(
    projects: Projects, name: str, stored_by_first_version: dict[str, Any]
) -> None:
    from airflow.providers.common.compat.module_loading import import_string

    one = import_string(f"airflow_provider_magichour.triggers.{name}")(**stored_by_first_version)
    assert one.serialize()[1].items() >= stored_by_first_version.items()
    assert read_event(run_trigger(one), "image", ["p1", "p2"]) == {"p1": "complete", "p2": "complete"}

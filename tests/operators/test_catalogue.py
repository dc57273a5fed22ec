"""The catalogue: what is written of projects without stored files."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._transfer import candidates, catalogue
from airflow_provider_magichour._transfer.catalogue import Catalogue
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.sensors import MagicHourProjectSensor
from tests.operators.cleanup_support import backdate, clean_up
from tests.operators.support import BODY, CREATE, bodies, generate
from tests.operators.support import operator as create_task
from tests.support.airflow import IS_AIRFLOW_3
from tests.support.files import entries, entry
from tests.support.tasks import TaskStateStore, run_task, task_context

pytestmark = pytest.mark.usefixtures("no_pauses")

MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferred"])
TASK = {"dag_id": "dag", "task_id": "task", "run_id": "run", "map_index": -1, "try_number": 1}


@pytest.fixture
def catalog(sim, connect, tmp_path):
    """The root that the connection names."""
    connect(sim.url, sim.api_key, catalog=str(tmp_path / "catalog"), timeout=30)
    return tmp_path / "catalog"


def only(found):
    (one,) = found.values()
    return one


@MODES
@pytest.mark.parametrize(
    "outcome", [{"code": "no_source_face", "message": "No face"}, {"status": "canceled"}]
)
def test_project_that_failed_leaves_an_entry(sim, tmp_path, deferrable, outcome):
    sim.faults({"match": CREATE, "outcome": outcome})
    task = generate(deferrable=deferrable, destination=str(tmp_path / "media"), catalog_prompts=True)
    with pytest.raises(errors.MagicHourError):
        run_task(task, task_context(store=TaskStateStore()))
    found = only(entries(tmp_path / "media"))
    (charge, refund) = sim.ledger()
    expected = {
        **TASK,
        "event": None,
        "status": outcome.get("status", "error"),
        "error_code": outcome.get("code"),
        "error_message": outcome.get("message"),
        "tool": "ai-image-generator",
        "credits_charged": 0,
        "credits_refunded": refund["credits"],
        "project_id": charge["project_id"],
        "downloaded_at": None,
        "files": [],
        "prompt": BODY["style"]["prompt"],
        "magichour_conn_id": "magichour_default",
    }
    assert found.items() >= expected.items()
    assert found["seconds"] >= 0
    assert len(found["body_fingerprint"]) == 32
    assert found["account_id"]


def test_catalog_false_leaves_receipts_alone(sim, tmp_path):
    sim.faults({"match": CREATE, "skip": 1, "outcome": {"code": "no_source_face"}})
    task = generate(bodies(2), destination=str(tmp_path), catalog=False)
    with pytest.raises(errors.MagicHourProjectFailedError):
        run_task(task, task_context(store=TaskStateStore()))
    found = only(entries(tmp_path))
    assert found["status"] == "complete"
    assert "prompt" not in found


def test_generate_without_a_destination_records_at_the_connections_catalog(sim, catalog):
    result = run_task(generate(), task_context(store=TaskStateStore()))
    found = only(entries(catalog))
    assert (found["status"], found["files"]) == ("complete", [])
    assert found["credits_charged"] == result["project"]["credits_charged"]


def test_create_records_what_it_submitted(sim, catalog):
    made = run_task(create_task(bodies(2)), task_context(store=TaskStateStore()))
    found = entries(catalog)
    assert {one["project_id"] for one in found.values()} == {one["id"] for one in made}
    for one in found.values():
        assert one.items() >= {**TASK, "event": "submitted", "tool": "ai-image-generator"}.items()
        assert one["credits_charged"] == made[0]["credits_charged"]


def test_uncertain_submit_is_named_by_its_fingerprint(sim, tmp_path):
    sim.faults({"match": CREATE, "drop": "after"})
    with pytest.raises(errors.MagicHourUncertainSubmitError):
        run_task(generate(destination=str(tmp_path)), task_context(store=TaskStateStore()))
    ((name, found),) = entries(tmp_path).items()
    assert name[7:] == f"{found['body_fingerprint']}-uncertain"
    assert (found["project_id"], found["event"]) == (None, "uncertain")
    assert "credits_charged" not in found
    assert list(catalogue.entries(Storage(str(tmp_path), ""), found["at"][:10])) == []


def test_timeout_is_an_event_and_the_end_an_entry(sim, tmp_path):
    sim.faults({"match": CREATE, "duration": 600})
    store = TaskStateStore()
    with pytest.raises(errors.MagicHourTimeoutError):
        run_task(generate(destination=str(tmp_path), timeout=0.5), task_context(store=store))
    found = only(entries(tmp_path))
    assert found["event"] == "timed_out"
    assert found["credits_charged"] == sim.ledger()[0]["credits"]
    sim.end_project(found["project_id"])
    run_task(generate(destination=str(tmp_path)), task_context(store=store, try_number=2, max_tries=1))
    assert entry(tmp_path, found["project_id"])["files"]
    assert len(entries(tmp_path)) == 2


def test_reused_result_is_an_event(sim, tmp_path):
    task = {"destination": str(tmp_path), "reuse": True}
    first = run_task(generate(**task), task_context(store=TaskStateStore()))
    again = run_task(generate(**task), task_context(store=TaskStateStore(), run_id="later"))
    assert again["reused"]
    events = [one for one in entries(tmp_path).values() if one["event"]]
    assert [(one["event"], one["run_id"]) for one in events] == [("reused", "later")]
    assert events[0]["project_id"] == first["project"]["id"]
    run_task(generate(**task), task_context(store=TaskStateStore(), run_id="later still"))
    events = [one for one in entries(tmp_path).values() if one["event"]]
    assert sorted(one["run_id"] for one in events) == ["later", "later still"]
    (found,) = catalogue.entries(Storage(str(tmp_path), ""), first["project"]["created_at"][:10])
    assert found.events == {"reused"}


def test_catalogue_that_cannot_be_written_fails_no_task(sim, connect, tmp_path, caplog):
    (tmp_path / "file").write_text("a file where the catalogue should be")
    connect(sim.url, sim.api_key, catalog=str(tmp_path / "file"), timeout=30)
    with caplog.at_level(logging.WARNING):
        assert run_task(generate(), task_context(store=TaskStateStore()))["project"]
        run_task(create_task(), task_context(store=TaskStateStore()))
    assert caplog.text.count("has no record of") == 2


def test_entry_without_files_is_replaced_by_a_download_and_not_the_other_way(sim, catalog):
    hook = MagicHourHook()
    project_id = run_task(generate(), task_context(store=TaskStateStore()))["project"]["id"]
    assert Catalogue(Storage(str(catalog), ""), Storage(str(catalog), "")).find(project_id) is None
    hook.download_project("image", project_id, str(catalog))
    stored = entry(catalog, project_id)
    assert stored["files"]
    hook.record_ends("image", [project_id], recorded_by=TASK)
    assert entry(catalog, project_id) == stored


def test_clean_up_deletes_nothing_that_is_not_stored_and_closes_its_days(sim, catalog, monkeypatch):

    sim.faults({"match": CREATE, "skip": 1, "times": 1, "outcome": {"code": "no_source_face"}})
    with pytest.raises(errors.MagicHourProjectFailedError):
        run_task(generate(bodies(2)), task_context(store=TaskStateStore()))
    project_id = run_task(generate(destination=str(catalog)), task_context())["project"]["id"]
    for one in entries(catalog).values():
        backdate(catalog, one["project_id"], timedelta(days=40))
    assert clean_up(catalog, timedelta(days=30))["deleted"] == [project_id]
    assert clean_up(catalog, timedelta(days=30))["deleted"] == []
    root = Storage(str(catalog), "")

    done, _ = candidates.read_done_days(root, datetime.now(UTC), timedelta(days=30))
    assert len(done) == 1


#: Airflow 2 reads the first start of a rescheduled task from its database, which a plain test does not have.
RESCHEDULE = [{"mode": "reschedule"}] if IS_AIRFLOW_3 else []


@pytest.mark.parametrize("mode", [{"deferrable": False}, {"deferrable": True}, *RESCHEDULE], ids=str)
def test_sensor_records_ends_and_timeouts(sim, catalog, mode):
    hook = MagicHourHook()
    sim.faults({"match": CREATE, "duration": 600})
    failed, late, complete = (hook.create_project("ai-image-generator", BODY)["id"] for _ in range(3))
    sim.end_project(failed, "error", "no_source_face")
    sim.end_project(complete)
    given = {"task_id": "task", "kind": "image", "poll_interval": 0.1, "poke_interval": 0.1, **mode}
    result = run_task(
        MagicHourProjectSensor(project_id=[failed, complete], fail_on_error=False, **given), task_context()
    )
    assert [one["status"] for one in result] == ["error", "complete"]
    assert entry(catalog, failed)["error_code"] == "no_source_face"
    assert entry(catalog, complete).items() >= {**TASK, "status": "complete", "files": []}.items()
    started = datetime.now(UTC) - timedelta(hours=1)
    context = task_context(start_date=started, first_start_date=started)
    with pytest.raises(errors.MagicHourSensorTimeoutError):
        run_task(MagicHourProjectSensor(project_id=late, timeout=0.3, **given), context)
    names = [name[7:].partition("-timed_out-")[0] for name in entries(catalog)]
    assert sorted(names) == sorted([failed, complete, late])


def test_sensor_records_nothing_with_catalog_false(sim, catalog):
    made = MagicHourHook().create_project("ai-image-generator", BODY)["id"]
    run_task(
        MagicHourProjectSensor(task_id="t", project_id=made, kind="image", catalog=False), task_context()
    )
    assert not catalog.exists()


def test_sensor_leaves_the_entry_of_a_failed_project_as_it_is(sim, catalog):
    sim.faults({"match": CREATE, "outcome": {"code": "no_source_face"}})
    with pytest.raises(errors.MagicHourProjectFailedError):
        run_task(generate(), task_context(store=TaskStateStore()))
    before = only(entries(catalog))
    sensor = MagicHourProjectSensor(
        task_id="t", project_id=before["project_id"], kind="image", fail_on_error=False
    )
    run_task(sensor, task_context())
    assert only(entries(catalog)) == before
    assert before["credits_refunded"] > 0


def test_download_keeps_what_the_task_that_made_it_knew(sim, tmp_path):
    made = run_task(generate(destination=str(tmp_path)), task_context(store=TaskStateStore()))
    project_id = made["project"]["id"]
    before = entry(tmp_path, project_id)
    MagicHourHook().download_project("image", project_id, str(tmp_path), overwrite=True)
    after = entry(tmp_path, project_id)
    for name in ("tool", "body_fingerprint", "finished_at", "seconds"):
        assert after[name] == before[name] is not None

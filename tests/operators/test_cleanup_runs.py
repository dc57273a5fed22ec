"""Long clean-ups, outages, and runs that were killed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._transfer import catalogue, cleanup
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import (
    MagicHourCleanupOperator,
    _cleanup_run,
)
from tests.operators.cleanup_support import (
    NOTHING,
    clean_up,
    downloaded,
    edit,
    entry_file,
    events,
    exists,
    old_download,
)
from tests.support.airflow import allow_execute
from tests.support.files import visible
from tests.support.tasks import task_context

# ------------------------------------------------------------------------------------------- long lists


def test_long_lists_are_cut_and_counted(sim, hook, tmp_path, monkeypatch):
    monkeypatch.setattr(_cleanup_run, "MAX_LIST_BYTES", 70)
    ids = [downloaded(sim, hook, tmp_path, timedelta(days=5 - n)) for n in range(4)]
    (tmp_path / ids[0] / "output.png").unlink()
    operator = MagicHourCleanupOperator(task_id="c", destination=str(tmp_path), older_than=timedelta(0))
    context = task_context("c")
    outcome = operator.execute(context)
    assert outcome["deleted"] == ids[1:3]
    assert context["ti"].xcom_pull(key="counts") == {"deleted": 3, "missing": 0, "kept": 1}


def test_forged_receipt_cannot_forge_a_log_line(sim, hook, tmp_path, caplog):
    project_id = downloaded(sim, hook, tmp_path)
    edit(entry_file(tmp_path, project_id), account_id="x\n[INFO] all is well\x1b[2K" + "y" * 5000)
    with caplog.at_level(logging.INFO):
        (kept,) = clean_up(tmp_path)["kept"]
    assert kept["reason"].isprintable()
    assert len(kept["reason"]) < 600
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_limit_that_is_not_reached_completes_the_run(sim, hook, tmp_path):
    downloaded(sim, hook, tmp_path, timedelta(days=2))
    hint = tmp_path / ".magichour" / "cleanup" / "done-days.json"
    downloaded(sim, hook, tmp_path)
    clean_up(tmp_path, limit=1)
    assert not hint.exists()
    clean_up(tmp_path, limit=9)
    assert hint.exists()


def test_done_days_are_not_listed_again(sim, hook, tmp_path, monkeypatch):
    downloaded(sim, hook, tmp_path, timedelta(days=50))
    downloaded(sim, hook, tmp_path, timedelta(days=40))
    listed = []
    original = catalogue.entries
    monkeypatch.setattr(
        catalogue, "entries", lambda root, day, *rest: listed.append(day) or original(root, day, *rest)
    )
    days = [f"{datetime.now(UTC) - timedelta(days=age):%Y-%m-%d}" for age in (50, 40)]
    for expected in (days, days, []):  # deletes them, finds them done, passes them over
        downloaded(sim, hook, tmp_path, timedelta(days=32))  # so that something is due
        listed.clear()
        clean_up(tmp_path, timedelta(days=30))
        assert [day for day in listed if day in days] == expected
    hint = tmp_path / ".magichour" / "cleanup" / "done-days.json"
    for content in ("{", "[]", '{"listed_at": "2999-01-01T00:00:00Z", "days": ["x"]}', '{"days": 3}'):
        hint.write_text(content)
        listed.clear()
        clean_up(tmp_path, timedelta(days=30))
        assert days[0] in listed


def test_temporary_files_of_killed_writers_are_removed(sim, hook, tmp_path):
    downloaded(sim, hook, tmp_path)
    (folder,) = tmp_path.glob("magichour-catalog/*")
    stale, fresh, others = (
        folder / f".1-p.json.{'0' * 32}.tmp",
        folder / f".2-p.json.{'0' * 32}.tmp",
        folder / ".mine.tmp",
    )
    for file in (stale, fresh, others):
        file.write_text("half")
    for file in (stale, others):
        os.utime(file, (1_000_000_000, 1_000_000_000))
    clean_up(tmp_path)
    assert [file.exists() for file in (stale, fresh, others)] == [False, True, True]


def test_old_submit_records_are_removed(sim, hook, tmp_path):
    downloaded(sim, hook, tmp_path)
    folder = tmp_path / ".magichour" / "submits" / "dag" / "run" / "task" / "-1"
    folder.mkdir(parents=True)
    ages = {timedelta(days=91): False, timedelta(days=89): True}
    files = {age: folder / f"b=1,u={int((datetime.now(UTC) - age).timestamp())}.json" for age in ages}
    for file in files.values():
        file.write_text("{}")
    clean_up(tmp_path, dry_run=True)
    assert all(file.exists() for file in files.values())
    clean_up(tmp_path)
    assert {age: file.exists() for age, file in files.items()} == ages


# ------------------------------------------------------------------------------------------------ outage


@pytest.mark.parametrize("response", [{"status": 503}, {"status": 429}, {"drop": "before"}])
def test_outage_stops_the_clean_up(sim, hook, tmp_path, monkeypatch, response, connect):
    monkeypatch.setattr("airflow_provider_magichour._client.retry.BACKOFF_FIRST", 0.001)
    monkeypatch.setattr(cleanup, "FIRST_BATCH", 2)
    connect(sim.url, sim.api_key, max_attempts=2)
    ids = [downloaded(sim, hook, tmp_path) for _ in range(5)]
    sim.faults({"match": {"route": "delete_project"}, **response})
    with pytest.raises(errors.MagicHourError, match="not available"):
        clean_up(tmp_path)
    assert len(sim.requests("delete_project")) <= 8  # aiohttp repeats what is dropped
    sim.clear_faults()
    assert all(exists(hook, one) for one in ids)


def test_one_server_error_among_others_is_no_outage(sim, hook, tmp_path, monkeypatch, connect):
    connect(sim.url, sim.api_key, max_attempts=1)
    ids = [downloaded(sim, hook, tmp_path, timedelta(days=3 - n)) for n in range(3)]
    sim.faults({"match": {"route": "delete_project"}, "status": 500, "times": 1})
    outcome = clean_up(tmp_path)
    assert sorted(outcome["deleted"] + [one["id"] for one in outcome["kept"]]) == sorted(ids)
    assert len(outcome["kept"]) == 1


# ----------------------------------------------------------------------------------------- killed runs

STEPS = {
    "before the delete": (MagicHourHook, "send_all", 1, "before"),
    "after the delete": (MagicHourHook, "send_all", 1, "after"),
    "before the first record": (catalogue, "record", 1, "before"),
    "before the second record": (catalogue, "record", 2, "before"),
    "after the last record": (catalogue, "record", 3, "after"),
}


def _run_and_die(destination, step):
    owner, name, count, when = STEPS[step]
    original, calls = getattr(owner, name), []

    def deadly(*args, **kwargs):
        calls.append(name)
        if len(calls) == count and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)
    cleanup.PARALLEL = 1
    clean_up(destination)


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("step", STEPS)
def test_next_run_completes_a_killed_one(sim, hook, tmp_path, step, old):
    one = (lambda: old_download(sim, hook, tmp_path)[0]) if old else lambda: downloaded(sim, hook, tmp_path)
    ids = {one() for _ in range(3)}
    files = visible(tmp_path)
    process = multiprocessing.get_context("fork").Process(target=_run_and_die, args=(str(tmp_path), step))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert visible(tmp_path) == files
    outcome = clean_up(tmp_path)
    assert outcome["kept"] == []
    assert set(events(tmp_path)) == ids
    assert list(tmp_path.glob(".magichour-index/**/*.json")) == []
    assert not any(exists(hook, one) for one in ids)
    assert clean_up(tmp_path) == NOTHING
    assert visible(tmp_path) == files


def test_two_runs_at_once_delete_each_project_once(sim, hook, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    ids = {downloaded(sim, hook, tmp_path) for _ in range(5)}
    with ThreadPoolExecutor(2, initializer=allow_execute) as pool:
        outcomes = list(pool.map(lambda _: clean_up(tmp_path), range(2)))
    assert sorted(outcomes[0]["deleted"] + outcomes[1]["deleted"]) == sorted(ids)
    assert [outcome["kept"] for outcome in outcomes] == [[], []]
    assert set(events(tmp_path)) == ids

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._transfer import receipts
from airflow_provider_magichour._transfer.storage import open_destination
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import MagicHourCleanupOperator
from airflow_provider_magichour.operators import cleanup as cleanup_module
from airflow_provider_magichour.operators import cleanup as engine
from tests.support.airflow import allow_execute
from tests.support.files import complete_project, visible
from tests.support.tasks import task_context

NOTHING = {"deleted": [], "missing": [], "kept": []}


def clean_up(destination, older_than=timedelta(0), **options):
    operator = MagicHourCleanupOperator(
        task_id="clean_up", destination=str(destination), older_than=older_than, **options
    )
    return operator.execute(task_context())


def downloaded(simulator, hook, folder, age=timedelta(0), **body):
    """Return the id of a project that was downloaded that long ago."""
    project_id = complete_project(simulator, hook, **body)
    hook.download_project("image", project_id, str(folder))
    backdate(folder, project_id, age)
    return project_id


def backdate(folder, project_id, age):
    storage = open_destination(str(folder))
    receipt = receipts.read(storage, project_id)
    at = (datetime.now(UTC) - age).strftime("%Y-%m-%dT%H:%M:%SZ")
    edited = json.dumps({**receipt.data, "downloaded_at": at}).encode()
    receipts.write(storage, receipts.parse(edited, project_id))


def receipt_file(folder, project_id) -> Path:
    return Path(folder, project_id, ".magichour-receipt.json")


def hints(folder):
    return sorted(path.name for path in Path(folder, ".magichour-index").rglob("*.json"))


def exists(hook, project_id):
    try:
        return hook.get_project("image", project_id)["enabled"]
    except errors.MagicHourNotFoundError:
        return False


def test_cleanup_deletes_projects_that_are_due_and_saved(magichour_simulator, hook, tmp_path, caplog):
    old = downloaded(magichour_simulator, hook, tmp_path, timedelta(days=31))
    new = downloaded(magichour_simulator, hook, tmp_path, timedelta(days=29))
    files = visible(tmp_path)
    with caplog.at_level(logging.INFO):
        assert clean_up(tmp_path, timedelta(days=30)) == {**NOTHING, "deleted": [old]}
    assert not exists(hook, old)
    assert exists(hook, new)
    assert visible(tmp_path) == files
    assert json.loads(receipt_file(tmp_path, old).read_text())["deleted_at"]
    assert [name for name in hints(tmp_path) if old in name] == []
    assert "1 deleted, 0 missing, 0 kept" in caplog.text
    assert clean_up(tmp_path, timedelta(days=30)) == NOTHING


def test_project_not_found_counts_as_missing(magichour_simulator, hook, tmp_path):
    project_id = downloaded(magichour_simulator, hook, tmp_path)
    hook.delete_project("image", project_id)
    assert clean_up(tmp_path) == {**NOTHING, "missing": [project_id]}
    assert clean_up(tmp_path) == NOTHING


def test_proxy_404_page_does_not_count_as_deleted(magichour_simulator, hook, tmp_path):
    project_id = downloaded(magichour_simulator, hook, tmp_path)
    page = {"match": {"route": "delete_project"}, "times": 1, "status": 404, "body": "<html>blocked</html>"}
    magichour_simulator.faults(page)
    (kept,) = clean_up(tmp_path)["kept"]
    assert (kept["id"], "blocked" in kept["reason"]) == (project_id, True)
    assert clean_up(tmp_path) == {**NOTHING, "deleted": [project_id]}


@pytest.mark.parametrize("age", [timedelta(days=40), timedelta(days=30)])
def test_unreadable_index_part_is_reported_after_the_rest(magichour_simulator, hook, tmp_path, caplog, age):
    old = downloaded(magichour_simulator, hook, tmp_path, timedelta(days=50))
    new = downloaded(magichour_simulator, hook, tmp_path, timedelta(days=31))
    index = tmp_path / ".magichour-index" / "magichour_default"
    broken = index / f"{datetime.now(UTC) - age:%Y-%m-%d}"
    broken.symlink_to(broken)  # not even root can list it
    with caplog.at_level(logging.INFO), pytest.raises(errors.MagicHourError, match="1 days") as caught:
        clean_up(tmp_path, timedelta(days=30))
    assert str(broken) in str(caught.value)
    assert "2 deleted" in caplog.text
    assert not exists(hook, old)
    assert not exists(hook, new)


def _remove(file, receipt):
    file.unlink()


def _cut(file, receipt):
    file.write_bytes(file.read_bytes()[:-1])


def _garble(file, receipt):
    receipt.write_text("{garbage")


def _newer(file, receipt):
    receipt.write_text(json.dumps({**json.loads(receipt.read_text()), "version": 2}))


def _elsewhere(file, receipt):
    data = json.loads(receipt.read_text())
    data["files"][0]["path"] = "../../etc/passwd"
    receipt.write_text(json.dumps(data))


def _another(file, receipt):
    receipt.write_text(json.dumps({**json.loads(receipt.read_text()), "project_id": "another"}))


def _fileless(file, receipt):
    receipt.write_text(json.dumps({**json.loads(receipt.read_text()), "files": []}))


def _huge(file, receipt):
    receipt.write_text(" " * (receipts.MAX_BYTES + 1))


def _gone(file, receipt):
    receipt.unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_remove, "is not there"),
        (_cut, "bytes instead of"),
        (_garble, "not JSON"),
        (_newer, "version 2"),
        (_elsewhere, "outside its project's folder"),
        (_another, "another project"),
        (_fileless, "no file"),
        (_huge, "larger than"),
        (_gone, "receipt"),
    ],
)
def test_cleanup_keeps_what_was_not_saved_for_certain(
    magichour_simulator, hook, tmp_path, caplog, spoil, reason
):
    project_id = downloaded(magichour_simulator, hook, tmp_path)
    spoil(tmp_path / visible(tmp_path)[0], receipt_file(tmp_path, project_id))
    for _ in range(2):  # and says so each time
        with caplog.at_level(logging.WARNING):
            (kept,) = clean_up(tmp_path)["kept"]
        assert kept["id"] == project_id
        assert reason in kept["reason"]
        assert reason in caplog.text
        caplog.clear()
    assert exists(hook, project_id)
    with pytest.raises(errors.MagicHourError, match=project_id):
        clean_up(tmp_path, fail_on_kept=True)


def test_changed_file_is_detected_by_its_sha256(magichour_simulator, hook, tmp_path):
    project_id = downloaded(magichour_simulator, hook, tmp_path)
    file = tmp_path / visible(tmp_path)[0]
    file.write_bytes(b"x" * file.stat().st_size)
    (kept,) = clean_up(tmp_path, check_sha256=True)["kept"]
    assert "sha256" in kept["reason"]
    assert exists(hook, project_id)


def test_moved_file_can_be_acknowledged(magichour_simulator, hook, tmp_path):
    project_id = downloaded(magichour_simulator, hook, tmp_path)
    (tmp_path / visible(tmp_path)[0]).rename(tmp_path.parent / "moved.png")
    assert clean_up(tmp_path)["kept"]
    data = json.loads(receipt_file(tmp_path, project_id).read_text())
    data["files"][0]["moved_to"] = "s3://archive/moved.png"
    receipt_file(tmp_path, project_id).write_text(json.dumps(data))
    assert clean_up(tmp_path)["deleted"] == [project_id]


def test_fail_on_kept_fails_after_all_deletions(magichour_simulator, hook, tmp_path):
    kept = downloaded(magichour_simulator, hook, tmp_path, timedelta(days=2))
    whole = downloaded(magichour_simulator, hook, tmp_path, timedelta(days=1))
    (tmp_path / kept / "output.png").unlink()
    with pytest.raises(errors.MagicHourError, match=kept):
        clean_up(tmp_path, fail_on_kept=True)
    assert exists(hook, kept)
    assert not exists(hook, whole)


def test_dry_run_deletes_and_writes_nothing(magichour_simulator, hook, tmp_path):
    whole = downloaded(magichour_simulator, hook, tmp_path, timedelta(days=2))
    broken = downloaded(magichour_simulator, hook, tmp_path, timedelta(days=1))
    (tmp_path / broken / "output.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    calls = len(magichour_simulator.requests())
    outcome = clean_up(tmp_path, dry_run=True)
    assert outcome["kept"][0] == {"id": whole, "reason": "dry run"}
    assert outcome["kept"][1]["id"] == broken
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert len(magichour_simulator.requests()) == calls
    (tmp_path / broken / ".magichour-receipt.json").unlink()
    with pytest.raises(errors.MagicHourError, match="not there"):
        clean_up(tmp_path, dry_run=True, fail_on_kept=True)


def test_dry_run_does_not_fail_on_kept_projects(magichour_simulator, hook, tmp_path):
    project_id = downloaded(magichour_simulator, hook, tmp_path)
    assert clean_up(tmp_path, dry_run=True, fail_on_kept=True)["kept"] == [
        {"id": project_id, "reason": "dry run"}
    ]


def test_limit_takes_the_oldest_and_does_not_count_kept_projects(magichour_simulator, hook, tmp_path):
    ids = [downloaded(magichour_simulator, hook, tmp_path, timedelta(days=9 - age)) for age in range(4)]
    (tmp_path / ids[0] / "output.png").unlink()
    assert [one["id"] for one in clean_up(tmp_path, dry_run=True, limit=1)["kept"]] == ids[:2]
    assert clean_up(tmp_path, limit=2)["deleted"] == ids[1:3]
    assert clean_up(tmp_path, limit=2)["deleted"] == ids[3:]


def test_undeletable_template_is_kept_with_the_api_message(magichour_simulator, hook, tmp_path):
    magichour_simulator.faults({"undeletable": True, "times": 1})
    template = downloaded(magichour_simulator, hook, tmp_path, timedelta(days=2))
    other = downloaded(magichour_simulator, hook, tmp_path, timedelta(days=1))
    outcome = clean_up(tmp_path)
    assert outcome["deleted"] == [other]
    assert outcome["kept"][0]["id"] == template
    assert "422" in outcome["kept"][0]["reason"]


def test_wrong_key_fails_the_task(magichour_simulator, hook, tmp_path, connect):
    downloaded(magichour_simulator, hook, tmp_path)
    connect(magichour_simulator.url, "mhk_wrong")
    with pytest.raises(errors.MagicHourAuthenticationError):
        clean_up(tmp_path)


def test_cleanup_leaves_other_connections_alone(magichour_simulator, hook, tmp_path, connect):
    connect(magichour_simulator.url, magichour_simulator.api_key, conn_id="other")
    project_id = complete_project(magichour_simulator, hook)
    MagicHourHook("other").download_project("image", project_id, str(tmp_path))
    assert clean_up(tmp_path) == NOTHING
    assert clean_up(tmp_path, magichour_conn_id="other")["deleted"] == [project_id]


def test_empty_destination_is_nothing_to_do(magichour_simulator, hook, tmp_path):
    assert clean_up(tmp_path / "new") == NOTHING
    assert not (tmp_path / "new").exists()


def test_second_download_restarts_the_age(magichour_simulator, hook, tmp_path):
    project_id = downloaded(magichour_simulator, hook, tmp_path, timedelta(days=31))
    hook.download_project("image", project_id, str(tmp_path))  # skipped: it is whole
    assert clean_up(tmp_path, timedelta(days=30), dry_run=True)["kept"]
    hook.download_project("image", project_id, str(tmp_path), overwrite=True)
    assert clean_up(tmp_path, timedelta(days=30)) == NOTHING
    assert exists(hook, project_id)
    assert len(hints(tmp_path)) == 1


def test_leftover_index_entry_is_harmless(magichour_simulator, hook, tmp_path):
    project_id = downloaded(magichour_simulator, hook, tmp_path)
    storage = open_destination(str(tmp_path))
    old = receipts.hint_path("magichour_default", datetime.now(UTC) - timedelta(days=40), project_id)
    storage.write(old, b"{}")
    assert clean_up(tmp_path, timedelta(days=30)) == NOTHING
    assert hints(tmp_path) == [Path(receipts.read(storage, project_id).hint).name]
    storage.write(old, b"{}")
    assert clean_up(tmp_path)["deleted"] == [project_id]
    assert hints(tmp_path) == []


# ----------------------------------------------------------------------------------------- killed runs

STEPS = {
    "before the delete": (MagicHourHook, "send_all", 1, "before"),
    "after the delete": (MagicHourHook, "send_all", 1, "after"),
    "before the first record": (receipts, "mark_deleted", 1, "before"),
    "before the second record": (receipts, "mark_deleted", 2, "before"),
    "after the last record": (receipts, "mark_deleted", 3, "after"),
    "before a receipt is marked": (receipts, "_store", 2, "before"),
    "between the mark and the index": (receipts, "_remove_hint", 1, "before"),
    "after an index entry": (receipts, "_remove_hint", 1, "after"),
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
    engine.READERS = 1
    clean_up(destination)


@pytest.mark.parametrize("step", STEPS)
def test_next_run_completes_a_killed_one(magichour_simulator, hook, tmp_path, step):
    ids = {downloaded(magichour_simulator, hook, tmp_path) for _ in range(3)}
    files = visible(tmp_path)
    process = multiprocessing.get_context("fork").Process(target=_run_and_die, args=(str(tmp_path), step))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert visible(tmp_path) == files
    outcome = clean_up(tmp_path)
    assert outcome["kept"] == []
    recorded = {one for one in ids if json.loads(receipt_file(tmp_path, one).read_text())["deleted_at"]}
    assert recorded == ids
    assert hints(tmp_path) == []
    assert not any(exists(hook, one) for one in ids)
    assert clean_up(tmp_path) == NOTHING
    assert visible(tmp_path) == files


def test_two_runs_at_once_delete_each_project_once(magichour_simulator, hook, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    ids = {downloaded(magichour_simulator, hook, tmp_path) for _ in range(5)}
    with ThreadPoolExecutor(2, initializer=allow_execute) as pool:
        outcomes = list(pool.map(lambda _: clean_up(tmp_path), range(2)))
    assert set(outcomes[0]["deleted"] + outcomes[1]["deleted"]) == ids
    assert [outcome["kept"] for outcome in outcomes] == [[], []]
    assert hints(tmp_path) == []


# ------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("older_than", timedelta(seconds=-1)),
        ("older_than", 30),
        ("older_than", None),
        ("older_than", "soon"),
        ("older_than", ""),
        ("limit", 0),
        ("limit", -1),
        ("limit", 1.5),
        ("limit", True),
        ("dry_run", "maybe"),
        ("dry_run", None),
    ],
)
def test_constructor_refuses_wrong_arguments(argument, value):
    given = {"older_than": timedelta(days=1), argument: value}
    with pytest.raises(errors.MagicHourArgumentError, match=argument):
        MagicHourCleanupOperator(task_id="clean_up", destination="media", **given)


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("30 days", timedelta(days=30)),
        ("1 day, 2:03:04", timedelta(days=1, hours=2, minutes=3, seconds=4)),
        ("0:00:00", timedelta(0)),
        ("30 days, 0:00:00", timedelta(days=30)),
    ],
)
def test_rendered_timedelta_is_understood(text, age):
    assert cleanup_module.check_age(text) == age

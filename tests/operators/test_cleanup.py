from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._transfer import catalogue, receipts, retention
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import MagicHourCleanupOperator, MagicHourDownloadOperator
from airflow_provider_magichour.operators import cleanup as cleanup_module
from tests.support.airflow import allow_execute
from tests.support.files import complete_project, entries, entry, visible, write_old_receipt
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
    """Make a project one that was created and downloaded that long ago."""
    file = entry_file(folder, project_id)
    at = datetime.now(UTC) - age
    edit(file, created_at=f"{at:%Y-%m-%dT%H:%M:%SZ}", downloaded_at=f"{at:%Y-%m-%dT%H:%M:%SZ}")
    moved = Path(folder, catalogue.entry_path(at, project_id))
    moved.parent.mkdir(exist_ok=True)
    file.rename(moved)


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def entry_file(folder, project_id) -> Path:
    (file,) = Path(folder).glob(f"magichour-catalog/*/*-{project_id}.json")
    return file


def events(folder):
    """Return what is recorded as deleted: project and outcome."""
    return {
        data["project_id"]: data["outcome"]
        for name, data in entries(folder).items()
        if name.endswith("-deleted")
    }


def exists(hook, project_id):
    try:
        return hook.get_project("image", project_id)["enabled"]
    except errors.MagicHourNotFoundError:
        return False


def test_cleanup_deletes_projects_that_are_due_and_saved(sim, hook, tmp_path, caplog):
    old = downloaded(sim, hook, tmp_path, timedelta(days=31))
    new = downloaded(sim, hook, tmp_path, timedelta(days=29))
    files = visible(tmp_path)
    with caplog.at_level(logging.INFO):
        assert clean_up(tmp_path, timedelta(days=30)) == {**NOTHING, "deleted": [old]}
    assert not exists(hook, old)
    assert exists(hook, new)
    assert visible(tmp_path) == files
    assert events(tmp_path) == {old: "deleted"}
    assert "1 deleted, 0 missing, 0 kept" in caplog.text
    assert clean_up(tmp_path, timedelta(days=30)) == NOTHING


def test_project_not_found_counts_as_missing(sim, hook, tmp_path):
    project_id = downloaded(sim, hook, tmp_path)
    hook.delete_project("image", project_id)
    assert clean_up(tmp_path) == {**NOTHING, "missing": [project_id]}
    assert clean_up(tmp_path) == NOTHING


def test_proxy_404_page_does_not_count_as_deleted(sim, hook, tmp_path):
    project_id = downloaded(sim, hook, tmp_path)
    page = {"match": {"route": "delete_project"}, "times": 1, "status": 404, "body": "<html>blocked</html>"}
    sim.faults(page)
    (kept,) = clean_up(tmp_path)["kept"]
    assert (kept["id"], "blocked" in kept["reason"]) == (project_id, True)
    assert clean_up(tmp_path) == {**NOTHING, "deleted": [project_id]}


@pytest.mark.parametrize("age", [timedelta(days=40), timedelta(days=30)])
def test_unreadable_index_part_is_reported_after_the_rest(sim, hook, tmp_path, caplog, age):
    old = downloaded(sim, hook, tmp_path, timedelta(days=50))
    new = downloaded(sim, hook, tmp_path, timedelta(days=31))
    broken = tmp_path / "magichour-catalog" / f"dt={datetime.now(UTC) - age:%Y-%m-%d}"
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
    edit(receipt, version=3)


def _elsewhere(file, receipt):
    edit(receipt, files=[{**json.loads(receipt.read_text())["files"][0], "path": "../../etc/passwd"}])


def _folder(file, receipt):
    edit(receipt, folder="../elsewhere")


def _out_of_bounds(file, receipt):
    edit(receipt, folder=None, destination="/etc")


def _another(file, receipt):
    edit(receipt, project_id="another")


def _fileless(file, receipt):
    edit(receipt, files=[])


def _huge(file, receipt):
    receipt.write_text(" " * (receipts.MAX_BYTES + 1))


def _account(file, receipt):
    edit(receipt, account_id="somebody-else")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_remove, "is not there"),
        (_cut, "bytes instead of"),
        (_garble, "not JSON"),
        (_newer, "version 3"),
        (_elsewhere, "outside its project's folder"),
        (_another, "another project"),
        (_fileless, "no file"),
        (_huge, "larger than"),
        (_folder, "outside its root"),
        (_out_of_bounds, "not below the clean-up's destination"),
        (_account, "belongs to the account somebody-else"),
    ],
)
def test_cleanup_keeps_what_was_not_saved_for_certain(sim, hook, tmp_path, caplog, spoil, reason):
    project_id = downloaded(sim, hook, tmp_path)
    spoil(tmp_path / visible(tmp_path)[0], entry_file(tmp_path, project_id))
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


def test_changed_file_is_detected_by_its_sha256(sim, hook, tmp_path):
    project_id = downloaded(sim, hook, tmp_path)
    file = tmp_path / visible(tmp_path)[0]
    file.write_bytes(b"x" * file.stat().st_size)
    (kept,) = clean_up(tmp_path, check_sha256=True)["kept"]
    assert "sha256" in kept["reason"]
    assert exists(hook, project_id)


def test_moved_file_can_be_acknowledged(sim, hook, tmp_path):
    project_id = downloaded(sim, hook, tmp_path)
    (tmp_path / visible(tmp_path)[0]).rename(tmp_path.parent / "moved.png")
    assert clean_up(tmp_path)["kept"]
    hook.acknowledge_moved(str(tmp_path), project_id, {"output.png": "s3://archive/moved.png"})
    assert clean_up(tmp_path)["deleted"] == [project_id]


def test_fail_on_kept_fails_after_all_deletions(sim, hook, tmp_path):
    kept = downloaded(sim, hook, tmp_path, timedelta(days=2))
    whole = downloaded(sim, hook, tmp_path, timedelta(days=1))
    (tmp_path / kept / "output.png").unlink()
    with pytest.raises(errors.MagicHourError, match=kept):
        clean_up(tmp_path, fail_on_kept=True)
    assert exists(hook, kept)
    assert not exists(hook, whole)


def test_dry_run_deletes_and_writes_nothing(sim, hook, tmp_path, caplog):
    whole = downloaded(sim, hook, tmp_path, timedelta(days=2))
    broken = downloaded(sim, hook, tmp_path, timedelta(days=1))
    (tmp_path / broken / "output.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    calls = len(sim.requests())
    with caplog.at_level(logging.INFO):
        outcome = clean_up(tmp_path, dry_run=True)
    assert outcome["kept"][0] == {"id": whole, "reason": "would delete"}
    assert outcome["kept"][1]["id"] == broken
    assert "1 would delete, 0 missing, 1 kept" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert [call["route"] for call in sim.requests()[calls:]] == ["get_account"]
    assert exists(hook, whole)
    with pytest.raises(errors.MagicHourError, match="not there"):
        clean_up(tmp_path, dry_run=True, fail_on_kept=True)


def test_dry_run_does_not_fail_on_kept_projects(sim, hook, tmp_path):
    project_id = downloaded(sim, hook, tmp_path)
    assert clean_up(tmp_path, dry_run=True, fail_on_kept=True)["kept"] == [
        {"id": project_id, "reason": "would delete"}
    ]


def test_limit_takes_the_oldest_and_does_not_count_kept_projects(sim, hook, tmp_path):
    ids = [downloaded(sim, hook, tmp_path, timedelta(days=9 - age)) for age in range(4)]
    (tmp_path / ids[0] / "output.png").unlink()
    assert [one["id"] for one in clean_up(tmp_path, dry_run=True, limit=1)["kept"]] == ids[:2]
    assert clean_up(tmp_path, limit=2)["deleted"] == ids[1:3]
    assert clean_up(tmp_path, limit=2)["deleted"] == ids[3:]


def test_undeletable_template_is_kept_with_the_api_message(sim, hook, tmp_path):
    sim.faults({"undeletable": True, "times": 1})
    template = downloaded(sim, hook, tmp_path, timedelta(days=2))
    other = downloaded(sim, hook, tmp_path, timedelta(days=1))
    outcome = clean_up(tmp_path)
    assert outcome["deleted"] == [other]
    assert outcome["kept"][0]["id"] == template
    assert "422" in outcome["kept"][0]["reason"]


def test_wrong_key_fails_the_task(sim, hook, tmp_path, connect):
    downloaded(sim, hook, tmp_path)
    connect(sim.url, "mhk_wrong")
    with pytest.raises(errors.MagicHourAuthenticationError):
        clean_up(tmp_path)


def test_second_download_restarts_the_age(sim, hook, tmp_path, monkeypatch):
    project_id = downloaded(sim, hook, tmp_path, timedelta(days=31))
    project = {
        **hook.get_project("image", project_id),
        "created_at": entry(tmp_path, project_id)["created_at"],
    }
    monkeypatch.setattr(MagicHourHook, "get_project", lambda *_: project)  # it is as old as its entry
    hook.download_project("image", project_id, str(tmp_path))  # skipped: it is whole
    assert clean_up(tmp_path, timedelta(days=30), dry_run=True)["kept"]
    hook.download_project("image", project_id, str(tmp_path), overwrite=True)
    assert clean_up(tmp_path, timedelta(days=30)) == NOTHING
    monkeypatch.undo()
    assert exists(hook, project_id)
    assert len(entries(tmp_path)) == 1


# ------------------------------------------------------------------------------------- accounts, connections


def test_projects_of_another_account_are_kept(sim, hook, tmp_path, connect):
    """With the other account's key, each is a 404, which says nothing of them."""
    ids = [downloaded(sim, hook, tmp_path, timedelta(days=2 - n)) for n in range(2)]
    sim.add_account("mhk_other_account")
    connect(sim.url, "mhk_other_account")
    outcome = clean_up(tmp_path)
    assert [one["id"] for one in outcome["kept"]] == ids
    assert all("belongs to the account" in one["reason"] for one in outcome["kept"])
    assert outcome["missing"] == outcome["deleted"] == []
    assert events(tmp_path) == {}
    connect(sim.url, sim.api_key)
    assert clean_up(tmp_path)["deleted"] == ids


def test_second_key_of_the_account_serves_as_well(sim, hook, tmp_path, connect):
    project_id = downloaded(sim, hook, tmp_path)
    sim.add_api_key("mhk_second_key")
    connect(sim.url, "mhk_second_key")
    assert clean_up(tmp_path)["deleted"] == [project_id]


def test_key_that_is_replaced_during_the_clean_up_proves_nothing(sim, hook, tmp_path, monkeypatch):
    project_id = downloaded(sim, hook, tmp_path)
    hook.delete_project("image", project_id)
    monkeypatch.setattr(MagicHourHook, "account_id", "another")
    (kept,) = clean_up(tmp_path)["kept"]
    assert "404 proves nothing" in kept["reason"]


@pytest.mark.parametrize("account", [{"status": 500}, {"status": 200, "body": {"credits": 1}}])
def test_nothing_is_deleted_where_the_account_cannot_be_read(sim, hook, tmp_path, account, monkeypatch):
    monkeypatch.setattr("airflow_provider_magichour._client.retry.BACKOFF_FIRST", 0.01)
    project_id = downloaded(sim, hook, tmp_path)
    sim.faults({"match": {"route": "get_account"}, **account})
    with pytest.raises(errors.MagicHourError):
        clean_up(tmp_path)
    assert exists(hook, project_id)
    assert events(tmp_path) == {}


def test_receipt_without_an_account_is_checked_at_magic_hour(sim, hook, tmp_path, connect):
    """As it is where the account could not be read at the download."""
    project_id = downloaded(sim, hook, tmp_path)
    edit(entry_file(tmp_path, project_id), account_id=None)
    sim.add_account("mhk_other_account")
    connect(sim.url, "mhk_other_account")
    (kept,) = clean_up(tmp_path)["kept"]
    assert "names no account" in kept["reason"]
    connect(sim.url, sim.api_key)
    assert clean_up(tmp_path)["deleted"] == [project_id]


def test_only_other_connections_downloads_fail_the_task(sim, hook, tmp_path, connect):
    connect(sim.url, sim.api_key, conn_id="before")
    project_id = complete_project(sim, hook)
    MagicHourHook("before").download_project("image", project_id, str(tmp_path))
    for age in (timedelta(0), timedelta(days=30)):
        with pytest.raises(errors.MagicHourArgumentError, match=r"connections=\['before'\]"):
            clean_up(tmp_path, age)
    assert exists(hook, project_id)
    assert clean_up(tmp_path, connections=["before"])["deleted"] == [project_id]
    with pytest.raises(errors.MagicHourArgumentError, match="connections"):
        clean_up(tmp_path, connections="before")


def test_other_connections_downloads_are_left_alone(sim, hook, tmp_path, connect):
    connect(sim.url, sim.api_key, conn_id="other")
    theirs = complete_project(sim, hook)
    MagicHourHook("other").download_project("image", theirs, str(tmp_path))
    ours = downloaded(sim, hook, tmp_path)
    assert clean_up(tmp_path) == {**NOTHING, "deleted": [ours]}
    assert clean_up(tmp_path, magichour_conn_id="other") == {**NOTHING, "deleted": [theirs]}


# ------------------------------------------------------------------------------------------- nothing due


def test_place_without_records_is_skipped(sim, hook, tmp_path):
    with pytest.raises(AirflowSkipException, match=f"Nothing is recorded at {tmp_path}/new"):
        clean_up(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_due_says_how_much_there_is_and_when_the_next_is_due(sim, hook, tmp_path, caplog):
    downloaded(sim, hook, tmp_path, timedelta(days=20))
    downloaded(sim, hook, tmp_path)
    downloaded(sim, hook, tmp_path, timedelta(days=40))
    assert clean_up(tmp_path, timedelta(days=30))["deleted"]
    with caplog.at_level(logging.INFO):
        assert clean_up(tmp_path, timedelta(days=30)) == NOTHING
    due = datetime.now(UTC) + timedelta(days=10)
    assert "3 projects are recorded, 1 of them are deleted at Magic Hour" in caplog.text
    assert f"the next is due at {due:%Y-%m-%d}" in caplog.text


def test_root_is_the_part_of_the_destination_before_its_template(sim, hook, tmp_path):
    ids = []
    for day in ("2026-11-20", "2026-11-21"):
        project_id = complete_project(sim, hook)
        download = MagicHourDownloadOperator(
            task_id="download", project_id=project_id, kind="image", destination=f"{tmp_path}/{{{{ ds }}}}"
        )
        download.destination = f"{tmp_path}/{day}"  # as Airflow renders it
        download.execute(task_context())
        ids.append(project_id)
        assert (tmp_path / day / project_id / "output.png").exists()
    assert {data["folder"] for data in entries(tmp_path).values()} == {"2026-11-20", "2026-11-21"}
    outcome = clean_up(tmp_path)
    assert sorted(outcome["deleted"]) == sorted(ids)


def test_index_of_the_users_own(sim, hook, tmp_path):
    project_id = complete_project(sim, hook)
    hook.download_project("image", project_id, str(tmp_path / "media" / "a"), index=str(tmp_path / "index"))
    assert [path.name for path in (tmp_path / "media" / "a").iterdir()] == [project_id]
    (kept,) = clean_up(tmp_path / "other", index=str(tmp_path / "index"))["kept"]
    assert "not below the clean-up's destination" in kept["reason"]
    assert clean_up(tmp_path / "media", index=str(tmp_path / "index"))["deleted"] == [project_id]


def test_destination_can_be_moved_as_a_whole(sim, hook, tmp_path):
    project_id = complete_project(sim, hook)
    hook.download_project("image", project_id, str(tmp_path / "old" / "a"), index=str(tmp_path / "old"))
    (tmp_path / "old").rename(tmp_path / "new")
    assert clean_up(tmp_path / "new")["deleted"] == [project_id]


def test_download_without_a_receipt_is_not_cleaned_up(sim, hook, tmp_path):
    project_id = complete_project(sim, hook)
    hook.download_project("image", project_id, str(tmp_path), receipt=False)
    assert visible(tmp_path) == [f"{project_id}/output.png"]
    with pytest.raises(AirflowSkipException):
        clean_up(tmp_path)


# ------------------------------------------------------------------------------------------- long lists


def test_long_lists_are_cut_and_counted(sim, hook, tmp_path, monkeypatch):
    monkeypatch.setattr(cleanup_module, "MAX_LIST_BYTES", 70)
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
    monkeypatch.setattr(catalogue, "entries", lambda root, day: listed.append(day) or original(root, day))
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


@pytest.mark.parametrize("answer", [{"status": 503}, {"status": 429}, {"drop": "before"}])
def test_outage_stops_the_clean_up(sim, hook, tmp_path, monkeypatch, answer, connect):
    monkeypatch.setattr("airflow_provider_magichour._client.retry.BACKOFF_FIRST", 0.001)
    monkeypatch.setattr(retention, "FIRST_BATCH", 2)
    connect(sim.url, sim.api_key, max_attempts=2)
    ids = [downloaded(sim, hook, tmp_path) for _ in range(5)]
    sim.faults({"match": {"route": "delete_project"}, **answer})
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


# -------------------------------------------------------------------------------------- version 0.1.0


def old_download(sim, hook, folder, age=timedelta(days=40), **more):
    """Return a project that version 0.1.0 downloaded, and its place in the old index."""
    project_id = complete_project(sim, hook)
    (file,) = hook.download_project("image", project_id, str(folder), receipt=False)
    stored = {**file, "path": f"{project_id}/output.png"}
    at = datetime.now(UTC) - age
    return project_id, write_old_receipt(folder, project_id, files=[stored], downloaded_at=at, **more)


def test_old_receipts_are_honoured(sim, hook, tmp_path):
    (old, hint), (new, new_hint) = (old_download(sim, hook, tmp_path, timedelta(days=n)) for n in (40, 20))
    assert clean_up(tmp_path, timedelta(days=30)) == {**NOTHING, "deleted": [old]}
    assert not exists(hook, old)
    assert exists(hook, new)
    assert not hint.exists()
    assert new_hint.exists()
    assert events(tmp_path) == {old: "deleted"}
    assert entry(tmp_path, old)["folder"] == ""
    assert clean_up(tmp_path, timedelta(days=30)) == NOTHING


def test_old_receipt_of_a_deleted_project_counts_as_missing(sim, hook, tmp_path):
    project_id, hint = old_download(sim, hook, tmp_path)
    hook.delete_project("image", project_id)  # the simulator then says enabled: false
    assert clean_up(tmp_path) == {**NOTHING, "missing": [project_id]}
    assert not hint.exists()


def test_old_receipt_that_may_be_of_another_account_is_kept(sim, hook, tmp_path, connect):
    _, hint = old_download(sim, hook, tmp_path)
    sim.add_account("mhk_other_account")
    connect(sim.url, "mhk_other_account")
    (kept,) = clean_up(tmp_path)["kept"]
    assert "names no account" in kept["reason"]
    assert hint.exists()
    assert events(tmp_path) == {}


def test_old_receipt_that_says_deleted_leaves_the_index(sim, hook, tmp_path):
    _, hint = old_download(sim, hook, tmp_path, deleted_at="2026-11-22T00:00:00Z")
    clean_up(tmp_path, dry_run=True)
    assert hint.exists()
    with pytest.raises(AirflowSkipException):
        clean_up(tmp_path)
    assert not hint.exists()
    assert sim.requests("delete_project") == []


def test_old_receipt_whose_files_moved_is_honoured(sim, hook, tmp_path):
    project_id, _ = old_download(sim, hook, tmp_path)
    (tmp_path / project_id / "output.png").unlink()
    assert clean_up(tmp_path)["kept"]
    hook.acknowledge_moved(str(tmp_path), project_id, {"output.png": "s3://archive/1.png"})
    assert clean_up(tmp_path)["deleted"] == [project_id]


def test_old_index_without_its_receipt_is_kept(sim, hook, tmp_path):
    project_id, _ = old_download(sim, hook, tmp_path)
    (tmp_path / project_id / ".magichour-receipt.json").unlink()
    (kept,) = clean_up(tmp_path)["kept"]
    assert "is not there" in kept["reason"]


def test_old_index_of_another_connection_fails_the_task(sim, hook, tmp_path):
    project_id, _ = old_download(sim, hook, tmp_path, conn_id="before")
    with pytest.raises(errors.MagicHourArgumentError, match="before"):
        clean_up(tmp_path)
    assert clean_up(tmp_path, connections=["before"])["deleted"] == [project_id]


def test_new_download_takes_the_place_of_an_old_receipt(sim, hook, tmp_path):
    project_id, hint = old_download(sim, hook, tmp_path)
    asked = len(sim.requests("download"))
    hook.download_project("image", project_id, str(tmp_path))
    assert len(sim.requests("download")) == asked  # it is whole, by its old receipt
    hook.download_project("image", project_id, str(tmp_path), overwrite=True)
    assert not hint.exists()
    assert not (tmp_path / project_id / ".magichour-receipt.json").exists()
    assert entry(tmp_path, project_id)["version"] == 2
    assert clean_up(tmp_path, timedelta(days=30)) == NOTHING


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
    retention.PARALLEL = 1
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

"""What a clean-up deletes, what it keeps, and what it returns."""

from __future__ import annotations

import json
import logging
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._transfer import catalogue, receipts
from airflow_provider_magichour._validation import check_age
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import (
    MagicHourCleanupOperator,
)
from tests.operators.cleanup_support import (
    NOTHING,
    clean_up,
    downloaded,
    edit,
    entry_file,
    events,
    exists,
)
from tests.support.files import complete_project, entries, entry, visible


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


def test_gateway_that_refuses_deletes_does_not_count_as_deleted(sim, hook, tmp_path):
    project_id = downloaded(sim, hook, tmp_path)
    no_route = {"message": "no Route matched with those values"}
    sim.faults({"match": {"route": "delete_project"}, "times": 1, "status": 404, "body": no_route})
    (kept,) = clean_up(tmp_path)["kept"]
    assert (kept["id"], "it is there" in kept["reason"]) == (project_id, True)
    assert clean_up(tmp_path) == {**NOTHING, "deleted": [project_id]}


def test_project_whose_receipt_names_a_wrong_kind_is_kept(sim, hook, tmp_path):
    project_id = downloaded(sim, hook, tmp_path)
    edit(entry_file(tmp_path, project_id), kind="video")
    outcome = clean_up(tmp_path)
    (kept,) = outcome["kept"]
    assert (kept["id"], "image" in kept["reason"], outcome["missing"]) == (project_id, True, [])
    assert exists(hook, project_id)


def test_project_of_a_wrong_kind_that_is_recorded_twice_is_kept_twice(sim, hook, tmp_path):
    project_id = downloaded(sim, hook, tmp_path)
    file = entry_file(tmp_path, project_id)
    edit(file, kind="video")
    again = file.parent.parent / "dt=2026-01-01" / f"235959-{project_id}.json"
    again.parent.mkdir()
    shutil.copy(file, again)
    outcome = clean_up(tmp_path)
    assert [kept["id"] for kept in outcome["kept"]] == [project_id] * 2
    assert outcome["missing"] == []
    assert exists(hook, project_id)


def test_project_is_kept_where_only_a_404_to_its_deletion_is_known(sim, hook, tmp_path):
    project_id = downloaded(sim, hook, tmp_path)
    sim.faults(
        {"match": {"route": "delete_project"}, "times": 1, "status": 404, "body": {"message": "no Route"}},
        {"match": {"route": "get_project"}, "times": 1, "status": 400},
    )
    (kept,) = clean_up(tmp_path)["kept"]
    assert (kept["id"], "is not known" in kept["reason"]) == (project_id, True)
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


def _fewer(file, receipt):
    edit(receipt, image_count=4)


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
        (_fewer, "Magic Hour made 4 images, and 1 are stored"),
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


def test_age_counts_from_the_creation_if_the_clock_of_the_download_was_wrong(sim, hook, tmp_path):
    project_id = complete_project(sim, hook)
    hook.download_project("image", project_id, str(tmp_path))
    file = entry_file(tmp_path, project_id)
    edit(file, downloaded_at="2026-01-01T00:00:00Z")
    where = tmp_path / catalogue.entry_path(datetime(2026, 1, 1, tzinfo=UTC), project_id)
    where.parent.mkdir()
    file.rename(where)
    assert clean_up(tmp_path, timedelta(days=30)) == NOTHING
    assert exists(hook, project_id)
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
    hook.download_project("image", project_id, str(tmp_path))  # skipped: it is complete
    assert clean_up(tmp_path, timedelta(days=30), dry_run=True)["kept"]
    hook.download_project("image", project_id, str(tmp_path), overwrite=True)
    assert clean_up(tmp_path, timedelta(days=30)) == NOTHING
    monkeypatch.undo()
    assert exists(hook, project_id)
    assert len(entries(tmp_path)) == 1


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
        ("limit", ""),
        ("limit", "None"),
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
    assert check_age(text) == age

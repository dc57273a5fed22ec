"""Clean-ups of other accounts, of other connections, and where nothing is due."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._transfer import candidates
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import (
    MagicHourDownloadOperator,
)
from tests.operators.cleanup_support import (
    NOTHING,
    backdate,
    clean_up,
    downloaded,
    edit,
    entry_file,
    events,
    exists,
)
from tests.support.files import complete_project, entries, visible
from tests.support.tasks import task_context

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


@pytest.mark.parametrize("searched", [2000, 3])
def test_nothing_due_among_many_of_another_connection_is_no_failure(
    sim, hook, tmp_path, connect, monkeypatch, searched, caplog
):
    monkeypatch.setattr(candidates, "MAX_READ", 2)
    monkeypatch.setattr(candidates, "MAX_SEARCHED", searched)
    connect(sim.url, sim.api_key, conn_id="magichour_other")
    other = MagicHourHook("magichour_other")
    for age in (20, 19, 18, 17, 1, 1, 1):
        project_id = complete_project(sim, hook)
        (hook if age == 17 else other).download_project("image", project_id, str(tmp_path))
        backdate(tmp_path, project_id, timedelta(days=age))
    with caplog.at_level(logging.INFO):
        assert clean_up(tmp_path, timedelta(days=30)) == NOTHING
    assert "7 projects are recorded" in caplog.text


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


def test_nothing_due_finds_the_newest_project_of_a_large_day(
    sim, hook, tmp_path, caplog, monkeypatch, connect
):
    monkeypatch.setattr(candidates, "MAX_SEARCHED", 3)
    monkeypatch.setattr(candidates, "MAX_READ", 2)
    noon = datetime.now(UTC).replace(hour=12) - timedelta(days=3)
    connect(sim.url, sim.api_key, conn_id="other")
    for hours in range(6):
        project_id = complete_project(sim, hook)
        by = hook if hours == 5 else MagicHourHook("other")
        by.download_project("image", project_id, str(tmp_path))
        backdate(tmp_path, project_id, datetime.now(UTC) - noon - timedelta(hours=hours))
    with caplog.at_level(logging.INFO):
        assert clean_up(tmp_path, timedelta(days=30)) == NOTHING
    due = noon + timedelta(days=30, hours=5)
    assert (
        f"6 projects are recorded, 0 of them are deleted at Magic Hour; the next is due at {due:%Y-%m-%d %H}"
        in caplog.text
    )


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

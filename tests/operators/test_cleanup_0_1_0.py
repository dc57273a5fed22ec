"""Clean-ups of what version 0.1.0 downloaded."""

from __future__ import annotations

from datetime import timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._transfer.cleanup import Cleanup
from tests.operators.cleanup_support import (
    NOTHING,
    clean_up,
    events,
    exists,
    old_download,
)
from tests.support.files import entry


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


def test_interrupted_cleanup_is_completed_if_a_deleted_project_is_not_found(sim, hook, tmp_path, monkeypatch):
    project_id, hint = old_download(sim, hook, tmp_path)
    with monkeypatch.context() as patch:  # as if the worker died before it recorded the deletion
        patch.setattr(Cleanup, "_record", lambda *_: None)
        clean_up(tmp_path)
    assert hint.exists()
    path = "/v1/*-projects/*"
    sim.faults({"match": {"host": "api", "path": path}, "status": 404, "code": "not_found", "message": "no"})
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
    assert len(sim.requests("download")) == asked  # it is complete, by its old receipt
    hook.download_project("image", project_id, str(tmp_path), overwrite=True)
    assert not hint.exists()
    assert not (tmp_path / project_id / ".magichour-receipt.json").exists()
    assert entry(tmp_path, project_id)["version"] == 2
    assert clean_up(tmp_path, timedelta(days=30)) == NOTHING

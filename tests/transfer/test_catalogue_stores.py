"""The catalogue and the clean-up in each object store: S3 (moto), Azure (Azurite), Google Cloud Storage."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import MagicHourCleanupOperator, MagicHourDeleteProjectOperator
from tests.support.stores import Store
from tests.support.tasks import task_context
from tests.transfer.conftest import Host

pytestmark = pytest.mark.xdist_group("stores")

ENTRY = "in/here/magichour-catalog/dt=2026-01-01/235959-p1"


def download(store: Store, **options: Any) -> Any:
    return MagicHourHook().download_project(
        "video", "p1", f"{store.url}/2026-11-28", index=store.url, **options
    )


def clean_up(store: Store, **options: Any) -> Any:
    operator = MagicHourCleanupOperator(
        task_id="c", destination=store.url, older_than=timedelta(0), **options
    )
    return operator.execute(task_context())


def test_entry_and_event_are_written(host: Host, object_store: Store) -> None:
    download(object_store)
    entry = json.loads(object_store.read(f"{ENTRY}.json"))
    assert (entry["folder"], entry["event"]) == ("2026-11-28", None)
    assert [one["reason"] for one in clean_up(object_store, dry_run=True)["kept"]] == ["would delete"]
    assert clean_up(object_store)["deleted"] == ["p1"]
    assert json.loads(object_store.read(f"{ENTRY}-deleted.json"))["outcome"] == "deleted"
    assert clean_up(object_store) == {"deleted": [], "missing": [], "kept": []}


def test_missing_object_is_kept_and_repaired(host: Host, object_store: Store) -> None:
    download(object_store)
    storage = open_destination(object_store.url)
    storage.remove("2026-11-28/p1/output.mp4")
    (kept,) = clean_up(object_store)["kept"]
    assert "is not there" in kept["reason"]
    download(object_store)
    assert clean_up(object_store)["deleted"] == ["p1"]


def test_moved_object_is_acknowledged(host: Host, object_store: Store) -> None:
    download(object_store)
    open_destination(object_store.url).remove("2026-11-28/p1/output.mp4")
    MagicHourHook().acknowledge_moved(object_store.url, "p1", {"output.mp4": "elsewhere"})
    assert clean_up(object_store)["deleted"] == ["p1"]


def test_deletion_by_id_is_recorded(host: Host, object_store: Store) -> None:
    download(object_store)
    operator = MagicHourDeleteProjectOperator(
        task_id="d", project_id="p1", kind="video", destination=object_store.url
    )
    assert operator.execute(task_context()) == {"deleted": ["p1"], "missing": []}
    assert clean_up(object_store) == {"deleted": [], "missing": [], "kept": []}


def test_store_is_listed_and_tried(object_store: Store) -> None:
    storage = open_destination(object_store.url)
    storage.check_writable()
    assert object_store.keys() == []
    names = [f"{number:06}-p.json" for number in range(5)]
    for name in reversed(names):
        storage.write(f"magichour-catalog/dt=2026-01-01/{name}", b"{}")
    folder = "magichour-catalog/dt=2026-01-01"
    assert list(storage.scan(folder)) == names
    assert list(storage.scan(folder, "000002")) == names[2:]
    assert storage.names("magichour-catalog") == ["dt=2026-01-01"]
    assert storage.sizes(folder) == dict.fromkeys(names, 2)
    assert storage.sizes("nowhere") == {}
    assert storage.read("nowhere/x.json", 10) is None


def test_empty_store_is_skipped(host: Host, object_store: Store) -> None:
    with pytest.raises(AirflowSkipException):
        clean_up(object_store)

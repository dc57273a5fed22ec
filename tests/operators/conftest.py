"""What the tests of the operators share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour.operators import _earlier_tries, _patience, _submit_records
from airflow_provider_magichour.operators._submit_records import SubmitRecords
from airflow_provider_magichour.simulator import Simulator
from tests.operators.records import Open, context_of
from tests.operators.support import CREATE
from tests.support.tasks import TaskStateStore


@pytest.fixture
def store() -> TaskStateStore:
    return TaskStateStore()


@pytest.fixture
def long(sim: Simulator) -> Simulator:
    """Renders take longer than the tests."""
    sim.faults({"match": CREATE, "duration": 600})
    return sim


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_submit_records.time, "sleep", lambda seconds: None)
    monkeypatch.setattr("airflow_provider_magichour._client.retry.BACKOFF_FIRST", 0.01)
    monkeypatch.setattr(_patience, "FIRST_LIMIT_PAUSE", 0.05)
    monkeypatch.setattr(_earlier_tries, "NOT_FOUND_SECONDS", 0.3)
    monkeypatch.setattr(_earlier_tries, "NOT_FOUND_PAUSE", 0.05)


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return open_destination(str(tmp_path))


@pytest.fixture(params=["task state", "folder", "both"])
def open_records(request: pytest.FixtureRequest, store: TaskStateStore, folder: Storage) -> Open:
    """Return what opens the records of a try, in each place where they may be."""
    state = None if request.param == "folder" else store
    storage = None if request.param == "task state" else folder

    def open_(**changes: Any) -> SubmitRecords:
        return SubmitRecords.of_task(context_of(store=state, **changes), storage=storage)

    return open_

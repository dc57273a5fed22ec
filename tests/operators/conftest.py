"""What the tests of the operators share."""

from __future__ import annotations

import pytest

from airflow_provider_magichour.operators import _resume, _submit, _submit_records
from tests.support.tasks import TaskStateStore


@pytest.fixture
def store() -> TaskStateStore:
    return TaskStateStore()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_submit_records.time, "sleep", lambda seconds: None)
    monkeypatch.setattr("airflow_provider_magichour._client.retry.BACKOFF_FIRST", 0.01)
    monkeypatch.setattr(_submit, "FIRST_LIMIT_PAUSE", 0.05)
    monkeypatch.setattr(_resume, "NOT_FOUND_SECONDS", 0.3)
    monkeypatch.setattr(_resume, "NOT_FOUND_PAUSE", 0.05)

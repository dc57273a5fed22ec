"""What the tests of the operators share."""

from __future__ import annotations

import pytest

from airflow_provider_magichour.operators import _submit, _submit_records
from tests.support.tasks import TaskStateStore


@pytest.fixture
def store() -> TaskStateStore:
    return TaskStateStore()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_submit_records.time, "sleep", lambda seconds: None)
    monkeypatch.setattr("airflow_provider_magichour._client.retry.BACKOFF_FIRST", 0.01)
    monkeypatch.setattr(_submit, "FIRST_LIMIT_PAUSE", 0.05)

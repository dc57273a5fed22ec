"""A simulator for the tests of the operators, which some of them replace by their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_provider_magichour.operators import _submit, _submit_records
from airflow_provider_magichour.simulator import Simulator
from tests.support.tasks import TaskStateStore


@pytest.fixture
def store() -> TaskStateStore:
    return TaskStateStore()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_submit_records.time, "sleep", lambda seconds: None)
    monkeypatch.setattr("airflow_provider_magichour._client.retry.BACKOFF_FIRST", 0.01)
    monkeypatch.setattr(_submit, "FIRST_LIMIT_PAUSE", 0.05)


@pytest.fixture
def sim(magichour_simulator: Simulator, connect: Callable[..., str]) -> Simulator:
    connect(magichour_simulator.url, magichour_simulator.api_key, timeout=5)
    return magichour_simulator

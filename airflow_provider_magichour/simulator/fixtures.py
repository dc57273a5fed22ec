"""
The pytest fixture of the simulator.

In ``conftest.py``: ``pytest_plugins = ["airflow_provider_magichour.simulator.fixtures"]``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_magichour.simulator.server import Simulator

__all__ = ["magichour_simulator"]


@pytest.fixture
def magichour_simulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """
    Start a `Simulator` for each test, and set the connection ``magichour_default`` to it.

    Projects take 0.2 s.
    """
    with Simulator(duration=0.2) as simulator:
        monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", simulator.connection_uri)
        yield simulator

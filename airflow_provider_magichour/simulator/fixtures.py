"""
A local Magic Hour for pytest.

In ``conftest.py``: ``pytest_plugins = ["airflow_provider_magichour.simulator.fixtures"]``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_magichour.simulator.server import Simulator

__all__ = ["magichour_simulator"]


@pytest.fixture
def magichour_simulator() -> Iterator[Simulator]:
    """
    Give a running :class:`~airflow_provider_magichour.simulator.Simulator`, anew for each test.

    Projects take 0.2 s. To point Airflow to it, set the environment variable
    ``AIRFLOW_CONN_MAGICHOUR_DEFAULT`` to its ``connection_uri``.
    """
    with Simulator(duration=0.2) as simulator:
        yield simulator

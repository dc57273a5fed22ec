"""A simulator for the tests of a module, as good as new for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_magichour.simulator import Simulator


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    with Simulator(duration=0.0) as simulator:
        yield simulator


@pytest.fixture
def magichour(running: Simulator) -> Simulator:
    running.reset()
    return running

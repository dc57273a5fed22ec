from __future__ import annotations

import pytest

from airflow_provider_magichour._client import retry
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.projects import KEY


@pytest.fixture
def hook(server, connect, monkeypatch):
    """A hook for the scripted server, which pauses between tries for no time."""
    monkeypatch.setattr(retry.random, "random", lambda: 0.0)
    connect(server.url, KEY, timeout=30, max_attempts=2)
    return MagicHourHook()

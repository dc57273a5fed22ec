"""The webhook endpoint over real HTTP, with a real (SQLite) Airflow database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.webhooks.support import SECRET, Endpoint, empty_database, serving


@pytest.fixture
def endpoint(airflow_db: Path, connect: Callable[..., str]) -> Iterator[Endpoint]:
    connect("http://127.0.0.1:1", "mhk_test_key", "hooked", webhook_secret=SECRET)
    connect("http://127.0.0.1:1", "mhk_test_key", "rotating", webhook_secret="old, whsec_test")
    connect("http://127.0.0.1:1", "mhk_test_key", "silent")
    empty_database()
    with serving() as served:
        yield served

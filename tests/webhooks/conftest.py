"""The receiver over real HTTP, with a stand-in of Airflow's REST API behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from airflow_provider_magichour.webhooks.receiver import create_app
from tests.webhooks.support import SECRET, Endpoint, FakeAirflow, serving

SECRETS = {"hooked": SECRET, "rotating": f"old, {SECRET}", "other": "whsec_other"}


@pytest.fixture
def airflow_api() -> Iterator[tuple[FakeAirflow, str]]:
    airflow = FakeAirflow()
    with serving(airflow.app()) as port:
        yield airflow, f"http://127.0.0.1:{port}"


@pytest.fixture
def endpoint(airflow_api: tuple[FakeAirflow, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    airflow, url = airflow_api
    for name, value in {
        "AIRFLOW_URL": url,
        "USERNAME": "webhooks",
        "PASSWORD": "secret",
        "SECRETS": json.dumps(SECRETS),
    }.items():
        monkeypatch.setenv(f"MAGICHOUR_WEBHOOKS_{name}", value)
    with serving(create_app()) as port:
        yield Endpoint(port, airflow)

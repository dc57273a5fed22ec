"""The receiver of webhooks as a process beside a local Airflow."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping

import requests

from scripts.local.airflow import LocalAirflow
from scripts.local.client import wait_until


def start_receiver(airflow: LocalAirflow, secrets: Mapping[str, str], port: int, parallel: int = 4) -> str:
    """
    Start the receiver as process ``webhooks`` of the Airflow, wait until it serves, and return its URL.

    :param secrets: the webhook secret of each connection.
    :param parallel: how many calls of Airflow run at once; 1 where its database is SQLite.
    """
    settings = {
        "AIRFLOW_URL": airflow.url,
        "USERNAME": "webhooks",
        "PASSWORD": "webhooks",
        "PARALLEL": str(parallel),
        "SECRETS": json.dumps(secrets),
    }
    command = [sys.executable, "-m", "airflow_provider_magichour.webhooks", "--port", str(port)]
    environment = {f"MAGICHOUR_WEBHOOKS_{name}": value for name, value in settings.items()}
    url = f"http://127.0.0.1:{port}"

    def serves() -> bool:
        if not airflow.processes.is_running("webhooks"):
            # Before it had its port, some client's outgoing connection may have been given it.
            airflow.processes.start("webhooks", command, environment)
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{url}/health", timeout=30).ok
        return False

    wait_until(serves, 120, "the receiver")
    return url

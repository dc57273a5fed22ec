"""The receiver of webhooks as a process beside a local Airflow."""

from __future__ import annotations

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
    airflow.processes.start("webhooks", command, environment)
    url = f"http://127.0.0.1:{port}"

    def serves() -> bool:
        try:
            return requests.get(f"{url}/health", timeout=5).ok
        except requests.ConnectionError:
            return False

    wait_until(serves, 60, "the receiver")
    return url

"""The receiver's settings, and the receiver as a program of its own in an environment without Airflow."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import requests

from airflow_provider_magichour.webhooks.settings import Settings, SettingsError
from scripts.local.processes import free_port
from tests.webhooks.support import FakeAirflow, event_body, serving, signed, used

COMPLETE = {
    "AIRFLOW_URL": "https://airflow.example",
    "USERNAME": "webhooks",
    "PASSWORD": "secret",
    "SECRETS": '{"magichour_default": "one, two", "team_a": ["three"]}',
}


def read(**changes: str | None) -> Settings:
    given = {**COMPLETE, **changes}
    return Settings.read({f"MAGICHOUR_WEBHOOKS_{name}": value for name, value in given.items() if value})


def test_come_from_the_environment() -> None:
    settings = read()
    assert settings.airflow_url == "https://airflow.example"
    assert (settings.username, settings.password, settings.token) == ("webhooks", "secret", "")
    assert settings.secrets == {"magichour_default": (b"one", b"two"), "team_a": (b"three",)}
    assert settings.presigned_urls is False
    assert read(PRESIGNED_URLS="true").presigned_urls is True
    assert read(USERNAME=None, PASSWORD=None, TOKEN="t").token == "t"


def test_come_from_a_file_and_variables_win(tmp_path: Path) -> None:
    file = tmp_path / "webhooks.toml"
    file.write_text(
        'airflow_url = "http://airflow:8080"\ntoken = "t"\npresigned_urls = true\n'
        '[secrets]\nmagichour_default = "one"\nteam_a = ["two", "three"]\n'
    )
    settings = Settings.read({"MAGICHOUR_WEBHOOKS_CONFIG": str(file), "MAGICHOUR_WEBHOOKS_TOKEN": "newer"})
    assert (settings.airflow_url, settings.token) == ("http://airflow:8080", "newer")
    assert settings.secrets == {"magichour_default": (b"one",), "team_a": (b"two", b"three")}
    assert settings.presigned_urls is True


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"AIRFLOW_URL": None}, "AIRFLOW_URL"),
        ({"AIRFLOW_URL": "airflow.example"}, "AIRFLOW_URL"),
        ({"PASSWORD": None}, "PASSWORD"),
        ({"USERNAME": None}, "USERNAME"),
        ({"SECRETS": None}, "SECRETS"),
        ({"SECRETS": "{}"}, "SECRETS"),
        ({"SECRETS": "whsec"}, "SECRETS"),
        ({"SECRETS": '["a"]'}, "SECRETS"),
        ({"SECRETS": '{"magichour_default": ""}'}, "SECRETS"),
        ({"CONFIG": "/nowhere/at/all.toml"}, "CONFIG"),
    ],
)
def test_name_what_is_missing(changes: dict[str, str | None], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        read(**changes)


#: Runs the receiver with every import of Airflow refused.
WITHOUT_AIRFLOW = """
import sys
class NoAirflow:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in {"airflow", "sqlalchemy", "requests", "aiohttp", "fastapi"}:
            raise ImportError("the receiver must not import " + name)
sys.meta_path.insert(0, NoAirflow())
from airflow_provider_magichour.webhooks.__main__ import main
sys.exit(main())
"""


def start(environment: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    env = {**os.environ, **{f"MAGICHOUR_WEBHOOKS_{name}": value for name, value in environment.items()}}
    command = [sys.executable, "-c", WITHOUT_AIRFLOW, *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_receiver_runs_without_airflow() -> None:
    airflow, port = FakeAirflow(), free_port()
    airflow.use(used())
    with serving(airflow.app()) as airflow_port:
        environment = {**COMPLETE, "AIRFLOW_URL": f"http://127.0.0.1:{airflow_port}"}
        process = start(environment, "--port", str(port))
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/health", process)
            body = event_body()
            answer = requests.post(
                f"{url}/magichour/webhooks/team_a", data=body, headers=signed(body, "three"), timeout=30
            )
            assert answer.json() == {"status": "accepted"}
        finally:
            process.terminate()
            printed, _ = process.communicate(timeout=30)
    assert "Magic Hour sent video.completed for project 'cm1' over connection team_a" in printed
    assert process.returncode in {0, -15}


def test_receiver_without_settings_says_what_is_missing() -> None:
    process = start({"SECRETS": ""})
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "MAGICHOUR_WEBHOOKS_AIRFLOW_URL" in printed


def wait_for(url: str, process: subprocess.Popen[str], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            requests.get(url, timeout=5).raise_for_status()
        except requests.ConnectionError:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the receiver did not start"
            time.sleep(0.1)
        else:
            return

"""The receiver's settings, from the environment and from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_magichour.webhooks.settings import Settings, SettingsError

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

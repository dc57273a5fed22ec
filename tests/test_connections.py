from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import Connection

from airflow_provider_magichour import DEFAULT_REQUESTS_PER_SECOND, get_provider_info
from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._client.settings import Settings
from airflow_provider_magichour.hooks.connection import _warn_of_unknown, get_settings, get_settings_async

KEY = "mhk_live_very_secret"


def connection(monkeypatch, **fields):
    given = {"conn_type": "magichour", "password": KEY, **fields}
    monkeypatch.setenv("AIRFLOW_CONN_MH", json.dumps(given))


class TestSettings:
    def test_a_key_is_enough(self, monkeypatch):
        connection(monkeypatch)
        settings = get_settings("mh")
        assert (settings.api_key, settings.base_url) == (KEY, "https://api.magichour.ai")
        assert settings.allow_private_hosts

    @pytest.mark.parametrize(
        ("fields", "base_url"),
        [
            ({"host": "https://magic.example"}, "https://magic.example"),
            ({"host": "https://magic.example/"}, "https://magic.example"),
            ({"host": "http://127.0.0.1", "port": 8000}, "http://127.0.0.1:8000"),
            ({"host": "http://127.0.0.1:8000"}, "http://127.0.0.1:8000"),
            ({"host": "127.0.0.1", "port": 8000}, "http://127.0.0.1:8000"),
            ({"host": "magic.example"}, "https://magic.example"),
            ({"host": "magic.example", "schema": "http", "port": 80}, "http://magic.example:80"),
            ({"host": "https://gateway.example/magichour"}, "https://gateway.example/magichour"),
            ({"host": "http://[::1]:8000"}, "http://[::1]:8000"),
            ({"host": "api.magichour.ai", "schema": "v1"}, "https://api.magichour.ai"),
            ({"host": "  "}, "https://api.magichour.ai"),
            ({"host": "https://api.magichour.ai/v1"}, "https://api.magichour.ai"),
            ({"host": "127.0.0.1/v1/", "port": 8000}, "https://127.0.0.1:8000"),
            ({"host": "https://gateway.example/magichour/v1/"}, "https://gateway.example/magichour"),
        ],
    )
    def test_the_host_is_the_base_url(self, monkeypatch, fields, base_url):
        connection(monkeypatch, **fields)
        assert get_settings("mh").base_url == base_url

    def test_a_connection_uri_works_too(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_MH", f"magichour://:{KEY}@http%3A%2F%2F127.0.0.1:8000/?timeout=7")
        settings = get_settings("mh")
        assert (settings.base_url, settings.timeout) == ("http://127.0.0.1:8000", 7)

    @pytest.mark.parametrize(
        "host",
        [
            "ftp://magic.example",
            "https://",
            "https://user:pass@magic.example",
            "https://magic.example?x=1",
            "https://magic.example#x",
            "https://ma gic.example",
            "http://magic.example:port",
            "https://[::1",
        ],
    )
    def test_a_bad_host_says_what_to_set_and_where(self, monkeypatch, host):
        connection(monkeypatch, host=host)
        with pytest.raises(errors.MagicHourArgumentError, match=r"host.*'mh'.*AIRFLOW_CONN_MH"):
            get_settings("mh")

    @pytest.mark.parametrize("password", [None, "", "  "])
    def test_an_empty_key_says_what_to_set_and_where(self, monkeypatch, password):
        connection(monkeypatch, password=password)
        with pytest.raises(errors.MagicHourArgumentError, match=r"no API key.*AIRFLOW_CONN_MH.*api-keys"):
            get_settings("mh")

    @pytest.mark.parametrize("password", ["two words", "line\nbreak", "schlüssel"])
    def test_a_key_that_no_header_can_carry_is_not_quoted(self, monkeypatch, password):
        connection(monkeypatch, password=password)
        with pytest.raises(errors.MagicHourArgumentError, match="API key") as caught:
            get_settings("mh")
        assert password not in str(caught.value)

    def test_a_line_break_at_the_end_of_a_key_is_forgiven(self, monkeypatch):
        connection(monkeypatch, password=f"{KEY}\n")
        assert get_settings("mh").api_key == KEY

    @pytest.mark.parametrize(
        "conn_id", [None, "", " ", 7, {"password": KEY}, Connection(conn_id="mh", password=KEY)]
    )
    def test_what_is_no_connection_id_is_named(self, conn_id):
        for read in (get_settings, lambda one: asyncio.run(get_settings_async(one))):
            with pytest.raises(errors.MagicHourArgumentError) as caught:
                read(conn_id)
            assert str(caught.value).startswith("magichour_conn_id must be the id of a connection, not ")
            assert KEY not in str(caught.value)

    def test_a_missing_connection_says_where_to_make_it(self):
        with pytest.raises(errors.MagicHourConnectionNotFoundError, match=r"'nowhere'.*AIRFLOW_CONN_NOWHERE"):
            get_settings("nowhere")


class TestExtra:
    def test_all_of_it_is_read_from_json_and_from_form_strings(self, monkeypatch):
        extra = {
            "timeout": "2.5",
            "max_attempts": 3,
            "requests_per_second": 9,
            "max_connections": "7",
            "allow_private_hosts": "False",
            "submit_records": "s3://aws_default@bucket/records/",
        }
        connection(monkeypatch, extra=extra)
        settings = get_settings("mh")
        assert (settings.max_connections, settings.submit_records) == (7, "s3://aws_default@bucket/records")
        assert (settings.timeout, settings.max_attempts, settings.requests_per_second) == (2.5, 3, 9)
        assert settings.allow_private_hosts is False

    def test_empty_form_fields_count_as_not_given(self, monkeypatch):
        connection(monkeypatch, extra={"timeout": "", "max_attempts": None, "allow_private_hosts": ""})
        plain = get_settings("mh")
        connection(monkeypatch)
        assert get_settings("mh") == plain

    @pytest.mark.parametrize("name", ["timeout", "max_attempts", "requests_per_second", "max_connections"])
    @pytest.mark.parametrize("value", [0, -1, "many", "nan", "inf", [], {}])
    def test_a_bad_number_is_named(self, monkeypatch, name, value):
        connection(monkeypatch, extra={name: value})
        with pytest.raises(errors.MagicHourArgumentError, match=name):
            get_settings("mh")

    def test_a_bad_boolean_is_named(self, monkeypatch):
        connection(monkeypatch, extra={"allow_private_hosts": "sometimes"})
        with pytest.raises(errors.MagicHourArgumentError, match="allow_private_hosts"):
            get_settings("mh")

    @pytest.mark.parametrize("value", ["records", "s3:/bucket", "s3://", 7, True, {"url": "s3://bucket"}])
    def test_a_folder_that_is_no_url_is_named(self, monkeypatch, value):
        connection(monkeypatch, extra={"submit_records": value})
        with pytest.raises(errors.MagicHourArgumentError, match=r"submit_records.*s3://bucket"):
            get_settings("mh")

    def test_an_unknown_name_is_warned_of_once_with_the_one_that_was_meant(self, monkeypatch, caplog):
        connection(monkeypatch, extra={"request_per_second": 5, "colour": "red", "webhook_secret": "s"})
        _warn_of_unknown.cache_clear()
        for _ in range(3):
            assert get_settings("mh").requests_per_second == DEFAULT_REQUESTS_PER_SECOND
        colour, rate = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
        assert "'request_per_second'" in rate
        assert "did you mean 'requests_per_second'?" in rate
        assert "'colour'" in colour
        assert "red" not in colour


class TestDefaults:
    def test_the_form_the_docs_and_the_code_name_the_same(self):
        docs = (Path(__file__).parents[1] / "docs" / "reference" / "hook.md").read_text()
        form = get_provider_info()["connection-types"][0]
        for name in ("timeout", "max_attempts", "requests_per_second", "max_connections"):
            default = getattr(Settings("key"), name)
            assert f"Default: {default}." in form["conn-fields"][name]["description"]
            assert form["ui-field-behaviour"]["placeholders"][name] == str(default)
            (row,) = [line for line in docs.splitlines() if f"extra `{name}`" in line]
            assert f"| {default} |" in row


class TestAsync:
    def test_it_reads_the_same(self, monkeypatch):
        connection(monkeypatch, host="http://127.0.0.1:8000")
        assert asyncio.run(get_settings_async("mh")) == get_settings("mh")

    def test_a_missing_connection_is_the_same_error(self):
        with pytest.raises(errors.MagicHourConnectionNotFoundError, match="nowhere"):
            asyncio.run(get_settings_async("nowhere"))

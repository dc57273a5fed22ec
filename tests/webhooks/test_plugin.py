"""The plugin that mounts the endpoint in Airflow's API server, and what keeps it light and off."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import airflow_provider_magichour.webhooks
from airflow_provider_magichour.webhooks import plugin
from tests.webhooks.support import SECRET, Endpoint, FakeAirflow, below, event_body, serving, used

PACKAGE = Path(airflow_provider_magichour.webhooks.__file__).parent


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_loading_the_plugin_loads_no_server() -> None:
    run_python(
        "import sys\n"
        "from airflow.providers.common.compat.sdk import AirflowPlugin\n"
        "before = set(sys.modules)\n"
        "from airflow_provider_magichour.webhooks import MagicHourWebhooksPlugin\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert not new & {'fastapi', 'starlette', 'sqlalchemy', 'uvicorn', 'requests', 'httpx'}, new\n"
    )


def test_nothing_here_writes_to_airflows_database() -> None:
    forbidden = (
        "airflow.models",
        "airflow.settings",
        "airflow.assets",
        "airflow.utils.session",
        "sqlalchemy",
    )
    for file in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith(forbidden)], file


class TestEndpoint:
    @pytest.fixture(autouse=True)
    def _anew(self) -> Iterator[None]:
        plugin._create_endpoint.cache_clear()
        plugin._secrets_of_period.cache_clear()
        yield
        plugin._create_endpoint.cache_clear()
        plugin._secrets_of_period.cache_clear()

    @pytest.fixture
    def configure(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        def set_options(**options: str) -> None:
            for name, value in options.items():
                monkeypatch.setenv(f"AIRFLOW__MAGICHOUR__{name.upper()}", value)

        return set_options

    @pytest.fixture
    def mounted(
        self, airflow_api: tuple[FakeAirflow, str], configure: Callable[..., None], connect: Any
    ) -> Iterator[Endpoint]:
        airflow, url = airflow_api
        configure(
            webhooks_airflow_url=url,
            webhooks_username="webhooks",
            webhooks_password="secret",
            webhooks_connections="hooked, silent,missing",
        )
        connect("http://127.0.0.1:1", "mhk_test_key", "hooked", webhook_secret=SECRET)
        connect("http://127.0.0.1:1", "mhk_test_key", "unlisted", webhook_secret=SECRET)
        connect("http://127.0.0.1:1", "mhk_test_key", "silent")
        (mount,) = plugin.MagicHourWebhooksPlugin.fastapi_apps
        with serving(below(mount["url_prefix"], mount["app"])) as port:
            yield Endpoint(port, airflow)

    def test_is_off_by_default_and_names_the_option(self, mounted: Endpoint) -> None:
        response = mounted.deliver(event_body())
        assert response.status_code == 503
        assert "[magichour] webhooks = True" in response.text
        assert not mounted.airflow.calls

    def test_hands_events_over_by_the_rest_api(
        self, mounted: Endpoint, configure: Callable[..., None]
    ) -> None:
        configure(webhooks="True")
        mounted.airflow.use(used(), used(conn_id="hooked"))
        assert mounted.deliver(event_body()).json() == {"status": "accepted"}
        assert len(mounted.airflow.events) == 2

    @pytest.mark.usefixtures("airflow_db")
    def test_accepts_nothing_for_other_connections(
        self, mounted: Endpoint, configure: Callable[..., None]
    ) -> None:
        configure(webhooks="True")
        for conn_id in ("unlisted", "silent", "missing", "unknown"):
            assert mounted.deliver(event_body(), conn_id).status_code == 401

    def test_looks_up_no_connection_but_the_configured_ones(
        self, mounted: Endpoint, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        configure(webhooks="True")
        conn_ids = []
        get_connection = plugin.BaseHook.get_connection

        def spy(conn_id: str) -> Any:
            conn_ids.append(conn_id)
            return get_connection(conn_id)

        monkeypatch.setattr(plugin.BaseHook, "get_connection", spy)
        monkeypatch.setattr(plugin, "SECRET_SECONDS", 1e9)  # no new period begins meanwhile
        mounted.airflow.use(used())
        for number in range(20):
            mounted.deliver(event_body(), f"stranger_{number}")
            mounted.deliver(event_body())
        assert conn_ids == ["hooked"]

    def test_uses_a_changed_secret_after_some_seconds(
        self,
        mounted: Endpoint,
        configure: Callable[..., None],
        connect: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        configure(webhooks="True")
        assert mounted.deliver(event_body()).status_code == 200
        connect("http://127.0.0.1:1", "mhk_test_key", "hooked", webhook_secret="newer")
        assert mounted.deliver(event_body()).status_code == 200
        assert plugin.SECRET_SECONDS == 5
        # The clock of this module alone: a server that waits needs its own.
        monkeypatch.setattr(plugin, "time", SimpleNamespace(monotonic=lambda: 1e12))
        assert mounted.deliver(event_body()).status_code == 401

    def test_whose_connection_cannot_be_read_asks_for_another_delivery(
        self, mounted: Endpoint, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        configure(webhooks="True")

        def fail(conn_id: str) -> Any:
            raise OSError("the secrets backend is down")

        monkeypatch.setattr(plugin.BaseHook, "get_connection", fail)
        assert mounted.deliver(event_body()).status_code == 503

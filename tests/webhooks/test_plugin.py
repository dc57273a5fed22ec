"""The plugin that mounts the endpoint in Airflow."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.webhooks.support import needs_airflow_3_3


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
        "assert not new & {'fastapi', 'starlette', 'sqlalchemy', 'uvicorn', 'requests', 'aiohttp'}, new\n"
    )


@needs_airflow_3_3
def test_the_plugin_offers_the_endpoint() -> None:
    from airflow_provider_magichour.webhooks import MagicHourWebhooksPlugin

    (mount,) = MagicHourWebhooksPlugin.fastapi_apps
    assert mount["url_prefix"] == "/magichour/webhooks"
    assert MagicHourWebhooksPlugin().fastapi_apps[0] is mount
    assert MagicHourWebhooksPlugin.flask_blueprints == []


def test_an_airflow_without_the_memory_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("starlette")
    from airflow.providers.common.compat import version_compat

    from airflow_provider_magichour import webhooks

    monkeypatch.setattr(version_compat, "AIRFLOW_V_3_3_PLUS", False)
    monkeypatch.setattr(version_compat, "AIRFLOW_V_3_0_PLUS", False)
    (mount,) = webhooks._fastapi_apps()
    assert mount["app"].status_code == 501  # a response is an ASGI application, too
    assert b"Airflow 3.3 or newer" in mount["app"].body
    caplog.clear()
    assert webhooks._flask_blueprints() == []
    assert "Airflow 3.3 or newer" in caplog.text

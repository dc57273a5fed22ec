"""Airflow finds the provider and draws its connection form."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import airflow
import jsonschema
import pytest

import airflow_provider_magichour
from airflow_provider_magichour import get_provider_info
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.airflow import AIRFLOW_VERSION

INFO = get_provider_info()
INSTALLED = [entry for entry in entry_points(group="apache_airflow_provider") if "magichour" in entry.value]
FORM = INFO["connection-types"][0]


def test_airflow_accepts_the_metadata() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(INFO, schema)
    json.dumps(INFO)


@pytest.mark.parametrize("part", ["hooks", "operators"])
def test_each_listed_module_can_be_imported(part: str) -> None:
    for group in INFO[part]:
        assert group["integration-name"] == INFO["integrations"][0]["integration-name"]
        for module in group["python-modules"]:
            importlib.import_module(module)


def test_each_listed_class_can_be_imported() -> None:
    paths = [FORM["hook-class-name"], *INFO["extra-links"]]
    paths += [plugin["plugin-class"] for plugin in INFO.get("plugins", [])]
    for path in paths:
        module, _, name = path.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), name), type)


def test_hook_and_metadata_agree() -> None:
    assert FORM["connection-type"] == MagicHourHook.conn_type
    assert FORM["hook-name"] == MagicHourHook.hook_name
    assert "get_ui_field_behaviour" in vars(MagicHourHook)  # Airflow before 3.2 asks no base class
    assert MagicHourHook.get_ui_field_behaviour() == {
        "hidden_fields": FORM["ui-field-behaviour"]["hidden-fields"],
        "relabeling": FORM["ui-field-behaviour"]["relabeling"],
        "placeholders": FORM["ui-field-behaviour"]["placeholders"],
    }


def test_secrets_are_password_fields() -> None:
    assert FORM["conn-fields"]["webhook_secret"]["schema"]["format"] == "password"
    assert FORM["ui-field-behaviour"]["relabeling"]["password"] == "API key"


@pytest.mark.skipif(not INSTALLED, reason="the package runs from its folder, it is not installed")
@pytest.mark.skipif(AIRFLOW_VERSION < (3, 2), reason="Airflow before 3.2 asks the hook for its form")
def test_airflow_draws_the_form(airflow_db: Path) -> None:
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    hook = manager.hooks["magichour"]
    assert hook is not None
    assert hook.hook_name == "Magic Hour"
    fields = {
        name.removeprefix("extra__magichour__")
        for name in manager.connection_form_widgets
        if name.startswith("extra__magichour__")
    }
    assert fields == {
        "timeout",
        "max_attempts",
        "requests_per_second",
        "max_connections",
        "submit_records",
        "catalog",
        "webhook_secret",
        "allow_private_hosts",
    }
    behaviour: Any = manager.field_behaviours["magichour"]
    assert behaviour["hidden_fields"] == ["login", "schema"]
    assert behaviour["relabeling"]["host"] == "Base URL"
    assert "airflow_provider_magichour.links.MagicHourProjectLink" in manager.extra_links_class_names


@pytest.mark.skipif(not INSTALLED, reason="the package runs from its folder, it is not installed")
def test_airflow_finds_the_installed_provider() -> None:
    assert INSTALLED[0].name == "provider_info"
    assert INSTALLED[0].load() is get_provider_info


def test_reading_the_metadata_imports_nothing_heavy() -> None:
    # Every Airflow process reads the metadata of every provider when it starts.
    code = (
        "import sys; from airflow_provider_magichour import get_provider_info as info; info();"
        "print([name for name in sys.modules if name.split('.')[0] in"
        " {'airflow', 'requests', 'aiohttp', 'fastapi', 'tenacity'}])"
    )
    root = Path(airflow_provider_magichour.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_what_makes_or_waits_for_projects_has_the_button() -> None:
    """Airflow logs an error for a button of a task that pushes no address."""
    from airflow_provider_magichour import operators, sensors

    classes = [getattr(module, name) for module in (operators, sensors) for name in module.__all__]
    assert {each.__name__ for each in classes if each.operator_extra_links} == {
        "MagicHourCreateProjectOperator",
        "MagicHourGenerateOperator",
        "MagicHourProjectSensor",
    }

"""
What depends on the version of Airflow, on the Airflow that is installed.

``make test-matrix`` runs this on each version; the table of ``docs/compatibility.md`` says the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import CREATE, generate
from tests.support.airflow import AIRFLOW_VERSION, use_dags_of
from tests.support.tasks import task_context

# A DAG that every Airflow reads, as the documentation says to write it.
DAG = """
from airflow.providers.common.compat.sdk import Param, dag

from airflow_provider_magichour.operators import MagicHourCreateProjectOperator, MagicHourGenerateOperator

IMAGE = {"tool": "ai-image-generator", "body": {"image_count": 1, "style": {"prompt": "a lighthouse"}}}


@dag(schedule=None, params={"destination": Param("", type="string")})
def on_every_airflow():
    MagicHourGenerateOperator(
        task_id="generate", destination="{{ params.destination }}", deferrable=True, defer_after=0, **IMAGE
    )
    MagicHourCreateProjectOperator(task_id="create", **IMAGE)


on_every_airflow()
"""
NO_RECORDS = "This task cannot record its submits"
KILLED_DEFERRED = "delete_on_kill needs Airflow 3.3 or newer"
remembers = AIRFLOW_VERSION >= (3, 3)


def airflow(*arguments: str) -> str:
    """Run Airflow's command line and return what it says."""
    command = [sys.executable, "-m", "airflow", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def python(code: str, **env: str) -> str:
    """Run code in its own Python, with this test's Airflow, and return what it says."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_command_line_lists_the_provider(airflow_db: Path) -> None:
    assert "airflow-provider-magichour" in airflow("providers", "list", "--output", "plain")


def test_command_line_runs_a_dag(
    airflow_db: Path, magichour_simulator: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It defers, resumes and stores the file. Not every Airflow records a submit without a destination."""
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", magichour_simulator.connection_uri)
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "on_every_airflow.py").write_text(DAG)
    use_dags_of(monkeypatch, dags)
    said = airflow("dags", "test", "on_every_airflow", "--conf", f'{{"destination": "{tmp_path / "media"}"}}')
    with contextlib.closing(sqlite3.connect(airflow_db)) as database:
        assert database.execute("SELECT state FROM dag_run").fetchall() == [("success",)], said
    (picture,) = (tmp_path / "media").glob("*/*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert said.count(NO_RECORDS) == (0 if remembers else 1)
    assert magichour_simulator.api_key not in said


@pytest.mark.parametrize("asked_for", [True, False])
def test_kill_while_deferred_is_handled(
    magichour_simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked_for: bool,
) -> None:
    """Older Airflows do not notify the trigger of a kill, and the log says so if it matters."""
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", magichour_simulator.connection_uri)
    magichour_simulator.faults({"match": CREATE, "duration": 60})
    with pytest.raises(TaskDeferred), caplog.at_level(logging.WARNING):
        generate(deferrable=True, delete_on_kill=asked_for).execute(task_context())
    assert (KILLED_DEFERRED in caplog.text) == (asked_for and not remembers)


@pytest.mark.skipif(AIRFLOW_VERSION < (3, 0), reason="Airflow 2 has no API server that takes applications")
def test_webhook_endpoint_names_the_option_while_it_is_off() -> None:
    said = python(
        "from fastapi import FastAPI; from fastapi.testclient import TestClient\n"
        "from airflow.api_fastapi.app import init_plugins\n"
        "app = FastAPI(); init_plugins(app)\n"
        "answer = TestClient(app).post('/magichour/webhooks/magichour_default')\n"
        "print('ANSWER', answer.status_code, answer.text)"
    )
    assert "ANSWER 503" in said
    assert "[magichour] webhooks = True" in said


def test_connection_form_has_all_fields() -> None:
    """Before 3.2, what is in the extra has no fields of its own; Airflow takes it as JSON."""
    if AIRFLOW_VERSION < (3, 0):
        said = python(
            "from airflow.providers_manager import ProvidersManager\n"
            "manager = ProvidersManager()\n"
            "label = manager.field_behaviours['magichour']['relabeling']['password']\n"
            "fields = [name for name in manager.connection_form_widgets if 'extra__magichour__' in name]\n"
            "print('FORM', label, len(fields), manager.hooks['magichour'].connection_testable)"
        )
    else:
        said = python(
            "from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService\n"
            "forms = {form.connection_type: form for form in HookMetaService.hook_meta_data()}\n"
            "form = forms['magichour']\n"
            "print('FORM', form.standard_fields.password.title, len(form.extra_fields or {}), True)"
        )
    assert f"FORM API key {8 if AIRFLOW_VERSION >= (3, 2) else 0} True" in said


def test_hook_lineage_is_collected(tmp_path: Path) -> None:
    """Airflow collects it where somebody reads it, such as OpenLineage."""
    pytest.importorskip("airflow.providers.openlineage")
    said = python(
        "from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector\n"
        "from airflow_provider_magichour.hooks import MagicHourHook\n"
        "from airflow_provider_magichour._transfer.lineage import record_outputs\n"
        "record_outputs(MagicHourHook(), [{'path': '/media/p1/output.png'}])\n"
        "(output,) = get_hook_lineage_collector().collected_assets.outputs\n"
        "print('OUTPUT', output.asset.uri)",
        AIRFLOW__OPENLINEAGE__TRANSPORT='{"type": "console"}',
    )
    assert "OUTPUT file:///media/p1/output.png" in said


@pytest.mark.skipif(AIRFLOW_VERSION < (3, 2), reason="Airflow does not tell whether somebody reads it")
def test_hook_lineage_that_nobody_reads_costs_no_imports() -> None:
    """Airflow's collector imports boto3, where the Amazon provider is installed."""
    pytest.importorskip("boto3")
    said = python(
        "import sys\n"
        "from airflow_provider_magichour._transfer.lineage import record_outputs\n"
        "record_outputs(None, [{'path': '/media/p1/output.png'}])\n"
        "print('IMPORTED', 'boto3' in sys.modules)",
        AIRFLOW__OPENLINEAGE__DISABLED="True",
    )
    assert "IMPORTED False" in said


def test_what_airflow_does_not_document_is_as_the_polling_expects() -> None:
    from airflow_provider_magichour.sensors._run import is_first_poke

    if AIRFLOW_VERSION >= (3, 0):
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        assert callable(RuntimeTaskInstance.get_first_reschedule_date)
    else:
        from airflow.models.taskinstance import TaskInstance

        assert not hasattr(TaskInstance, "get_first_reschedule_date")
    context = task_context("wait")
    assert is_first_poke(context)
    context["ti"].get_first_reschedule_date = lambda context: context["ti"].start_date
    assert not is_first_poke(context)

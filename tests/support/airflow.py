"""Airflow in a test: its database, its connections, a DAG's run."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

AIRFLOW_VERSION = tuple(int(number) for number in version("apache-airflow").split(".")[:2])
IS_AIRFLOW_3 = AIRFLOW_VERSION >= (3, 0)


def migrated_database(folder: Path) -> Path:
    """Return a migrated SQLite database in a folder, made by whichever process comes first."""
    database = folder / "migrated" / "airflow.db"
    with (folder / "migrated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not database.exists():
            database.parent.mkdir(exist_ok=True)
            making = database.with_name("making.db")
            making.unlink(missing_ok=True)
            env = {
                **os.environ,
                "AIRFLOW_HOME": str(database.parent),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{making}",
            }
            subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True)
            making.rename(database)
    return database


def restore_database(database: Path, template: Path) -> None:
    """Give each table of a database the rows it has in the template; open connections continue with it."""
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.execute("ATTACH ? AS template", (str(template),))
        tables = connection.execute(
            "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        # SQLite checks foreign keys only where a connection requests it, so the order does not matter.
        for (table,) in tables:
            connection.execute(f'DELETE FROM main."{table}"')  # noqa: S608  # Airflow's own names
            connection.execute(f'INSERT INTO main."{table}" SELECT * FROM template."{table}"')  # noqa: S608  # the same


def connection_json(base_url: str, api_key: str, **extra: Any) -> str:
    """Return a Magic Hour connection as an ``AIRFLOW_CONN_...`` variable holds it."""
    parts = urlsplit(base_url)
    return json.dumps(
        {
            "conn_type": "magichour",
            "host": f"{parts.scheme}://{parts.hostname}",
            "port": parts.port,
            "password": api_key,
            "extra": extra,
        }
    )


def as_this_airflow_writes_it(code: str) -> str:
    """Return the code of a DAG with what ``docs/compatibility.md`` says to change for Airflow 2."""
    if IS_AIRFLOW_3:
        return code
    code = code.replace("from airflow.sdk import", "from airflow.providers.common.compat.sdk import")
    code = re.sub(r"^@dag$", "@dag()", code, flags=re.MULTILINE)
    date = '__import__("datetime").datetime(2026, 1, 1)'
    given = {"schedule": "None", "start_date": date, "catchup": "False"}
    missing = "".join(f"{name}={value}, " for name, value in given.items() if f"{name}=" not in code)
    return re.sub(r"^@dag\(", f"@dag({missing}", code, flags=re.MULTILINE)


def allow_execute() -> None:
    """Let this thread call ``execute()``; Airflow 2 refuses it but in the thread that imported it."""
    if not IS_AIRFLOW_3:
        from airflow.models.baseoperator import ExecutorSafeguard

        ExecutorSafeguard._sentinel.callers = {}


def load_dag(file: Path, dag_id: str) -> Any:
    """Read a DAG file as Airflow does, and return its DAG."""
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # before Airflow 3.2
        from airflow.models.dagbag import DagBag
    bag = DagBag(_file_for_this_airflow(file))
    assert bag.import_errors == {}
    return bag.dags[dag_id]


def _file_for_this_airflow(file: Path) -> Path:
    code = file.read_text()
    if (written := as_this_airflow_writes_it(code)) == code:
        return file
    copy = Path(os.environ["AIRFLOW_HOME"]) / "rewritten" / file.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_text(written)
    return copy


def use_dags_of(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make a folder the one that Airflow reads DAGs from."""
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(folder))
    bundles = [
        {
            "name": "dags-folder",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(folder)},
        }
    ]
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps(bundles))
    with contextlib.suppress(ImportError, AttributeError):  # Airflow 3.4 reads the setting once per process
        from airflow.dag_processing.bundles import manager

        manager._load_bundle_config_snapshot.cache_clear()


def run_dag(
    monkeypatch: pytest.MonkeyPatch, file: Path, dag_id: str, conf: Mapping[str, Any] | None = None
) -> Any:
    """Run a DAG by ``dag.test()`` in this process and return its DAG run."""
    file = _file_for_this_airflow(file)
    use_dags_of(monkeypatch, file.parent)
    return load_dag(file, dag_id).test(run_conf=dict(conf or {}))

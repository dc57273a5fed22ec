"""A real Airflow 2 with its scheduler and its triggerer, for tests that kill what runs in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from scripts.local.client import wait_until
from scripts.local.processes import Processes, free_port
from tests.support.airflow import as_this_airflow_writes_it

#: Airflow 2 lets SQLite have no tasks in parallel, which it can well: Airflow 3 does that.
_EXECUTOR = """
from airflow.executors.local_executor import LocalExecutor

class SideBySide(LocalExecutor):
    is_single_threaded = True
"""


class Airflow2:
    """
    A real Airflow 2 with its own home. Use it as a context manager.

    :param home: the AIRFLOW_HOME, which must not exist.
    :param database: a migrated database, which is copied.
    :param dag_file: the DAGs, as Airflow 3 writes them.
    :param env: further environment variables, such as connections.
    """

    def __init__(self, home: Path, database: Path, dag_file: Path, env: dict[str, str]) -> None:
        self.database = home / "airflow.db"
        (home / "dags").mkdir(parents=True)
        shutil.copyfile(database, self.database)
        (home / "dags" / dag_file.name).write_text(as_this_airflow_writes_it(dag_file.read_text()))
        (home / "side_by_side.py").write_text(_EXECUTOR)
        settings = {
            "core.executor": "side_by_side.SideBySide",
            "core.parallelism": "4",
            "core.dags_folder": str(home / "dags"),
            "core.dags_are_paused_at_creation": "False",
            "core.load_examples": "False",
            "database.sql_alchemy_conn": f"sqlite:///{self.database}?timeout=25",
            "logging.base_log_folder": str(home / "logs"),
            "logging.worker_log_server_port": str(free_port()),
            "logging.trigger_log_server_port": str(free_port()),
            "scheduler.scheduler_idle_sleep_time": "0.2",
            "scheduler.min_file_process_interval": "60",
            # Dead tasks are told by their missing heartbeat; the second is how late a living task's may be.
            "scheduler.job_heartbeat_sec": "2",
            "scheduler.local_task_job_heartbeat_sec": "20",
            "scheduler.scheduler_zombie_task_threshold": "20",
            # A failure that is found again before it was handled fails the next try, too.
            "scheduler.zombie_detection_interval": "20",
            "usage_data_collection.enabled": "False",
        }
        path = os.pathsep.join([str(home), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            **{f"AIRFLOW__{name.upper().replace('.', '__')}": value for name, value in settings.items()},
            "AIRFLOW_HOME": str(home),
            "PYTHONPATH": path,
            **env,
        }
        self.processes = Processes(home / "processes", self._env)

    def __enter__(self) -> Airflow2:
        for name in ("scheduler", "triggerer"):
            self.start(name)
        return self

    def __exit__(self, *args: object) -> None:
        self.processes.stop_all()

    def start(self, name: str) -> None:
        """Start the scheduler or the triggerer."""
        self.processes.start(name, [sys.executable, "-m", "airflow", name])

    def run_cli(self, *arguments: str) -> None:
        """Run an ``airflow`` command."""
        command = [sys.executable, "-m", "airflow", *arguments]
        subprocess.run(command, env=self._env, check=True, timeout=120, capture_output=True)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return what the metadata database has."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=60)) as connection:
            return connection.execute(query, values).fetchall()

    def wait_for_run(self, run_id: str, timeout: float) -> str:
        """Wait until a DAG run has ended, and return its state."""

        def state() -> str:
            return str(self.rows("SELECT state FROM dag_run WHERE run_id = ?", run_id)[0][0])

        try:
            wait_until(lambda: state() in {"success", "failed"}, timeout, "the DAG run to end")
        except Exception as error:
            found = self.rows("SELECT task_id, map_index, state, try_number FROM task_instance")
            last = self.processes.log_text("scheduler")[-3000:]
            raise AssertionError(f"{error}: {found}\n{last}") from error
        return state()

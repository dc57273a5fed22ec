"""
A real Airflow on this machine, for the demo and for tests.

    with LocalAirflow(home, [dags], connections={"magichour_default": "..."}) as airflow:
        run = airflow.trigger("my_dag", {"prompt": "a lighthouse"})
        assert airflow.wait_for_run("my_dag", run) == "success"
        print(airflow.xcom("my_dag", run, "generate"))

API server, scheduler, DAG processor and triggerers are processes of their own, so that a test can kill
one of them and start it again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from scripts.processes import ProcessError, Processes, free_port

#: Where a run or a task ends.
FINISHED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})

#: What every line of a task log repeats.
_NOISE = ("logger", "filename", "lineno", "ti_id", "dag_id", "task_id", "run_id", "map_index", "try_number")


class LocalAirflow:
    """
    A real Airflow with its own home, database, free ports and processes.

    :param home: the AIRFLOW_HOME, made where missing; a second start goes on with what is there.
    :param dag_folders: the folders that hold the DAG files.
    :param triggerers: how many triggerers run; they are named ``triggerer``, ``triggerer-2``...
    :param database_url: SQLAlchemy URL of the metadata database; a SQLite file in the home if None.
    :param connections: Airflow connections by id, as URI or JSON, given through the environment.
    :param env: further environment variables, such as ``AIRFLOW__SCHEDULER__...``; they win.
    :param parallelism: how many tasks run at once.
    :param port: the API server's port; a free one if None.
    :param grace: how many seconds the processes have to end by themselves when all is stopped.
    """

    def __init__(
        self,
        home: Path | str,
        dag_folders: Sequence[Path | str],
        *,
        triggerers: int = 1,
        database_url: str | None = None,
        connections: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        parallelism: int = 4,
        port: int | None = None,
        grace: float = 8,
    ) -> None:
        self.home = Path(home).resolve()
        self.dag_folders = [Path(folder).resolve() for folder in dag_folders]
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.database_url = database_url or f"sqlite:///{self.home / 'airflow.db'}"
        self.env = self._environment(connections or {}, parallelism, env or {})
        self.processes = Processes(self.home / "processes", self.env)
        self.grace = grace
        #: Each process by name: the arguments of its ``airflow`` command. Tests may add their own.
        self.components: dict[str, list[str]] = {
            "api-server": ["api-server", "--port", str(self.port), "--host", "127.0.0.1"],
            "scheduler": ["scheduler"],
            "dag-processor": ["dag-processor"],
        }
        for number in range(1, triggerers + 1):
            self.components["triggerer" if number == 1 else f"triggerer-{number}"] = ["triggerer"]
        #: Signed in once the REST API was called.
        self.session = requests.Session()
        self.session.trust_env = False  # a proxy of the environment does not know this machine's ports

    # ------------------------------------------------------------------------------------- processes

    def __enter__(self) -> LocalAirflow:
        try:
            self.migrate()
            self.start()
            self.wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()

    def migrate(self) -> None:
        """Make the metadata database, or bring it up to date."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.processes.start("migrate", self._command(["db", "migrate"]))
        self._wait(lambda: self.processes.exit_code("migrate") is not None, 180, "the database's migration")
        if self.processes.exit_code("migrate") != 0:
            raise ProcessError(f"airflow db migrate failed:\n{self.tail('migrate')}")

    def connect(self, conn_id: str, connection: str) -> None:
        """Give the processes that are started from now on a connection, as URI or JSON."""
        self.env[f"AIRFLOW_CONN_{conn_id.upper()}"] = connection
        self.processes.env[f"AIRFLOW_CONN_{conn_id.upper()}"] = connection

    def start(self, name: str | None = None) -> None:
        """Start one process, or all that are not running."""
        for each in [name] if name else self.components:
            if name or not self.processes.is_running(each):
                own = {"AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port())}
                self.processes.start(each, self._command(self.components[each]), own)

    def kill(self, name: str, sig: int = signal.SIGKILL) -> None:
        """End one process by a signal and wait until it is gone; :meth:`start` starts it again."""
        self.processes.kill(name, sig)

    def stop(self) -> None:
        """End all processes. Nothing that was started here is left behind."""
        self.session.close()  # first, because the API server waits for its clients
        self.processes.stop_all(self.grace)

    def run_cli(self, *arguments: str, timeout: float = 120) -> str:
        """
        Run an ``airflow`` command in this Airflow and return what it printed.

        :raises ProcessError: if it fails.
        """
        done = subprocess.run(  # noqa: S603  # our own arguments
            self._command(arguments),
            env=self.processes.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise ProcessError(f"airflow {' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def tail(self, name: str, lines: int = 40) -> str:
        """Return the last lines that a process printed."""
        return "\n".join(self.processes.log_text(name).splitlines()[-lines:])

    def check_running(self) -> None:
        """
        Look whether all processes run.

        :raises ProcessError: naming the one that has ended, with what it printed last.
        """
        for name in self.components:
            if not self.processes.is_running(name):
                raise ProcessError(f"{name} has ended:\n{self.tail(name)}")

    def wait_until_healthy(self, timeout: float = 180) -> None:
        """
        Wait until every process answers or has sent a heartbeat.

        :raises ProcessError: if one ends, or is not healthy in time.
        """
        parts = ["metadatabase", "scheduler", "dag_processor"]
        parts += ["triggerer"] if "triggerer" in self.components else []

        def healthy() -> bool:
            self.check_running()
            with contextlib.suppress(requests.RequestException):
                answer = self.session.get(f"{self.url}/api/v2/monitor/health", timeout=30)
                health = answer.json() if answer.ok else {}
                return all(health.get(part, {}).get("status") == "healthy" for part in parts)
            return False

        self._wait(healthy, timeout, "all of Airflow's processes to be healthy")

    # --------------------------------------------------------------------------------------- REST API

    def api(self, method: str, path: str, *, missing_ok: bool = False, **options: Any) -> Any:
        """
        Call Airflow's REST API below ``/api/v2`` and return its JSON.

        :param missing_ok: return None for a 404 instead of raising.
        :raises requests.HTTPError: for any other error, with the API's own words.
        """
        if "Authorization" not in self.session.headers:
            answer = self.session.get(f"{self.url}/auth/token", timeout=60)
            answer.raise_for_status()
            self.session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        answer = self.session.request(method, f"{self.url}/api/v2{path}", timeout=60, **options)
        if missing_ok and answer.status_code == 404:
            return None
        if not answer.ok:
            raise requests.HTTPError(f"{method} {path}: {answer.status_code} {answer.text}", response=answer)
        return answer.json() if answer.content else None

    def wait_for_dag(self, dag_id: str, timeout: float = 120) -> None:
        """
        Wait until a DAG was read from its file.

        :raises ProcessError: if a DAG file has an import error, or none has this DAG.
        """

        def known() -> bool:
            found: Any = self.api("GET", f"/dags/{quote(dag_id)}", missing_ok=True)
            if found is None and (broken := self.import_errors()):
                raise ProcessError("a DAG file cannot be imported:\n" + "\n".join(broken))
            return found is not None

        self._wait(known, timeout, f"DAG {dag_id}")

    def import_errors(self) -> list[str]:
        """Return the import errors of DAG files."""
        found = self.api("GET", "/importErrors")["import_errors"]
        return [f"{each['filename']}: {each['stack_trace']}" for each in found]

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run, by its schedule too, once it is known."""
        self.wait_for_dag(dag_id)
        self.api("PATCH", f"/dags/{quote(dag_id)}", json={"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, run_id: str | None = None) -> str:
        """Start a run of a DAG, waiting for the DAG to be known, and return the run's id."""
        self.unpause(dag_id)
        body: dict[str, Any] = {"logical_date": None, "conf": dict(conf or {})}
        if run_id:
            body["dag_run_id"] = run_id
        return str(self.api("POST", f"/dags/{quote(dag_id)}/dagRuns", json=body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return a DAG run."""
        return dict(self.api("GET", _run_path(dag_id, run_id)))

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Return all runs of a DAG."""
        return list(self.api("GET", f"/dags/{quote(dag_id)}/dagRuns", params={"limit": 100})["dag_runs"])

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float = 300) -> str:
        """Wait until a run ends and return its state, ``success`` or ``failed``."""
        self._wait(
            lambda: self.run(dag_id, run_id)["state"] in FINISHED, timeout, f"run {run_id} of {dag_id} to end"
        )
        return str(self.run(dag_id, run_id)["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run, with ``state``, ``try_number``, ``map_index``..."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.api(
                "GET",
                f"{_run_path(dag_id, run_id)}/taskInstances",
                params={"limit": 100, "offset": len(found)},
            )
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Return one task instance."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task_id)}"
        return dict(self.api("GET", path if map_index < 0 else f"{path}/{map_index}"))

    def wait_for_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        states: Sequence[str],
        *,
        map_index: int = -1,
        timeout: float = 180,
    ) -> dict[str, Any]:
        """
        Wait until a task instance is in one of the states, and return it.

        :raises ProcessError: if it ends in another state, or does not get there in time.
        """
        found: dict[str, Any] = {}

        def reached() -> bool:
            found.update(self.task_instance(dag_id, run_id, task_id, map_index))
            if found["state"] in FINISHED and found["state"] not in states:
                raise ProcessError(
                    f"task {task_id} is {found['state']}, not {' or '.join(states)}:\n"
                    f"{self.task_log(dag_id, run_id, task_id, map_index=map_index)}"
                )
            return found["state"] in states

        self._wait(reached, timeout, f"task {task_id} to be {' or '.join(states)}")
        return found

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """Return an XCom value, None where there is none."""
        entry = self.api(
            "GET",
            f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task_id)}/xcomEntries/{quote(key)}",
            params={"map_index": map_index},
            missing_ok=True,
        )
        return entry["value"] if entry else None

    def clear(self, dag_id: str, run_id: str, task_ids: Sequence[str], *, downstream: bool = False) -> None:
        """Clear tasks of a run, as a person would in the UI: they run again."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": list(task_ids),
            "only_failed": False,
            "reset_dag_runs": True,
            "include_downstream": downstream,
        }
        self.api("POST", f"/dags/{quote(dag_id)}/clearTaskInstances", json=body)

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str, map_index: int = -1) -> None:
        """Mark a task instance as ``success`` or ``failed``, as a person would in the UI."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task_id)}"
        self.api("PATCH", path if map_index < 0 else f"{path}/{map_index}", json={"new_state": state})

    # -------------------------------------------------------------------------------------- task logs

    def task_log(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        *,
        try_number: int | None = None,
        map_index: int = -1,
    ) -> str:
        """
        Return a task's log as text, the triggerer's part included, read from the log files.

        :param try_number: one try; all of them if None.
        """
        folder = self.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
        if map_index >= 0:
            folder /= f"map_index={map_index}"
        pattern = "attempt=*.log*" if try_number is None else f"attempt={try_number}.log*"
        files = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
        return "\n".join(_readable(line) for path in files for line in _lines(path))

    def failed_task_logs(self, dag_id: str, run_id: str, lines: int = 40) -> str:
        """Return the end of each failed task's log, under a headline."""
        parts = []
        for task in self.task_instances(dag_id, run_id):
            if task["state"] == "failed":
                log = self.task_log(dag_id, run_id, task["task_id"], map_index=task["map_index"])
                parts.append(f"--- {task['task_id']} failed ---\n" + "\n".join(log.splitlines()[-lines:]))
        return "\n".join(parts)

    # --------------------------------------------------------------------------------- running tasks

    def task_pids(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> list[int]:
        """
        Return the processes that run a task at the moment: its supervisor first, then the task itself.

        Empty where it is not running. Linux only.
        """
        instance = self.task_instance(dag_id, run_id, task_id, map_index)
        pid = instance["pid"]
        if instance["state"] != "running" or pid not in self.processes.marked_pids():
            return []
        return [parent for parent in (_parent(pid),) if parent > 1] + [pid]

    def wait_for_task_pids(
        self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, timeout: float = 120
    ) -> list[int]:
        """Wait until a task runs, supervisor and task process, and return their ids."""
        found: list[int] = []

        def running() -> bool:
            found[:] = self.task_pids(dag_id, run_id, task_id, map_index)
            return len(found) >= 2

        self._wait(running, timeout, f"the processes of task {task_id}", every=0.05)
        return found

    def kill_task(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> list[int]:
        """
        Kill a running task with its supervisor, as a lost worker would be, and return the killed ids.

        Airflow notices by the missing heartbeat (``[scheduler] task_instance_heartbeat_timeout``, here 20 s).
        """
        pids = self.task_pids(dag_id, run_id, task_id, map_index)
        for pid in pids:  # the supervisor first, so that it cannot report its child's death
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pids

    # ------------------------------------------------------------------------------------------ parts

    @staticmethod
    def _command(arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "airflow", *arguments]

    def _environment(
        self, connections: Mapping[str, str], parallelism: int, env: Mapping[str, str]
    ) -> dict[str, str]:
        # Nothing of the caller's own Airflow may reach this one.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        bundles = [
            {
                "name": f"dags-{number}",
                "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
                "kwargs": {"path": str(folder)},
            }
            for number, folder in enumerate(self.dag_folders, start=1)
        ]
        settings = {
            "core.load_examples": "False",
            "core.executor": "LocalExecutor",
            "core.parallelism": str(parallelism),
            "core.dags_folder": str(self.dag_folders[0] if self.dag_folders else self.home / "dags"),
            "core.dags_are_paused_at_creation": "True",
            "core.simple_auth_manager_all_admins": "True",
            "core.execution_api_server_url": f"{self.url}/execution/",
            "core.hostname_callable": "socket.gethostname",
            "core.test_connection": "Enabled",
            "core.min_serialized_dag_update_interval": "5",
            "database.sql_alchemy_conn": self.database_url,
            "api.base_url": self.url,
            "api.workers": "1",
            "logging.colored_console_log": "False",
            "logging.base_log_folder": str(self.home / "logs"),
            "logging.worker_log_server_port": str(free_port()),
            "dag_processor.dag_bundle_config_list": json.dumps(bundles),
            "dag_processor.parsing_processes": "1",
            "dag_processor.refresh_interval": "10",
            "dag_processor.min_file_process_interval": "30",
            "scheduler.scheduler_heartbeat_sec": "2",
            "scheduler.job_heartbeat_sec": "2",
            "scheduler.scheduler_idle_sleep_time": "0.5",
            "scheduler.scheduler_health_check_threshold": "20",
            "scheduler.orphaned_tasks_check_interval": "20",
            "scheduler.task_instance_heartbeat_timeout": "20",
            "scheduler.task_instance_heartbeat_timeout_detection_interval": "5",
            "scheduler.trigger_timeout_check_interval": "5",
            "triggerer.job_heartbeat_sec": "2",
            "triggerer.triggerer_health_check_threshold": "15",
            "workers.min_heartbeat_interval": "3",
            "usage_data_collection.enabled": "False",
            "openlineage.disabled": "True",
        }
        variables = {f"AIRFLOW__{name.upper().replace('.', '__')}": value for name, value in settings.items()}
        return {
            **inherited,
            "AIRFLOW_HOME": str(self.home),
            "PYTHONUNBUFFERED": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            **variables,
            **{f"AIRFLOW_CONN_{name.upper()}": value for name, value in connections.items()},
            **env,
        }

    @staticmethod
    def _wait(condition: Callable[[], bool], timeout: float, what: str, every: float = 0.5) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise ProcessError(f"waited {timeout:.0f} s in vain for {what}")
            time.sleep(every)


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()


def _readable(line: str) -> str:
    """Turn one JSON line of a task log into text; leave any other line as it is."""
    try:
        record = json.loads(line)
        text = f"{record.pop('timestamp')} {record.pop('level')}: {record.pop('event')}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
    for noise in _NOISE:
        record.pop(noise, None)
    if record:
        text += f" {json.dumps(record, default=str)}"
    return text

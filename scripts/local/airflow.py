"""The processes of a local Airflow."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import requests

from scripts.local.client import AirflowClient, wait_until
from scripts.local.processes import ProcessError, Processes, free_port
from scripts.local.settings import Celery, environment, worker_command


class LocalAirflow(AirflowClient):
    """
    A real Airflow with its own home, database, free ports and processes.

    :param home: the AIRFLOW_HOME, made where missing; a second start continues with what is there.
    :param dag_folders: the folders that hold the DAG files.
    :param triggerers: how many triggerers run; they are named ``triggerer``, ``triggerer-2``...
    :param database_url: SQLAlchemy URL of the metadata database; a SQLite file in the home if None.
    :param connections: Airflow connections by id, as URI or JSON, given through the environment.
    :param env: further environment variables, such as ``AIRFLOW__SCHEDULER__...``; they win.
    :param parallelism: how many tasks run at once; Celery workers share them.
    :param celery_workers: how many Celery workers run the tasks, ``worker``, ``worker-2``...; where it is
        none, the scheduler's own machine runs them. They need PostgreSQL.
    :param broker_url: where their messages go, such as an empty Redis database.
    :param result_backend: where Celery keeps results, such as ``db+postgresql://...``.
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
        celery_workers: int = 0,
        broker_url: str = "",
        result_backend: str = "",
        port: int | None = None,
        grace: float = 8,
    ) -> None:
        self.home = Path(home).resolve()
        self.dag_folders = [Path(folder).resolve() for folder in dag_folders]
        self.port = port or free_port()
        super().__init__(f"http://127.0.0.1:{self.port}", self.home / "logs")
        # SQLite serves its writers in no order: on a busy machine, the default of 5 s is too little for some.
        self.database_url = database_url or f"sqlite:///{self.home / 'airflow.db'}?timeout=25"
        self.celery = Celery(celery_workers, broker_url, result_backend) if celery_workers else None
        self.env = environment(
            home=self.home,
            url=self.url,
            dag_folders=self.dag_folders,
            database_url=self.database_url,
            parallelism=parallelism,
            celery=self.celery,
            connections=connections or {},
            env=env or {},
        )
        self.processes = Processes(self.home / "processes", self.env)
        self.grace = grace
        #: Each process by name: the arguments of its ``airflow`` command. Tests may add their own.
        self.components: dict[str, list[str]] = {
            "api-server": ["api-server", "--port", str(self.port), "--host", "127.0.0.1"],
            "scheduler": ["scheduler"],
            "dag-processor": ["dag-processor"],
        }
        for number in range(1, triggerers + 1):
            self.components[_numbered("triggerer", number)] = ["triggerer"]
        for number in range(1, celery_workers + 1):
            name = _numbered("worker", number)
            self.components[name] = worker_command(name, math.ceil(parallelism / celery_workers))
        #: Those that were started, and not killed on purpose.
        self._wanted: set[str] = set()

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
        self.processes.start("migrate", _command(["db", "migrate"]))
        wait_until(lambda: self.processes.exit_code("migrate") is not None, 180, "the database's migration")
        if self.processes.exit_code("migrate") != 0:
            raise ProcessError(f"airflow db migrate failed:\n{self.tail('migrate')}")

    def connect(self, conn_id: str, connection: str) -> None:
        """Give the processes that are started from now on a connection, as URI or JSON."""
        self.env[f"AIRFLOW_CONN_{conn_id.upper()}"] = connection
        self.processes.env[f"AIRFLOW_CONN_{conn_id.upper()}"] = connection

    def store_connection(self, conn_id: str, uri: str) -> None:
        """Write a connection into the database before the start, in place of one that is there."""
        file = self.home / "connections.json"
        file.write_text(json.dumps({conn_id: uri}))
        self.run_cli("connections", "import", "--overwrite", str(file))
        file.unlink()

    def start(self, name: str | None = None) -> None:
        """Start one process, or all that are not running."""
        for each in [name] if name else self.components:
            if name or not self.processes.is_running(each):
                self.processes.start(each, _command(self.components[each]), self._own_ports())
                self._wanted.add(each)

    def _own_ports(self) -> dict[str, str]:
        """Return where a process serves logs, of whose kind several run on this machine."""
        servers = ["TRIGGER"] + (["WORKER"] if self.celery else [])
        return {f"AIRFLOW__LOGGING__{server}_LOG_SERVER_PORT": str(free_port()) for server in servers}

    def kill(self, name: str, sig: int = signal.SIGKILL) -> None:
        """
        End one process by a signal and wait until it is gone; :meth:`start` starts it again.

        SIGKILL ends what it started too: with a worker, the tasks that it runs.
        """
        self._wanted.discard(name)
        self.processes.kill(name, sig)

    def restart_dead(self) -> list[str]:
        """
        Restart what has ended by itself, as systemd or Kubernetes would, and return its names.

        What was killed by :meth:`kill` stays down. To be called from the main thread.
        """
        dead = [
            name for name in self.components if name in self._wanted and not self.processes.is_running(name)
        ]
        for name in dead:
            self.start(name)
        return dead

    def stop(self) -> None:
        """End all processes. Nothing that was started here is left behind."""
        self._wanted.clear()
        self.session.close()  # first, because the API server waits for its clients
        self.processes.stop_all(self.grace)

    def run_cli(self, *arguments: str, timeout: float = 120) -> str:
        """
        Run an ``airflow`` command in this Airflow and return what it printed.

        :raises ProcessError: if it fails.
        """
        done = subprocess.run(  # noqa: S603  # our own arguments
            _command(arguments),
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
        Check that all processes run.

        :raises ProcessError: naming the one that has ended, with what it printed last.
        """
        for name in self.components:
            if not self.processes.is_running(name):
                raise ProcessError(f"{name} has ended:\n{self.tail(name)}")

    def wait_until_healthy(self, timeout: float = 180, report: Callable[[str], None] | None = None) -> None:
        """
        Wait until every process responds or has sent a heartbeat.

        :param report: called with the name of each part, once, when it is healthy.
        :raises ProcessError: if one ends, or is not healthy in time.
        """
        parts = ["metadatabase", "scheduler", "dag_processor"]
        parts += ["triggerer"] if "triggerer" in self.components else []

        reported: set[str] = set()

        def healthy() -> bool:
            self.check_running()
            with contextlib.suppress(requests.RequestException):
                response = self.session.get(f"{self.url}/api/v2/monitor/health", timeout=30)
                health = response.json() if response.ok else {}
                ready = [part for part in parts if health.get(part, {}).get("status") == "healthy"]
                for part in ready:
                    if report and part not in reported:
                        report(part)
                reported.update(ready)
                return ready == parts and (
                    self.celery is None or len(self.celery.ping()) >= self.celery.workers
                )
            return False

        wait_until(healthy, timeout, "all of Airflow's processes to be healthy")

    # --------------------------------------------------------------------------------- running tasks

    def task_pids(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> list[int]:
        """
        Return the processes that run a task at the moment: its supervisor first, then the task itself.

        Empty if it is not running. Linux only.
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

        wait_until(running, timeout, f"the processes of task {task_id}", every=0.05)
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


def _numbered(kind: str, number: int) -> str:
    return kind if number == 1 else f"{kind}-{number}"


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "airflow", *arguments]


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0

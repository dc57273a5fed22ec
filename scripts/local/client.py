"""The REST API of a local Airflow, and the logs in its folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from scripts.local.logs import read_task_log
from scripts.local.processes import ProcessError

#: Where a run or a task ends.
FINISHED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


class AirflowClient:
    """
    A client of one Airflow.

    :param url: where its API server listens.
    :param log_folder: its ``base_log_folder``.
    """

    def __init__(self, url: str, log_folder: Path) -> None:
        self.url = url
        self.log_folder = log_folder
        #: Signed in once the REST API was called.
        self.session = requests.Session()
        self.session.trust_env = False  # a proxy of the environment does not know this machine's ports

    def api(self, method: str, path: str, *, missing_ok: bool = False, **options: Any) -> Any:
        """
        Call Airflow's REST API below ``/api/v2`` and return its JSON.

        :param missing_ok: return None for a 404 instead of raising.
        :raises requests.HTTPError: for any other error, with the API's own words.
        """
        if "Authorization" not in self.session.headers:
            response = self.session.get(f"{self.url}/auth/token", timeout=60)
            response.raise_for_status()
            self.session.headers["Authorization"] = f"Bearer {response.json()['access_token']}"
        response = self._send(method, path, **options)
        for _ in range(10):
            if response.status_code != 500 or "Database error" not in response.text:
                break
            time.sleep(1)  # SQLite was locked by another process for too long: nothing was changed
            response = self._send(method, path, **options)
        if missing_ok and response.status_code == 404:
            return None
        if not response.ok:
            raise requests.HTTPError(
                f"{method} {path}: {response.status_code} {response.text}", response=response
            )
        return response.json() if response.content else None

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, f"{self.url}/api/v2{path}", timeout=60, **options)

    def replace_connection(self, conn_id: str, uri: str) -> None:
        """Write a connection into the database, so that the UI lists it, in place of one that was there."""
        from airflow.models.connection import Connection

        given = Connection(conn_id=conn_id, uri=uri)
        self.api("DELETE", f"/connections/{quote(conn_id)}", missing_ok=True)
        body = {
            "connection_id": conn_id,
            "conn_type": given.conn_type,
            "host": given.host,
            "port": given.port,
            "password": given.password,
            "extra": given.extra or None,
        }
        self.api("POST", "/connections", json=body)

    def wait_for_dag(self, dag_id: str, timeout: float = 300) -> None:
        """
        Wait until a DAG was read from its file.

        :raises ProcessError: if a DAG file has an import error, or none has this DAG.
        """

        def known() -> bool:
            found: Any = self.api("GET", f"/dags/{quote(dag_id)}", missing_ok=True)
            if found is None and (broken := self.import_errors()):
                raise ProcessError("a DAG file cannot be imported:\n" + "\n".join(broken))
            return found is not None

        wait_until(known, timeout, f"DAG {dag_id}")

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
        wait_until(
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

        wait_until(reached, timeout, f"task {task_id} to be {' or '.join(states)}")
        return found

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """Return an XCom value, None if there is none."""
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
        return read_task_log(
            self.log_folder, dag_id, run_id, task_id, try_number=try_number, map_index=map_index
        )

    def failed_task_logs(self, dag_id: str, run_id: str, lines: int = 40) -> str:
        """Return the end of each failed task's log, under a headline."""
        parts = []
        for task in self.task_instances(dag_id, run_id):
            if task["state"] == "failed":
                log = self.task_log(dag_id, run_id, task["task_id"], map_index=task["map_index"])
                parts.append(f"--- {task['task_id']} failed ---\n" + "\n".join(log.splitlines()[-lines:]))
        return "\n".join(parts)


def wait_until(condition: Callable[[], bool], timeout: float, what: str, every: float = 0.5) -> None:
    """
    Wait until a condition holds.

    :raises ProcessError: naming what was waited for, if it does not in time.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise ProcessError(f"timed out after {timeout:.0f} s waiting for {what}")
        time.sleep(every)


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"

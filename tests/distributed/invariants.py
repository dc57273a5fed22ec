"""What must hold after any fault: each invariant is a row of the table at the end."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from airflow_provider_magichour._transfer.catalogue import FOLDER
from airflow_provider_magichour.simulator import Simulator
from scripts.local import LocalAirflow
from tests.distributed.load import NOT_SAVED, DagRun, Job, Load

#: What the error of an uncertain submit says: where to look for the project, or what its id is.
_UNCERTAIN = re.compile(r"https://magichour\.ai/my-library|the project id could not be written")
#: The line in a task's log for each body of a list that failed; not the summary, which names all at once.
#: A body that was not submitted quotes the uncertain one that stopped the list.
_UNCERTAIN_BODY = re.compile(
    rf" error: body\[(\d+)\]: (?!.*a retry submits it)[^\n]*(?:{_UNCERTAIN.pattern})"
)
#: What a sensor says whose last status check found Magic Hour unreachable.
_UNREACHABLE = re.compile(r"Timed out waiting for .*; the last status check failed: ")
#: What asyncio and aiohttp log about what was not closed.
_LEAKS = ("Unclosed client session", "Unclosed connector", "Task was destroyed but it is pending")


@dataclass
class Invariant:
    """
    An invariant and whether it holds.

    :param name: what must hold.
    :param found: what was checked, in numbers.
    :param violations: each case in which it does not hold.
    """

    name: str
    found: str
    violations: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Return whether there is no violation."""
        return not self.violations


@dataclass
class Saved:
    """
    What a project's receipt says and where it is.

    :param folder: the project's folder.
    :param receipt: the receipt.
    """

    folder: Path
    receipt: Mapping[str, Any]


def saved_projects(root: Path, folder: str = "") -> dict[str, Saved]:
    """Return the projects in a folder that have a receipt in the catalogue of its root, by their ids."""
    records = (json.loads(path.read_text()) for path in root.glob(f"{FOLDER}/*/*.json"))
    return {
        one["project_id"]: Saved(root / folder / one["project_id"], one)
        for one in records
        if one["event"] is None and one["folder"] == folder
    }


# -------------------------------------------------------------------------------------- paid, and what for


@dataclass
class Accounts:
    """
    What was paid for, and what became of it.

    :param projects: the projects at Magic Hour, by id.
    :param saved: what has a receipt.
    :param uncertain: the jobs whose submit was reported as uncertain.
    :param unreachable: the DAG runs whose sensor could not ask Magic Hour at its deadline.
    """

    projects: Mapping[str, Mapping[str, Any]]
    saved: Mapping[str, Saved]
    uncertain: set[str]
    unreachable: set[str] = field(default_factory=set)

    def ids(self, job: Job) -> list[str]:
        """Return the projects that were made for a job."""
        return [one for one, project in self.projects.items() if project["name"] == job.name]


def uncertain_jobs(airflow: LocalAirflow, run: DagRun) -> set[str]:
    """Return the names of a run's jobs that its tasks reported as uncertain, by their logs."""
    found: set[str] = set()
    if not run.jobs:
        return found
    for task in airflow.task_instances(run.dag_id, run.run_id):
        if task["task_id"] != "make" or task["state"] != "failed":
            continue
        log = airflow.task_log(run.dag_id, run.run_id, "make", map_index=task["map_index"])
        found |= {run.jobs[int(number)].name for number in _UNCERTAIN_BODY.findall(log)}
        if run.mapped and _UNCERTAIN.search(log):
            found.add(run.jobs[task["map_index"]].name)
    return found


def unreachable_runs(airflow: LocalAirflow, runs: Sequence[DagRun]) -> set[str]:
    """Return the ids of the failed runs whose sensor says that its last status check failed, too."""
    return {
        run.run_id
        for run in runs
        if run.state == "failed" and _UNREACHABLE.search(airflow.task_log(run.dag_id, run.run_id, "wait"))
    }


def paid_once(load: Load, accounts: Accounts) -> Invariant:
    """Each intended project was accepted once, but for those that were reported as uncertain."""
    count = Counter(project["name"] for project in accounts.projects.values())
    uncertain = [job for job in load.jobs if job.name in accounts.uncertain]
    invariant = Invariant(
        "one accepted create call for each project",
        f"{len(load.jobs) - len(uncertain)} of {len(load.jobs)} once; {len(uncertain)} reported "
        f"as uncertain, of which {sum(count[job.name] for job in uncertain)} had been accepted",
    )
    for job in load.jobs:
        if count[job.name] > 1:
            invariant.violations.append(f"{job.name} was paid for {count[job.name]} times")
        if not count[job.name] and job.name not in accounts.uncertain:
            invariant.violations.append(f"{job.name} was never made, and nothing says so")
    for name in count.keys() - {job.name for job in load.jobs} - set(NOT_SAVED):
        invariant.violations.append(f"{name} was made, and nobody wanted it")
    return invariant


def expected_states(runs: Sequence[DagRun], accounts: Accounts) -> Invariant:
    """
    Each DAG run ended as it should.

    It failed only where a submit is uncertain, where Magic Hour was unreachable at a sensor's deadline, or
    where that was the aim.
    """
    invariant = Invariant("each DAG run ends in the right state", "")
    for run in runs:
        expected = run.expected_state
        unsure = any(job.name in accounts.uncertain for job in run.jobs)
        if unsure and not run.goes_on:
            expected = "failed"  # a submit that is uncertain must not look like a success
        if run.run_id in accounts.unreachable:
            expected = "failed"  # nobody can know that the project is complete
        if run.state != expected:
            invariant.violations.append(
                f"{run.dag_id} {run.run_id}: {run.state or 'unfinished'}, not {expected}"
            )
    ends = Counter(run.state or "unfinished" for run in runs)
    invariant.found = ", ".join(f"{number} {state}" for state, number in sorted(ends.items()))
    return invariant


# ----------------------------------------------------------------------------------------------- the files


def whole_files(load: Load, accounts: Accounts, simulator: Simulator) -> Invariant:
    """Each file of each project that is not uncertain is there, with the bytes that Magic Hour made."""
    invariant = Invariant("each file is complete (sha256)", "")
    files = 0
    for job in load.jobs:
        for project_id in accounts.ids(job):
            saved = accounts.saved.get(project_id)
            if saved is None:
                if job.name not in accounts.uncertain:
                    invariant.violations.append(f"{job.name}: project {project_id} was not saved")
                continue
            there = {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in saved.folder.iterdir()
            }
            made = simulator.digests(project_id)
            receipt = {Path(file["path"]).name: file["sha256"] for file in saved.receipt["files"]}
            files += len(there)
            if not there == made == receipt:
                invariant.violations.append(f"{job.name}: made {made}, stored {there}, receipt {receipt}")
    invariant.found = f"{files} files of {len(accounts.saved)} projects"
    return invariant


def no_orphans(folder: Path) -> Invariant:
    """Nothing but files and receipts is left."""
    known = [path for path in folder.rglob("*") if path.is_file()]
    parts = [path for path in known if path.name.startswith(".")] + list(folder.rglob("*.part"))
    return Invariant(
        "no partial file is left",
        f"{len(known)} files checked",
        [f"{path.relative_to(folder)} was left behind" for path in dict.fromkeys(parts)],
    )


def deleted_once(load: Load, accounts: Accounts, cleaned: Mapping[str, Any]) -> Invariant:
    """What was saved is deleted at Magic Hour, and nothing else is."""
    invariant = Invariant("each due project is deleted once, and no project that was not saved", "")
    wanted = {project_id for job in load.jobs for project_id in accounts.ids(job)}
    deleted = {one for one in wanted if not accounts.projects[one]["enabled"]}
    saved = accounts.saved.keys()
    invariant.violations += [f"project {one} was saved and is still there" for one in saved - deleted]
    invariant.violations += [f"project {one} was deleted and not saved" for one in deleted - saved]
    invariant.violations += [
        f"the last clean-up still found {one}" for one in cleaned["deleted"] + cleaned["kept"]
    ]
    calls = sum(accounts.projects[one]["deletes"] for one in deleted)
    invariant.found = f"{len(deleted)} of {len(saved)} deleted, by {calls} calls"
    return invariant


# ------------------------------------------------------------------------------------------- the processes


def open_sockets(airflow: LocalAirflow, simulator: Simulator) -> list[str]:
    """Return the connections that the triggerers hold to Magic Hour."""
    ports = {int(url.rsplit(":", 1)[1]) for url in (simulator.url, simulator.downloads_url)}
    found = []
    for name in airflow.components:
        if not name.startswith("triggerer"):
            continue
        parent = psutil.Process(airflow.processes.pid(name))
        for process in (parent, *parent.children(recursive=True)):
            found += [
                f"{name}: {connection.status} to port {connection.raddr.port}"
                for connection in process.net_connections("tcp")
                if connection.raddr and connection.raddr.port in ports
            ]
    return found


def nothing_leaks(airflow: LocalAirflow, sockets: Sequence[str]) -> Invariant:
    """The triggerers hold no connection when nothing waits, and never complained of one."""
    complaints = []
    logs = [path for name in ("logs", "processes") for path in (airflow.home / name).rglob("*.log")]
    for path in logs:
        text = path.read_text(errors="replace")
        complaints += [f"{path.relative_to(airflow.home)}: {leak}" for leak in _LEAKS if leak in text]
    return Invariant(
        "no session or socket leak in the triggerers",
        f"{len(sockets)} sockets to Magic Hour when idle; {len(logs)} logs",
        [*sockets, *complaints],
    )

"""Each invariant of the chaos tests notices when it is violated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour._client import api
from airflow_provider_magichour._transfer import catalogue
from airflow_provider_magichour.simulator import Simulator
from tests.distributed import invariants
from tests.distributed.invariants import Accounts
from tests.distributed.load import AUDIO, IMAGE, SHARES, DagRun, Job, Load, make_elsewhere, plan

JOBS = [Job("one", IMAGE), Job("two", IMAGE)]
LOAD = Load([DagRun("chaos_list", JOBS)], [])


def project(name: str, **changes: Any) -> Mapping[str, Any]:
    return {"name": name, "enabled": True, "deletes": 0, **changes}


def accounts(*names: str, uncertain: tuple[str, ...] = ()) -> Accounts:
    """Return accounts in which each of these was accepted."""
    projects = {f"id-{number}": project(name) for number, name in enumerate(names)}
    return Accounts(projects, {}, set(uncertain))


@pytest.mark.parametrize(
    ("found", "violations"),
    [
        (accounts("one", "two"), []),
        (accounts("one", "two", "endless"), []),
        (accounts("one", uncertain=("two",)), []),
        (accounts("one", "two", uncertain=("two",)), []),
        (accounts("one", "two", "two"), ["two was paid for 2 times"]),
        (accounts("one", "two", "two", uncertain=("two",)), ["two was paid for 2 times"]),
        (accounts("one"), ["two was never made, and nothing says so"]),
        (accounts("one", "two", "three"), ["three was made, and nobody wanted it"]),
    ],
)
def test_paid_once_notices_double_and_missing_submits(found: Accounts, violations: list[str]) -> None:
    assert invariants.paid_once(LOAD, found).violations == violations


@pytest.mark.parametrize(
    ("run", "uncertain", "holds"),
    [
        (DagRun("chaos_list", JOBS, state="success"), (), True),
        (DagRun("chaos_list", JOBS, state="failed"), (), False),
        (DagRun("chaos_list", JOBS, state="running"), (), False),
        (DagRun("chaos_list", JOBS, state="failed"), ("one",), True),
        (DagRun("chaos_list", JOBS, state="success"), ("one",), False),
        (DagRun("chaos_steps_deferred", JOBS, state="success"), ("one",), True),
        (DagRun("chaos_deadline", expected_state="failed", state="success"), (), False),
    ],
)
def test_expected_states_notices_wrong_states(run: DagRun, uncertain: tuple[str, ...], holds: bool) -> None:
    assert invariants.expected_states([run], accounts(uncertain=uncertain)).holds is holds


@pytest.mark.parametrize(
    ("log", "unreachable"),
    [
        ("t error: Timed out waiting for project p (not seen); the last status check failed: refused", True),
        ("t error: Timed out waiting for project p (status: rendering)", False),
        ("t error: GET answered 401", False),
    ],
)
def test_a_deadline_during_an_outage_may_fail_a_complete_project(log: str, *, unreachable: bool) -> None:
    late = DagRun("chaos_deadline", run_id="late", state="failed")
    airflow: Any = Logged({-1: log})
    found = invariants.unreachable_runs(airflow, [late])
    assert invariants.expected_states([late], Accounts({}, {}, set(), found)).holds is unreachable


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[tuple[Simulator, Load, Path]]:
    """A project that is complete and stored."""
    from airflow_provider_magichour.hooks import MagicHourHook

    with Simulator(duration=0) as simulator, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", simulator.connection_uri)
        (project_id,) = make_elsewhere(simulator, JOBS[:1])
        MagicHourHook().download_project("image", project_id, str(tmp_path / "run-1"), index=str(tmp_path))
        yield simulator, Load([DagRun("chaos_list", JOBS[:1])], []), tmp_path / "run-1" / project_id


def read_accounts(simulator: Simulator, folder: Path) -> Accounts:
    return Accounts(
        simulator.state()["projects"], invariants.saved_projects(folder.parents[1], "run-1"), set()
    )


def test_whole_files_notices_damaged_and_missing_files(saved: Any) -> None:
    simulator, load, folder = saved
    assert invariants.whole_files(load, read_accounts(simulator, folder), simulator).holds
    (folder / "output.png").write_bytes(b"half of it")
    assert not invariants.whole_files(load, read_accounts(simulator, folder), simulator).holds
    (folder / "output.png").unlink()
    assert not invariants.whole_files(load, read_accounts(simulator, folder), simulator).holds
    assert not invariants.saved_projects(folder.parents[1], "run-2")
    shutil.rmtree(folder.parents[1] / catalogue.FOLDER)
    assert (
        "was not saved"
        in invariants.whole_files(load, read_accounts(simulator, folder), simulator).violations[0]
    )


def test_deleted_once_notices_missing_and_wrong_deletes(saved: Any) -> None:
    simulator, load, folder = saved
    nothing: dict[str, list[str]] = {"deleted": [], "kept": []}
    violations = invariants.deleted_once(load, read_accounts(simulator, folder), nothing).violations
    assert "was saved and is still there" in violations[0]
    found = read_accounts(simulator, folder)
    gone = {one: {**each, "enabled": False} for one, each in found.projects.items()}
    assert invariants.deleted_once(load, Accounts(gone, found.saved, set()), nothing).holds
    assert (
        "deleted and not saved"
        in invariants.deleted_once(load, Accounts(gone, {}, set()), nothing).violations[0]
    )
    late = {"deleted": ["x"], "kept": []}
    assert not invariants.deleted_once(load, Accounts(gone, found.saved, set()), late).holds


def test_no_orphans_notices_leftover_parts(saved: Any) -> None:
    _, _, folder = saved
    assert invariants.no_orphans(folder.parent).holds
    (folder / ".output.png.part").touch()
    assert invariants.no_orphans(folder.parent).violations == [
        f"{folder.name}/.output.png.part was left behind"
    ]


def test_load_has_the_requested_number_of_named_projects() -> None:
    load = plan(200)
    assert len({job.name for job in load.jobs}) == len(load.jobs) == 200
    assert {run.dag_id for run in load.runs} | {"others"} == set(SHARES)
    assert {job.tool for job in load.jobs} == {IMAGE, "text-to-video", AUDIO}
    json.dumps([job.describe() for job in load.jobs])


class Logged:
    """An Airflow whose failed tasks left these logs, by map index."""

    def __init__(self, logs: Mapping[int, str]) -> None:
        self.logs = logs

    def task_instances(self, *_: str) -> list[dict[str, Any]]:
        return [{"task_id": "make", "state": "failed", "map_index": index} for index in self.logs]

    def task_log(self, *_: str, map_index: int = -1) -> str:
        return self.logs[map_index]


def test_uncertain_jobs_are_read_from_the_log() -> None:
    unsure = str(api.uncertain_submit(api.create_project(IMAGE, {}), "it was dropped"))
    log = f"""
        t error: body[0]: {IMAGE} was not submitted; a retry submits it: {unsure}
        t error: body[1]: {unsure}
        t error: 2 of 2 bodies failed: body[0]: POST answered 503: later; body[1]: {unsure}"""
    of_a_list: Any = Logged({-1: log})
    mapped: Any = Logged({0: f"t error: {unsure}", 1: "t error: something else"})
    assert invariants.uncertain_jobs(of_a_list, DagRun("chaos_list", JOBS)) == {"two"}
    assert invariants.uncertain_jobs(mapped, DagRun("chaos_mapped", JOBS)) == {"one"}

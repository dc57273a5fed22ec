"""
Nothing is paid for twice, whatever happens: tasks with random lists, faults, kills, Clears and stores.

The simulator counts what it accepted over a socket. ``MAGICHOUR_PAID_ONCE_SEEDS=500`` draws that many more
scenarios, and ``MAGICHOUR_PAID_ONCE_SEED=17`` repeats one; threads make each run a little different.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour.operators import _submit, _submit_records
from airflow_provider_magichour.operators._carried import WaitEnd
from airflow_provider_magichour.operators._create import CreateTask
from airflow_provider_magichour.operators._generate import GenerateTask
from airflow_provider_magichour.operators._submit_records import SubmitRecords
from airflow_provider_magichour.simulator import Simulator
from tests.operators.random_tries import (
    HOOK_CALLS,
    Airflow,
    KilledError,
    Person,
    Worker,
    WorkersStore,
    run_two,
    run_with_failed_deferral,
)
from tests.operators.support import BODY, generate, operator
from tests.support.airflow import allow_execute
from tests.support.tasks import TaskStateStore, run_task

pytestmark = pytest.mark.usefixtures("no_pauses")

#: The scenarios of each run of the suite.
FIXED = 40
ONE = os.environ.get("MAGICHOUR_PAID_ONCE_SEED")
SEEDS = [int(ONE)] if ONE else range(FIXED + int(os.environ.get("MAGICHOUR_PAID_ONCE_SEEDS", "0")))
#: Tries with faults at most, and tries without, in which the task has to succeed.
MAX_TRIES, MAX_LAST_TRIES = 6, 12

CREATE, GET, ACCOUNT = {"route": "create_project"}, {"route": "get_project"}, {"path": "/v1/account"}
FAILED = [{"status": "error", "code": code} for code in ("unknown_error", "no_source_face")]
CREATE_FAULTS: list[dict[str, Any]] = [
    *({"status": status} for status in (400, 401, 402, 403, 404, 422, 429, 429, 500, 502, 503)),
    *({"status": status, "html": True} for status in (401, 403, 404, 429, 502)),
    *({"status": status, "html": True, "process": True} for status in (408, 500, 502, 503, 504)),
    *({"drop": moment} for moment in ("before", "after", "after")),
    *({"outcome": outcome} for outcome in (*FAILED, {"status": "canceled"})),
    {"status": 402, "code": "plan_upgrade_required"},
    {"status": 500, "process": True},
    {"status": 200, "body": "<html>", "process": True},
    {"remove": ["id"]},
    {"drop_after_bytes": 10},
    {"read_lag": 0.1},
]
OTHER_FAULTS: list[dict[str, Any]] = [
    *({"match": GET, "status": status} for status in (404, 404, 500, 503)),
    {"match": GET, "status": 404, "html": True},
    {"match": GET, "drop": "after"},
    {"match": ACCOUNT, "status": 502, "html": True},
    {"match": ACCOUNT, "status": 503},
]


@pytest.fixture(scope="module")
def shared_simulator() -> Iterator[Simulator]:
    with Simulator(duration=0.0, credits=10**9) as simulator:
        yield simulator


@pytest.fixture
def clean(
    shared_simulator: Simulator, monkeypatch: pytest.MonkeyPatch, connect: Callable[..., str]
) -> Simulator:
    """The simulator, with nothing in it, and tries whose stores and deaths are those of their workers."""
    shared_simulator.reset()
    of_task, end_of = SubmitRecords.of_task, CreateTask._raise_for_failed

    def of_worker(context: Any, **options: Any) -> SubmitRecords:
        records = of_task(context, **options)
        records._stores = [WorkersStore(store, context["worker"]) for store in records._stores]
        return records

    def note_end(self: Any, outcomes: Any, results: Any) -> None:
        self._context["heard"](outcomes)
        end_of(self, outcomes, results)

    # Python 3.11 locks it for all tries together, which are processes of their own outside of tests.
    monkeypatch.setattr(vars(SubmitRecords)["_ending"], "lock", contextlib.nullcontext(), raising=False)
    monkeypatch.setattr(SubmitRecords, "of_task", of_worker)
    monkeypatch.setattr(CreateTask, "_raise_for_failed", note_end)
    for name in ("_patience.FIRST_LIMIT_PAUSE", "_earlier_tries.NOT_FOUND_PAUSE"):
        monkeypatch.setattr(f"airflow_provider_magichour.operators.{name}", 0.01)
    monkeypatch.setattr("airflow_provider_magichour.operators._earlier_tries.NOT_FOUND_SECONDS", 0.05)
    monkeypatch.setattr("airflow_provider_magichour._client.retry.BACKOFF_FIRST", 0.001)
    return shared_simulator


class Scenario:
    """One task, and all that happens to it."""

    def __init__(self, seed: int, sim: Simulator, folder: Path, connect: Callable[..., str]) -> None:
        self.rng = rng = random.Random(seed)
        self.sim = sim
        self.stores = rng.choice(["task state", "folder", "folder", "both", "both", "none"])
        self.names = rng.choices("abc", k=rng.choice([1, 1, 2, 3, 4, 6]))
        self.is_list = len(self.names) > 1 or rng.random() < 0.5
        self.makes = rng.choice(["create", "create", "generate", "deferred"])
        self.destination = None if self.makes == "create" or self.stores == "none" else str(folder / "media")
        if self.destination and self.stores == "task state":
            self.destination = None
        more = {}
        if self.stores in {"folder", "both"} and (self.destination is None or rng.random() < 0.3):
            more["submit_records"] = str(folder / "records")
        connect(sim.url, sim.api_key, timeout=30, max_attempts=2, **more)
        state = TaskStateStore() if self.stores in {"task state", "both"} else None
        self.airflow = Airflow(rng.choice([0, 1, 2, 5]), state)
        self.person = Person(self.names)
        self.has_succeeded = False
        self.trace: list[str] = [f"seed {seed}: {self.makes} {self.names}, {self.stores}, {more}"]

    # ------------------------------------------------------------------------------------------- a try

    def begin(self, worker: Worker) -> Callable[[], Any]:
        """Return what carries out the next try, and returns its results or its error."""
        context = self.airflow.begin(worker)
        names = list(self.names)
        self.rng.shuffle(names)
        context["heard"] = lambda outcomes: self.person.hears(names, outcomes)
        bodies = [{**BODY, "name": name} for name in names]
        body: Any = bodies if self.is_list else bodies[0]
        options: dict[str, Any] = {"timeout": 0.3 if self.makes == "create" else 5}
        if self.makes != "create":
            options |= {"deferrable": self.makes == "deferred", "destination": self.destination}
        task = (operator if self.makes == "create" else generate)(body, **options)
        for name in HOOK_CALLS:
            setattr(task.hook, name, worker.wrap(getattr(task.hook, name)))

        fails = self.stores != "none" and self.rng.random() < 0.3

        def run() -> Any:
            allow_execute()
            try:
                found = (run_with_failed_deferral if fails else run_task)(task, context)
            except (Exception, KilledError) as error:  # noqa: BLE001  # as Airflow does
                return error
            results = found if self.is_list else [found]
            ids = [one["id"] if self.makes == "create" else one["project"]["id"] for one in results]
            return list(zip(names, ids, strict=True))

        return run

    def try_once(self, *, kill: bool, outages: bool) -> Any:
        """Carry out the next try; return what Airflow hears of it."""
        worker = Worker(self.rng, kill=kill, outages=outages)
        run = self.begin(worker)
        outcome = run()
        self.ended(worker, outcome)
        if not isinstance(outcome, BaseException) and kill and self.rng.random() < 0.5:
            outcome = KilledError("after its success")
        self.airflow.end(outcome if isinstance(outcome, BaseException) else None)
        if isinstance(outcome, KilledError) and self.stores == "none":
            self.person.clears(everything=True)  # nothing is recorded, so a retry pays again: documented
        return outcome

    def try_twice(self) -> Any:
        """Let Airflow take a try for dead that goes on; return what it hears of the next one."""
        lost, worker = Worker(self.rng), Worker(self.rng)
        # in a folder alone, a try that has not read it yet looks like one of a run that was made again
        lost.pauses_at = self.rng.randrange(5 if self.stores == "folder" else 1, 45)
        first = self.begin(lost)
        if self.rng.random() < 0.4:
            worker.dies_after_begin = self.rng.randrange(1, 10)
        # in a folder alone, what it then ends with looks as if it had been cleared
        ends_first = self.stores in {"both", "task state"} and self.rng.random() < 0.3

        def meanwhile(running: Future[Any]) -> Any:
            self.airflow.end(KilledError())
            self.has_succeeded |= lost.has_succeeded
            if not self.airflow.can_retry or self.rng.random() < 0.3:
                self.clear()  # marked as failed before
            lost.is_replaced = True
            if ends_first:
                lost.goes_on.set()
                running.exception(60)
            return self.begin(worker)()

        outcome_of_lost, outcome = run_two(first, lost, meanwhile)
        if self.stores == "none":
            self.person.clears(everything=True)  # nothing is recorded: documented
        self.trace.append(f"  a try that Airflow lost at step {lost.pauses_at}: {outcome_of_lost!r}")
        self.ended(lost, outcome_of_lost)
        self.ended(worker, outcome)
        self.airflow.end(outcome if isinstance(outcome, BaseException) else None)
        return outcome

    def ended(self, worker: Worker, outcome: Any) -> None:
        self.has_succeeded |= worker.has_succeeded or not isinstance(outcome, BaseException)
        self.trace.append(f"  try {self.airflow.try_number} of {self.airflow.max_tries}: {outcome!r}"[:300])
        self.check()
        if isinstance(outcome, list):
            self.check_results(outcome)

    # ------------------------------------------------------------------------------------ between tries

    def add_faults(self) -> None:
        for _ in range(self.rng.choice([0, 1, 1, 2, 3])):
            if self.rng.random() < 0.75:
                rule = {"match": CREATE, **self.rng.choice(CREATE_FAULTS)}
            else:
                rule = {**self.rng.choice(OTHER_FAULTS)}
            rule["times"] = self.rng.choice([1, 1, 2, 5, 1000])
            rule["skip"] = self.rng.choice([0, 0, 1, 2])
            self.trace.append(f"  fault {rule}")
            self.sim.faults(rule)

    def end_projects(self) -> None:
        """Let projects fail, be canceled or be deleted after a try."""
        for project_id, project in self.sim.state()["projects"].items():
            if self.rng.random() < 0.1 and project["enabled"]:
                self.trace.append(f"  project {project_id} ({project['name']}) ends")
                self.sim.end_project(project_id, self.rng.choice(["error", "canceled"]))

    def go_on(self, outcome: Any) -> bool:
        """Retry, clear or leave the task; return whether it starts again."""
        rng = self.rng
        if not isinstance(outcome, BaseException):
            if rng.random() < 0.4:
                return False
            self.make_again() if rng.random() < 0.2 else self.clear()
        elif not self.airflow.can_retry or rng.random() < 0.25:
            self.make_again() if rng.random() < 0.1 else self.clear()
        elif rng.random() < 0.3:
            self.trace.append("  another task is cleared")
            self.airflow.clear_another()
            if rng.random() < 0.5:
                self.airflow.edit_retries(rng.randrange(5))
        return True

    def clear(self) -> None:
        wiped = self.airflow.store is not None and self.rng.random() < 0.3
        self.person.clears(
            everything=self.has_succeeded or self.stores == "none" or (wiped and self.stores == "task state")
        )
        self.has_succeeded = False
        if wiped:
            self.airflow.store.clear()
        old = self.airflow.retries
        self.airflow.clear(self.rng.choice([old, old, old + 1, max(old - 1, 0), 0, 3]))
        self.trace.append(f"  Clear, {wiped=}, max_tries={self.airflow.max_tries}")

    def make_again(self) -> None:
        self.person.clears(everything=self.has_succeeded or self.stores in {"none", "task state"})
        self.has_succeeded = False
        self.airflow.make_run_again()
        self.trace.append("  the run is made again")

    def check_results(self, results: list[tuple[str, str]]) -> None:
        """Check that each body has a project of its own, which was made from it."""
        projects = self.sim.state()["projects"]
        assert [projects[one]["name"] for _, one in results] == [name for name, _ in results], self.trace
        assert len({one for _, one in results}) == len(results), "\n".join(self.trace)

    def check(self) -> None:
        """Check that no body was paid for more often than wanted, allowed by a Clear, or refunded."""
        projects = self.sim.state()["projects"].values()
        paid = Counter(one["name"] for one in projects)
        lost = Counter(one["name"] for one in projects if one["status"] in {"error", "canceled"})
        more = paid - self.person.allowed - lost
        assert not more, "\n".join([f"paid too often: {more}", *self.trace])


@pytest.mark.parametrize("seed", SEEDS)
def test_paid_once(
    seed: int,
    clean: Simulator,
    tmp_path: Path,
    connect: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenario = Scenario(seed, clean, tmp_path, connect)
    rng = scenario.rng
    monkeypatch.setattr(_submit, "MAX_PARALLEL", rng.choice([1, 2, 4]))
    monkeypatch.setattr(_submit_records, "FRESH_SECONDS", -1)  # a try that was lost goes on much later
    if scenario.makes == "deferred":  # although its projects are finished at once
        monkeypatch.setattr(GenerateTask, "_wait", lambda *_: WaitEnd({}))
    for _ in range(rng.randrange(1, MAX_TRIES)):
        scenario.add_faults()
        if rng.random() < 0.2:
            outcome = scenario.try_twice()
        else:
            with clean.offline() if rng.random() < 0.03 else contextlib.nullcontext():
                outcome = scenario.try_once(kill=rng.random() < 0.4, outages=rng.random() < 0.25)
        if rng.random() < 0.6:
            clean.clear_faults()
        scenario.end_projects()
        if not scenario.go_on(outcome):
            return
    scenario.trace.append("  now without faults")
    clean.clear_faults()
    for _ in range(MAX_LAST_TRIES):
        outcome = scenario.try_once(kill=False, outages=False)
        if not isinstance(outcome, BaseException):
            break
        if not scenario.airflow.can_retry:
            scenario.clear()
    assert not isinstance(outcome, BaseException), "\n".join(scenario.trace)

"""One run: put a load on the cluster, inject faults, and check the invariants."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import requests

from airflow_provider_magichour.simulator import Simulator
from scripts.local import LocalAirflow
from scripts.local.processes import ProcessError
from scripts.local.services import Services
from tests.distributed import invariants
from tests.distributed.faults import FAULTS, FaultContext, connect
from tests.distributed.invariants import Accounts, Invariant
from tests.distributed.load import ENDLESS, NOT_SAVED, DagRun, Job, Load, make_elsewhere, plan
from tests.distributed.secret_search import Search, trigger_kwargs

#: Seconds from create to complete, give or take half; long enough that faults strike while projects are made.
RENDERING = 24.0
#: How long a run may take, in seconds.
RUN_TIMEOUT = 900.0


@dataclass
class Cluster:
    """
    What all runs share.

    :param airflow: the cluster, healthy.
    :param services: its database and its broker.
    :param fernet_key: what Airflow encrypts with.
    :param say: prints what happens.
    """

    airflow: LocalAirflow
    services: Services
    fernet_key: str
    say: Callable[[str], None]


@dataclass
class Report:
    """
    The result of a run.

    :param faults: the faults that were injected.
    :param seed: the seed of all random choices.
    :param projects: how many were intended.
    :param seconds: how long it took until the last DAG run ended.
    :param restarts: processes that ended unexpectedly, and were started again.
    :param invariants: what was checked.
    :param secrets: what must be found nowhere.
    """

    faults: Sequence[str]
    seed: int
    projects: int
    seconds: float
    restarts: Sequence[str]
    invariants: list[Invariant]
    secrets: list[str]

    @property
    def holds(self) -> bool:
        """Return whether every invariant holds."""
        return all(invariant.holds for invariant in self.invariants)


def run_chaos(cluster: Cluster, number: int, projects: int, faults: Sequence[str], seed: int) -> Report:
    """Run once and return the report."""
    rng = random.Random(seed)
    load = plan(projects)
    secret = f"whsec_{rng.randbytes(16).hex()}"
    with Simulator(
        api_key=f"mhk_live_{rng.randbytes(18).hex()}",
        credits=10_000_000,
        duration=RENDERING,
        jitter=0.5,
        output_bytes=150_000,
        seed=seed,
    ) as simulator:
        conn_id = f"magichour_chaos_{number}"
        simulator.faults({"match": {"tool": ENDLESS}, "duration": 3600})
        simulator.send_webhooks(f"{cluster.airflow.url}/magichour/webhooks/{conn_id}", secret)
        endless, late = make_elsewhere(simulator, [Job(name, ENDLESS) for name in NOT_SAVED])
        context = FaultContext(
            cluster.airflow, cluster.services, simulator, conn_id, endless, late, rng, cluster.say, secret
        )
        context.keys.append(simulator.api_key)
        connect(context)
        return _ChaosRun(cluster, context, load, faults, seed).run()


class _ChaosRun:
    def __init__(
        self, cluster: Cluster, context: FaultContext, load: Load, faults: Sequence[str], seed: int
    ) -> None:
        self.cluster = cluster
        self.airflow = cluster.airflow
        self.context = context
        self.load = load
        self.faults = faults
        self.seed = seed
        self.media = self.airflow.home / "media"
        self.restarts: list[str] = []
        self.leaked: list[str] = []
        self.cleanups: list[DagRun] = []

    def run(self) -> Report:
        """Inject the faults, wait for all DAG runs, and check the invariants."""
        began = time.monotonic()
        self._start_load()
        self._drive([self._inject(name) for name in self.faults], self._made)
        self.context.simulator.clear_faults()
        webhook_runs = self._webhook_runs()
        self._drive([self._clean_up()], lambda: True)
        seconds = time.monotonic() - began
        return Report(
            self.faults,
            self.seed,
            len(self.load.jobs),
            seconds,
            self.restarts,
            self._check_invariants(webhook_runs),
            [*self.context.keys, self.context.webhook_secret],
        )

    # ---------------------------------------------------------------------------------------- driving the run

    def _start_load(self) -> None:
        conn_id = self.context.conn_id
        make_elsewhere(self.context.simulator, self.load.others)
        for run in self.load.runs:
            conf = {"conn_id": conn_id, "jobs": [job.describe() for job in run.jobs]}
            run.run_id = self.airflow.trigger(run.dag_id, conf)
        self.context.say(f"{len(self.load.jobs)} projects in {len(self.load.runs)} DAG runs, and webhooks")

    def _inject(self, name: str) -> Iterator[float]:
        """Return a fault; where there are several, each starts at its own time."""
        if len(self.faults) > 1:
            yield self.context.rng.uniform(0, 60)
        while len(self._projects()) < len(self.load.jobs) / 5:  # while the load is at work
            yield 0.5
        yield from FAULTS[name](self.context)

    def _drive(self, faults: Sequence[Iterator[float]], done: Callable[[], bool]) -> None:
        """Advance the faults when they are due, and restart what has died, until all is done."""
        due = dict.fromkeys(faults, time.monotonic())
        deadline = time.monotonic() + RUN_TIMEOUT
        while due or not self._is(done):
            if time.monotonic() > deadline:
                self.context.say(f"still not done after {RUN_TIMEOUT:.0f} s")
                for fault in due:
                    fault.close()
                return
            for fault, when in list(due.items()):
                if time.monotonic() >= when:
                    try:
                        due[fault] = time.monotonic() + next(fault)
                    except StopIteration:
                        del due[fault]
            for name in self.airflow.restart_dead():
                self.restarts.append(name)
                self.context.say(f"{name} had died, and was restarted")
            time.sleep(0.3 if due else 2)

    @staticmethod
    def _is(done: Callable[[], bool]) -> bool:
        try:
            return done()
        except (requests.RequestException, ProcessError):
            return False  # the API server is restarting

    def _saved(self) -> dict[str, invariants.Saved]:
        return invariants.saved_projects(self.media, self.context.conn_id)

    def _projects(self) -> dict[str, Any]:
        return dict(self.context.simulator.state()["projects"])

    def _made(self) -> bool:
        """Return whether every DAG run has ended and what others made was saved; search the triggers, too."""
        self._search_triggers()
        for run in [*self.load.runs, *self.context.runs]:
            if run.state not in {"success", "failed"}:
                run.state = self.airflow.run(run.dag_id, run.run_id)["state"]
                if run.state not in {"success", "failed"}:
                    return False
        saved = self._saved()
        names = {project["name"]: one for one, project in self._projects().items()}
        return all(names[job.name] in saved for job in self.load.others) and all(
            run["state"] in {"success", "failed"} for run in self.airflow.runs("chaos_webhooks")
        )

    def _search_triggers(self) -> None:
        """Search the key in the arguments of the triggers that wait now."""
        search = Search([*self.context.keys, self.context.webhook_secret])
        with contextlib.suppress(Exception):  # PostgreSQL may be down
            rows = trigger_kwargs(self.cluster.services.database_url, self.cluster.fernet_key)
            for key, kwargs in rows.items():
                self.leaked += search(f"trigger {key}", kwargs.encode())

    def _webhook_runs(self) -> list[DagRun]:
        return [
            DagRun("chaos_webhooks", run_id=each["dag_run_id"], state=each["state"])
            for each in self.airflow.runs("chaos_webhooks")
        ]

    def _clean_up(self) -> Iterator[float]:
        """Run the clean-up twice: the second must find nothing to do."""
        for _ in range(2):
            run = DagRun("chaos_cleanup", conf={"conn_id": self.context.conn_id})
            run.run_id = self.airflow.trigger(run.dag_id, run.conf)
            self.cleanups.append(run)
            while run.state not in {"success", "failed"}:
                yield 2
                run.state = self.airflow.run(run.dag_id, run.run_id)["state"]

    # ---------------------------------------------------------------------------------------- the invariants

    def _check_invariants(self, webhook_runs: Sequence[DagRun]) -> list[Invariant]:
        simulator = self.context.simulator
        uncertain: set[str] = set()
        for run in self.load.runs:
            uncertain |= invariants.uncertain_jobs(self.airflow, run)
        unreachable: set[str] = set()
        if "offline" in self.faults:
            unreachable = invariants.unreachable_runs(self.airflow, self.context.runs)
        accounts = Accounts(self._projects(), self._saved(), uncertain, unreachable)
        runs = [*self.load.runs, *self.context.runs, *webhook_runs, *self.cleanups]
        cleaned = self.airflow.xcom("chaos_cleanup", self.cleanups[-1].run_id, "cleanup")
        time.sleep(5)  # what is idle is closed
        sockets = invariants.open_sockets(self.airflow, simulator)
        return [
            invariants.expected_states(runs, accounts),
            invariants.paid_once(self.load, accounts),
            invariants.whole_files(self.load, accounts, simulator),
            invariants.deleted_once(self.load, accounts, cleaned),
            invariants.no_orphans(self.media),
            invariants.nothing_leaks(self.airflow, sockets),
            Invariant(
                "no key in a trigger's arguments while it waits", "searched during the whole run", self.leaked
            ),
        ]

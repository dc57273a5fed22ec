"""One round: a load is put on the cluster, a fire is lit, and the promises are looked into."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import requests

from airflow_provider_magichour.simulator import Simulator
from scripts.local_airflow import LocalAirflow
from scripts.processes import ProcessError
from scripts.services import Services
from tests.distributed import promises
from tests.distributed.fires import FIRES, Scene, connect
from tests.distributed.load import ENDLESS, Job, Load, Run, make_elsewhere, plan
from tests.distributed.promises import Accounts, Promise
from tests.distributed.secret_search import Search, trigger_kwargs

#: Seconds from create to complete, give or take half; long enough that fires strike while projects are made.
RENDERING = 24.0
#: How long a round may take, in seconds.
PATIENCE = 900.0


@dataclass
class Cluster:
    """
    What all rounds run on.

    :param airflow: the cluster, healthy.
    :param services: its database and its broker.
    :param fernet_key: what Airflow encrypts with.
    :param say: tells the reader what happens.
    """

    airflow: LocalAirflow
    services: Services
    fernet_key: str
    say: Callable[[str], None]


@dataclass
class Report:
    """
    What came of a round.

    :param fires: the fires that burnt.
    :param seed: what their chances came from.
    :param projects: how many were intended.
    :param seconds: how long it took until the last DAG run ended.
    :param restarts: processes that died by themselves, and were started again.
    :param promises: what was looked into.
    :param secrets: what must be found nowhere.
    """

    fires: Sequence[str]
    seed: int
    projects: int
    seconds: float
    restarts: Sequence[str]
    promises: list[Promise]
    secrets: list[str]

    @property
    def kept(self) -> bool:
        """Tell whether every promise was kept."""
        return all(promise.kept for promise in self.promises)


def burn(cluster: Cluster, number: int, projects: int, fires: Sequence[str], seed: int) -> Report:
    """Run one round and return its report."""
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
        conn_id = f"magichour_round_{number}"
        simulator.faults({"match": {"tool": ENDLESS}, "duration": 3600})
        simulator.send_webhooks(f"{cluster.airflow.url}/magichour/webhooks/{conn_id}", secret)
        (endless,) = make_elsewhere(simulator, [Job("endless", ENDLESS)])
        scene = Scene(
            cluster.airflow, cluster.services, simulator, conn_id, endless, rng, cluster.say, secret
        )
        scene.keys.append(simulator.api_key)
        connect(scene)
        return _Round(cluster, scene, load, fires, seed).run()


class _Round:
    def __init__(self, cluster: Cluster, scene: Scene, load: Load, fires: Sequence[str], seed: int) -> None:
        self.cluster = cluster
        self.airflow = cluster.airflow
        self.scene = scene
        self.load = load
        self.fires = fires
        self.seed = seed
        self.folder = self.airflow.home / "media" / scene.conn_id
        self.restarts: list[str] = []
        self.leaked: list[str] = []
        self.cleanups: list[Run] = []

    def run(self) -> Report:
        """Run it."""
        began = time.monotonic()
        self._start_load()
        self._drive([self._light(name) for name in self.fires], self._made)
        self.scene.simulator.clear_faults()
        webhook_runs = self._webhook_runs()
        self._drive([self._clean_up()], lambda: True)
        seconds = time.monotonic() - began
        return Report(
            self.fires,
            self.seed,
            len(self.load.jobs),
            seconds,
            self.restarts,
            self._look_into(webhook_runs),
            [*self.scene.keys, self.scene.webhook_secret],
        )

    # ------------------------------------------------------------------------------------------ the course

    def _start_load(self) -> None:
        conn_id = self.scene.conn_id
        make_elsewhere(self.scene.simulator, self.load.others)
        for run in self.load.runs:
            conf = {"conn_id": conn_id, "jobs": [job.describe() for job in run.jobs]}
            run.run_id = self.airflow.trigger(run.dag_id, conf)
        self.scene.say(f"{len(self.load.jobs)} projects in {len(self.load.runs)} DAG runs, and webhooks")

    def _light(self, name: str) -> Iterator[float]:
        """Give a fire; where there are several, each starts at its own time."""
        if len(self.fires) > 1:
            yield self.scene.rng.uniform(0, 60)
        while len(self._projects()) < len(self.load.jobs) / 5:  # in the thick of it
            yield 0.5
        yield from FIRES[name](self.scene)

    def _drive(self, acts: Sequence[Iterator[float]], done: Callable[[], bool]) -> None:
        """Let the acts act when they want to, and start again what has died, until all is done."""
        acting = dict.fromkeys(acts, time.monotonic())
        deadline = time.monotonic() + PATIENCE
        while acting or not self._is(done):
            if time.monotonic() > deadline:
                self.scene.say(f"still not done after {PATIENCE:.0f} s")
                for act in acting:
                    act.close()
                return
            for act, due in list(acting.items()):
                if time.monotonic() >= due:
                    try:
                        acting[act] = time.monotonic() + next(act)
                    except StopIteration:
                        del acting[act]
            for name in self.airflow.restart_dead():
                self.restarts.append(name)
                self.scene.say(f"{name} had died, and was started again")
            time.sleep(0.3 if acting else 2)

    @staticmethod
    def _is(done: Callable[[], bool]) -> bool:
        try:
            return done()
        except (requests.RequestException, ProcessError):
            return False  # the API server is on its way back

    def _projects(self) -> dict[str, Any]:
        return dict(self.scene.simulator.state()["projects"])

    def _made(self) -> bool:
        """Tell whether every DAG run has ended and what others made was saved; search the triggers, too."""
        self._search_triggers()
        for run in [*self.load.runs, *self.scene.runs]:
            if run.state not in {"success", "failed"}:
                run.state = self.airflow.run(run.dag_id, run.run_id)["state"]
                if run.state not in {"success", "failed"}:
                    return False
        saved = promises.saved_projects(self.folder)
        names = {project["name"]: one for one, project in self._projects().items()}
        return all(names[job.name] in saved for job in self.load.others) and all(
            run["state"] in {"success", "failed"} for run in self.airflow.runs("fire_webhooks")
        )

    def _search_triggers(self) -> None:
        """Look for the key in the arguments of the triggers that wait now."""
        search = Search([*self.scene.keys, self.scene.webhook_secret])
        with contextlib.suppress(Exception):  # PostgreSQL may be away
            rows = trigger_kwargs(self.cluster.services.database_url, self.cluster.fernet_key)
            for key, kwargs in rows.items():
                self.leaked += search(f"trigger {key}", kwargs.encode())

    def _webhook_runs(self) -> list[Run]:
        return [
            Run("fire_webhooks", run_id=each["dag_run_id"], state=each["state"])
            for each in self.airflow.runs("fire_webhooks")
        ]

    def _clean_up(self) -> Iterator[float]:
        """Run the clean-up twice: the second must find nothing to do."""
        for _ in range(2):
            run = Run("fire_cleanup", conf={"conn_id": self.scene.conn_id})
            run.run_id = self.airflow.trigger(run.dag_id, run.conf)
            self.cleanups.append(run)
            while run.state not in {"success", "failed"}:
                yield 2
                run.state = self.airflow.run(run.dag_id, run.run_id)["state"]

    # ---------------------------------------------------------------------------------------- the promises

    def _look_into(self, webhook_runs: Sequence[Run]) -> list[Promise]:
        simulator = self.scene.simulator
        uncertain: set[str] = set()
        for run in self.load.runs:
            uncertain |= promises.uncertain_jobs(self.airflow, run)
        accounts = Accounts(self._projects(), promises.saved_projects(self.folder), uncertain)
        runs = [*self.load.runs, *self.scene.runs, *webhook_runs, *self.cleanups]
        cleaned = self.airflow.xcom("fire_cleanup", self.cleanups[-1].run_id, "cleanup")
        time.sleep(5)  # what is idle is closed
        sockets = promises.open_sockets(self.airflow, simulator)
        return [
            promises.right_ends(runs, accounts),
            promises.paid_once(self.load, accounts),
            promises.whole_files(self.load, accounts, simulator),
            promises.deleted_once(self.load, accounts, cleaned),
            promises.no_orphans(self.folder),
            promises.nothing_leaks(self.airflow, sockets),
            Promise("no key in a trigger's arguments while it waits", "searched all the while", self.leaked),
        ]

"""What is done to the cluster while it works: generators that act, and yield seconds to rest."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_magichour.simulator import Simulator
from scripts.local_airflow import LocalAirflow
from scripts.services import Services
from tests.distributed.load import Run

#: A tenth of all calls goes wrong, in every way that a server and a network know.
TROUBLE: tuple[Mapping[str, Any], ...] = (
    {"probability": 0.02, "status": 500},
    {"probability": 0.02, "status": 503, "html": True},
    {"probability": 0.02, "status": 429, "headers": {"Retry-After": "1"}},
    {"probability": 0.02, "drop": "before"},
    {"probability": 0.02, "drop": "after"},
)
#: A tenth of all downloads breaks off.
TRUNCATED: Mapping[str, Any] = {"match": {"route": "download"}, "probability": 0.1, "drop_after_percent": 60}

#: How long Magic Hour is away, in seconds.
OUTAGE = 60.0


@dataclass
class Scene:
    """
    Where the fires burn.

    :param airflow: the cluster.
    :param services: its database and its broker.
    :param simulator: Magic Hour.
    :param conn_id: the Airflow connection to it.
    :param endless: a project that is never finished.
    :param rng: decides what is left to chance.
    :param say: tells the reader what happens.
    """

    airflow: LocalAirflow
    services: Services
    simulator: Simulator
    conn_id: str
    endless: str
    rng: random.Random
    say: Callable[[str], None]
    #: Signs Magic Hour's webhooks.
    webhook_secret: str = ""
    #: Whether the Airflow connection was made.
    connected: bool = False
    #: Every API key there was.
    keys: list[str] = field(default_factory=list)
    #: DAG runs that a fire started.
    runs: list[Run] = field(default_factory=list)

    def processes(self, name: str) -> list[str]:
        """Return the components of a name: ``worker``, ``worker-2``..."""
        return [each for each in self.airflow.components if each == name or each.startswith(f"{name}-")]

    def kill(self, *names: str) -> None:
        """Kill components, which stay away until :meth:`bring_back`."""
        for name in names:
            if self.airflow.processes.is_running(name):
                self.airflow.kill(name)
        self.say(f"killed {' and '.join(names)}")

    def bring_back(self, *names: str) -> None:
        """Start killed components again."""
        for name in names:
            if not self.airflow.processes.is_running(name):
                self.airflow.start(name)
        self.say(f"started {' and '.join(names)} again")


Fire = Callable[[Scene], Iterator[float]]


def kill_workers(scene: Scene) -> Iterator[float]:
    """SIGKILL of a worker with all its tasks, twice."""
    for _ in range(2):
        yield scene.rng.uniform(4, 25)
        name = scene.rng.choice(scene.processes("worker"))
        scene.kill(name)
        yield scene.rng.uniform(1, 10)
        scene.bring_back(name)


def kill_triggerers(scene: Scene) -> Iterator[float]:
    """SIGKILL of a triggerer, twice."""
    for _ in range(2):
        yield scene.rng.uniform(4, 25)
        name = scene.rng.choice(scene.processes("triggerer"))
        scene.kill(name)
        yield scene.rng.uniform(1, 10)
        scene.bring_back(name)


def kill_scheduler(scene: Scene) -> Iterator[float]:
    """SIGKILL of the scheduler."""
    yield scene.rng.uniform(4, 30)
    scene.kill("scheduler")
    yield scene.rng.uniform(1, 10)
    scene.bring_back("scheduler")


def make_trouble(scene: Scene) -> Iterator[float]:
    """A tenth of the calls answered by errors, resets or nothing, and a tenth of the downloads cut."""
    scene.simulator.faults(TRUNCATED, *TROUBLE, seed=scene.rng.randrange(2**32))
    scene.say("a tenth of the calls goes wrong from now on")
    yield 0


def take_offline(scene: Scene) -> Iterator[float]:
    """Nothing listens at Magic Hour for a minute."""
    yield scene.rng.uniform(4, 20)
    with scene.simulator.offline():
        scene.say(f"Magic Hour is unreachable for {OUTAGE:.0f} s")
        yield OUTAGE
    scene.say("Magic Hour is back")


def restart_postgresql(scene: Scene) -> Iterator[float]:
    """PostgreSQL dies without a word, and recovers."""
    yield scene.rng.uniform(4, 30)
    if not scene.services.can_restart:
        scene.say("PostgreSQL is not ours to restart: left out")
        return
    scene.services.restart_postgresql()
    scene.say("PostgreSQL was restarted")


def replace_key(scene: Scene) -> Iterator[float]:
    """Airflow gets a new API key, and the old one is revoked at once."""
    yield scene.rng.uniform(4, 30)
    old, new = scene.simulator.api_key, f"mhk_live_{scene.rng.randbytes(18).hex()}"
    scene.simulator.add_api_key(new)
    scene.keys.append(new)
    connect(scene)
    scene.simulator.revoke_api_key(old)
    scene.say("the API key was replaced and the old one revoked")


def cross_a_deadline(scene: Scene) -> Iterator[float]:
    """A sensor's time runs out while no triggerer is there to notice."""
    conf = {"conn_id": scene.conn_id, "project_id": scene.endless}
    run = Run("fire_deadline", conf=conf, right_end="failed")
    run.run_id = scene.airflow.trigger(run.dag_id, run.conf)
    scene.runs.append(run)
    started = time.monotonic()
    while not deferred(scene.airflow, run) and time.monotonic() < started + 120:
        yield 1
    triggerers = scene.processes("triggerer")
    scene.kill(*triggerers)
    yield 45  # the sensor has 40 s
    scene.bring_back(*triggerers)


def deferred(airflow: LocalAirflow, run: Run) -> bool:
    """Tell whether a run's sensor waits in a trigger."""
    with contextlib.suppress(Exception):
        return bool(airflow.task_instance(run.dag_id, run.run_id, "wait")["state"] == "deferred")
    return False


def connect(scene: Scene) -> None:
    """Write the connection to Magic Hour, with its key of now, into Airflow's database."""
    connection = {
        "connection_id": scene.conn_id,
        "conn_type": "magichour",
        "host": scene.simulator.url,
        "password": scene.simulator.api_key,
        "extra": json.dumps({"webhook_secret": scene.webhook_secret}),
    }
    method, path = ("PATCH", f"/connections/{scene.conn_id}") if scene.connected else ("POST", "/connections")
    scene.airflow.api(method, path, json=connection)
    scene.connected = True


#: Each fire by its name.
FIRES: Mapping[str, Fire] = {
    "worker": kill_workers,
    "triggerer": kill_triggerers,
    "scheduler": kill_scheduler,
    "trouble": make_trouble,
    "offline": take_offline,
    "postgresql": restart_postgresql,
    "key": replace_key,
    "deadline": cross_a_deadline,
}

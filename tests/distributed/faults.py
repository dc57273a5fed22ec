"""The faults that are injected into the cluster: generators that yield the seconds until their next step."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_magichour.simulator import Simulator
from scripts.local import LocalAirflow
from scripts.local.services import Services
from tests.distributed.load import DagRun

#: A tenth of all calls fails: server errors, rate limits, dropped connections.
ERRORS: tuple[Mapping[str, Any], ...] = (
    {"probability": 0.02, "status": 500},
    {"probability": 0.02, "status": 503, "html": True},
    {"probability": 0.02, "status": 429, "headers": {"Retry-After": "1"}},
    {"probability": 0.02, "drop": "before"},
    {"probability": 0.02, "drop": "after"},
)
#: A tenth of all downloads breaks off.
TRUNCATED: Mapping[str, Any] = {"match": {"route": "download"}, "probability": 0.1, "drop_after_percent": 60}

#: How long Magic Hour is unreachable, in seconds.
OUTAGE = 60.0


@dataclass
class FaultContext:
    """
    The cluster in which the faults happen.

    :param airflow: the cluster.
    :param services: its database and its broker.
    :param simulator: Magic Hour.
    :param conn_id: the Airflow connection to it.
    :param endless: a project that is never finished.
    :param late: a project that is finished while no triggerer runs.
    :param rng: the source of all random choices.
    :param say: prints what happens.
    """

    airflow: LocalAirflow
    services: Services
    simulator: Simulator
    conn_id: str
    endless: str
    late: str
    rng: random.Random
    say: Callable[[str], None]
    #: Signs Magic Hour's webhooks.
    webhook_secret: str = ""
    #: Whether the Airflow connection was made.
    connected: bool = False
    #: Every API key there was.
    keys: list[str] = field(default_factory=list)
    #: DAG runs that a fault started.
    runs: list[DagRun] = field(default_factory=list)

    def processes(self, name: str) -> list[str]:
        """Return the components of a name: ``worker``, ``worker-2``..."""
        return [each for each in self.airflow.components if each == name or each.startswith(f"{name}-")]

    def kill(self, *names: str) -> None:
        """Kill components, which stay down until :meth:`bring_back`."""
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


Fault = Callable[[FaultContext], Iterator[float]]


def kill_workers(context: FaultContext) -> Iterator[float]:
    """SIGKILL of a worker with all its tasks, twice."""
    for _ in range(2):
        yield context.rng.uniform(4, 25)
        name = context.rng.choice(context.processes("worker"))
        context.kill(name)
        yield context.rng.uniform(1, 10)
        context.bring_back(name)


def kill_triggerers(context: FaultContext) -> Iterator[float]:
    """SIGKILL of a triggerer, twice."""
    for _ in range(2):
        yield context.rng.uniform(4, 25)
        name = context.rng.choice(context.processes("triggerer"))
        context.kill(name)
        yield context.rng.uniform(1, 10)
        context.bring_back(name)


def kill_scheduler(context: FaultContext) -> Iterator[float]:
    """SIGKILL of the scheduler."""
    yield context.rng.uniform(4, 30)
    context.kill("scheduler")
    yield context.rng.uniform(1, 10)
    context.bring_back("scheduler")


def inject_errors(context: FaultContext) -> Iterator[float]:
    """A tenth of the calls get errors, resets or no response, and a tenth of the downloads are cut."""
    context.simulator.faults(TRUNCATED, *ERRORS, seed=context.rng.randrange(2**32))
    context.say("a tenth of the calls fails from now on")
    yield 0


def take_offline(context: FaultContext) -> Iterator[float]:
    """Nothing listens at Magic Hour for a minute."""
    yield context.rng.uniform(4, 20)
    with context.simulator.offline():
        context.say(f"Magic Hour is unreachable for {OUTAGE:.0f} s")
        yield OUTAGE
    context.say("Magic Hour is back")


def restart_postgresql(context: FaultContext) -> Iterator[float]:
    """PostgreSQL crashes and recovers."""
    yield context.rng.uniform(4, 30)
    if not context.services.can_restart:
        context.say("PostgreSQL cannot be restarted here: left out")
        return
    context.services.restart_postgresql()
    context.say("PostgreSQL was restarted")


def replace_key(context: FaultContext) -> Iterator[float]:
    """Airflow gets a new API key, and the old one is revoked at once."""
    yield context.rng.uniform(4, 30)
    old, new = context.simulator.api_key, f"mhk_live_{context.rng.randbytes(18).hex()}"
    context.simulator.add_api_key(new)
    context.keys.append(new)
    connect(context)
    context.simulator.revoke_api_key(old)
    context.say("the API key was replaced and the old one revoked")


def pass_deadline(context: FaultContext) -> Iterator[float]:
    """Two sensors reach their deadline while no triggerer runs; what is complete by then is no timeout."""
    runs = [
        DagRun("chaos_deadline", conf={"conn_id": context.conn_id, "project_id": project}, expected_state=end)
        for project, end in ((context.endless, "failed"), (context.late, "success"))
    ]
    for run in runs:
        run.run_id = context.airflow.trigger(run.dag_id, run.conf)
        context.runs.append(run)
    started = time.monotonic()
    while not all(deferred(context.airflow, run) for run in runs) and time.monotonic() < started + 120:
        yield 1
    triggerers = context.processes("triggerer")
    context.kill(*triggerers)
    context.simulator.end_project(context.late)
    yield 45  # the sensor has 40 s
    context.bring_back(*triggerers)


def deferred(airflow: LocalAirflow, run: DagRun) -> bool:
    """Return whether the sensor of a DAG run is deferred."""
    with contextlib.suppress(Exception):
        return bool(airflow.task_instance(run.dag_id, run.run_id, "wait")["state"] == "deferred")
    return False


def connect(context: FaultContext) -> None:
    """Write the connection to Magic Hour, with its key of now, into Airflow's database."""
    connection = {
        "connection_id": context.conn_id,
        "conn_type": "magichour",
        "host": context.simulator.url,
        "password": context.simulator.api_key,
        "extra": json.dumps({"webhook_secret": context.webhook_secret}),
    }
    method, path = (
        ("PATCH", f"/connections/{context.conn_id}") if context.connected else ("POST", "/connections")
    )
    context.airflow.api(method, path, json=connection)
    context.connected = True


#: Each fault by its name.
FAULTS: Mapping[str, Fault] = {
    "worker": kill_workers,
    "triggerer": kill_triggerers,
    "scheduler": kill_scheduler,
    "errors": inject_errors,
    "offline": take_offline,
    "postgresql": restart_postgresql,
    "key": replace_key,
    "deadline": pass_deadline,
}

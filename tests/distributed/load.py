"""The load of one run: which projects are made by which DAG runs, and the state in which those must end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import requests

from airflow_provider_magichour.simulator import Simulator
from airflow_provider_magichour.tools import TOOLS

#: A tool of each kind, with the body of its create call.
BODIES: Mapping[str, Mapping[str, Any]] = {
    "ai-image-generator": {"image_count": 1, "style": {"prompt": "a lighthouse"}},
    "text-to-video": {"end_seconds": 1, "style": {"prompt": "a lighthouse"}},
    "ai-voice-generator": {"style": {"prompt": "a lighthouse", "voice_name": "Elon Musk"}},
    "ai-meme-generator": {"style": {"topic": "a lighthouse", "template": "Random"}},
}
IMAGE, VIDEO, AUDIO, ENDLESS = BODIES
#: Projects that a sensor waits for and nothing saves: one is never finished, one while no triggerer runs.
NOT_SAVED = ("endless", "late")

#: The share of a run's projects that each way of making them has.
SHARES: Mapping[str, float] = {
    "chaos_mapped": 0.12,
    "chaos_list": 0.5,
    "chaos_steps_deferred": 0.15,
    "chaos_steps_rescheduled": 0.15,
    "others": 0.08,
}


@dataclass(frozen=True)
class Job:
    """
    One project that is intended.

    :param name: distinguishes it from all others, at Magic Hour too.
    :param tool: what makes it.
    """

    name: str
    tool: str

    @property
    def body(self) -> dict[str, Any]:
        """Return the body of its create call."""
        return {"name": self.name, **BODIES[self.tool]}

    def describe(self) -> dict[str, Any]:
        """Return it as the conf of a DAG run has it."""
        return {"tool": self.tool, "kind": TOOLS[self.tool].kind, "body": self.body}


@dataclass
class DagRun:
    """
    A DAG run and what it is for.

    :param dag_id: its DAG.
    :param jobs: the projects that it makes, in their order.
    :param conf: the rest of its conf.
    :param expected_state: the state that it must end in, where that does not depend on uncertain submits.
    """

    dag_id: str
    jobs: Sequence[Job] = ()
    conf: Mapping[str, Any] = field(default_factory=dict)
    expected_state: Literal["success", "failed"] = "success"
    run_id: str = ""
    state: str = ""

    @property
    def goes_on(self) -> bool:
        """Return whether it continues with what was made, where a submit is uncertain."""
        return self.dag_id.startswith("chaos_steps")

    @property
    def mapped(self) -> bool:
        """Return whether each of its jobs has its own task."""
        return self.dag_id == "chaos_mapped"


@dataclass
class Load:
    """
    The load of one run.

    :param runs: the DAG runs that make projects.
    :param others: projects that somebody else makes, which webhooks announce.
    """

    runs: list[DagRun]
    others: list[Job]

    @property
    def jobs(self) -> list[Job]:
        """Return every intended project."""
        return [job for run in self.runs for job in run.jobs] + self.others


def plan(projects: int) -> Load:
    """Share a number of projects out among the ways of making them."""
    counts = {way: round(projects * share) for way, share in SHARES.items()}
    counts["chaos_list"] += projects - sum(counts.values())
    tools = (IMAGE, VIDEO, AUDIO)
    mapped = [Job(f"mapped {number}", tools[number % 3]) for number in range(counts["chaos_mapped"])]
    lists = [
        [Job(f"list {tool} {number}", tool) for number in range(position, counts["chaos_list"], 3)]
        for position, tool in enumerate(tools)
    ]
    runs = [DagRun("chaos_mapped", mapped), *(DagRun("chaos_list", jobs) for jobs in lists)]
    for dag_id, tool in (("chaos_steps_deferred", VIDEO), ("chaos_steps_rescheduled", IMAGE)):
        runs.append(DagRun(dag_id, [Job(f"{dag_id} {number}", tool) for number in range(counts[dag_id])]))
    return Load(runs, [Job(f"others {number}", AUDIO) for number in range(counts["others"])])


def make_elsewhere(simulator: Simulator, jobs: Sequence[Job]) -> list[str]:
    """Make projects as somebody in the web app would, past this Airflow, and return their ids."""
    made = []
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {simulator.api_key}"
        for job in jobs:
            response = session.post(f"{simulator.url}/v1/{job.tool}", json=job.body, timeout=30)
            response.raise_for_status()
            made.append(str(response.json()["id"]))
    return made

"""Deferred tasks that wait for thousands of projects of the load server, and a probe of the triggerer."""

from __future__ import annotations

import random
from typing import Any

from airflow.providers.common.compat.sdk import BaseOperator
from airflow.sdk import dag, task

from airflow_provider_magichour.sensors import MagicHourProjectSensor
from benchmarks.load_server import project_id
from benchmarks.probe import LagProbe


class ProbeOperator(BaseOperator):
    """Measure the triggerer for a while."""

    def execute(self, context: Any) -> None:
        conf = context["dag_run"].conf
        if not conf.get("probe"):
            return
        trigger = LagProbe(conf["probe"], conf["probe_file"])
        self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(self, context: Any, event: Any = None) -> Any:
        return event


@dag(schedule=None)
def magichour_waits() -> None:
    @task
    def make(dag_run: Any = None) -> list[list[str]]:
        """Make the projects: ids tell the load server when each is complete."""
        conf = dag_run.conf
        return [
            [
                project_id(f"{number}x{position}", random.uniform(conf["shortest"], conf["longest"]))
                for position in range(conf["each"])
            ]
            for number in range(conf["tasks"])
        ]

    ProbeOperator(task_id="probe")
    MagicHourProjectSensor.partial(
        task_id="wait", kind="video", deferrable=True, return_projects=False, timeout=1800
    ).expand(project_id=make())


magichour_waits()

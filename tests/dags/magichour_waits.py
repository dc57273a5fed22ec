"""Sensors in every mode, and many waits at once."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_magichour.sensors import MagicHourProjectSensor


@dag(schedule=None)
def magichour_modes() -> None:
    for name, how in {
        "poke": {"mode": "poke", "deferrable": False},
        # Airflow may fail a task that is started again every second (apache/airflow#72716)
        "reschedule": {"mode": "reschedule", "deferrable": False, "poll_interval": 5, "retries": 2},
        "deferred": {"deferrable": True},
    }.items():
        MagicHourProjectSensor(
            task_id=name,
            project_id="{{ dag_run.conf['ids'] }}",
            kind="{{ dag_run.conf['kind'] }}",
            magichour_conn_id="{{ dag_run.conf['conn_id'] }}",
            timeout=300,
            **{"poll_interval": 0.5, **how},  # type: ignore[arg-type]
        )


@dag(schedule=None, render_template_as_native_obj=True)
def magichour_many_waits() -> None:
    @task
    def batches(dag_run: Any = None) -> Any:
        return dag_run.conf["batches"]

    @task
    def count(found: Any) -> int:
        return sum(len(each) for each in found)

    waits = MagicHourProjectSensor.partial(
        task_id="wait",
        kind="video",
        magichour_conn_id="magichour_load",
        deferrable=True,
        return_projects=False,
        timeout=600,
    ).expand(project_id=batches())
    count(waits.output)


magichour_modes()
magichour_many_waits()

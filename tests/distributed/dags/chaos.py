"""
The DAGs of ``make test-distributed``; ``tests/distributed/load.py`` starts them.

The conf of each run names the connection, whose files go into its own folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, dag, task

from airflow_provider_magichour.operators import (
    MagicHourCleanupOperator,
    MagicHourCreateProjectOperator,
    MagicHourDeleteProjectOperator,
    MagicHourDownloadOperator,
    MagicHourGenerateOperator,
)
from airflow_provider_magichour.sensors import MagicHourProjectSensor
from airflow_provider_magichour.webhooks import magichour_asset, triggering_projects

FOLDER = f"file://{os.environ.get('MAGICHOUR_CHAOS_FOLDER', '/nowhere')}"
WHERE: Mapping[str, Any] = {
    "magichour_conn_id": "{{ dag_run.conf.conn_id }}",
    "destination": FOLDER + "/{{ dag_run.conf.conn_id }}",
}
CONNECTION: Mapping[str, Any] = {"magichour_conn_id": WHERE["magichour_conn_id"]}

#: Enough to outlast a minute without Magic Hour and a worker that is lost.
RETRIES: Mapping[str, Any] = {
    "retries": 8,
    "retry_delay": timedelta(seconds=4),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(seconds=30),
}


def chaos_dag(**options: Any) -> Any:
    """Make a DAG that runs as often as it is asked to."""
    return dag(
        schedule=None,
        catchup=False,
        max_active_runs=16,
        default_args=RETRIES,
        render_template_as_native_obj=True,
        **options,
    )


@chaos_dag()
def chaos_mapped() -> None:
    """A task for each project."""

    @task
    def jobs(dag_run: Any = None) -> Any:
        return [{"tool": job["tool"], "body": job["body"]} for job in dag_run.conf["jobs"]]

    MagicHourGenerateOperator.partial(
        task_id="make", deferrable=True, max_active_tis_per_dagrun=12, **WHERE
    ).expand_kwargs(jobs())


@chaos_dag()
def chaos_list() -> None:
    """A task for many projects."""
    MagicHourGenerateOperator(
        task_id="make",
        tool="{{ dag_run.conf.jobs[0].tool }}",
        body="{{ dag_run.conf.jobs | map(attribute='body') | list }}",  # type: ignore[arg-type]
        deferrable=True,
        **WHERE,
    )


def chaos_steps(name: str, how: Mapping[str, Any]) -> None:
    """Make a DAG with a task for each step, which continues with what was made."""

    @chaos_dag(dag_id=name)
    def steps() -> None:
        kind = "{{ dag_run.conf.jobs[0].kind }}"
        make = MagicHourCreateProjectOperator(
            task_id="make",
            tool="{{ dag_run.conf.jobs[0].tool }}",
            body="{{ dag_run.conf.jobs | map(attribute='body') | list }}",  # type: ignore[arg-type]
            **CONNECTION,
        )

        @task(trigger_rule="all_done")
        def made(ti: Any = None) -> Any:
            projects = ti.xcom_pull(task_ids="make") or ti.xcom_pull(task_ids="make", key="results")
            return [project["id"] for project in projects if project]  # None if the submit failed

        ids: Any = made()
        wait = MagicHourProjectSensor(
            task_id="wait", project_id=ids, kind=kind, return_projects=False, timeout=900, **CONNECTION, **how
        )
        download = MagicHourDownloadOperator(task_id="download", project_id=ids, kind=kind, **WHERE)
        delete = MagicHourDeleteProjectOperator(task_id="delete", project_id=ids, kind=kind, **CONNECTION)
        make >> ids
        wait >> download >> delete

    steps()


chaos_steps("chaos_steps_deferred", {"deferrable": True})
chaos_steps("chaos_steps_rescheduled", {"deferrable": False, "mode": "reschedule", "poll_interval": 10})


AUDIO = magichour_asset("audio")


@dag(
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("* * * * *", timezone="UTC"), assets=AUDIO),
    catchup=False,
    max_active_runs=1,
    default_args=RETRIES,
)
def chaos_webhooks() -> None:
    """Saves what others made, as webhooks name it."""

    @task(inlets=[AUDIO])
    def completed(**context: Any) -> list[dict[str, str]]:
        names = {
            event.extra["id"]: event.extra["project"]["name"] for event in context["inlet_events"][AUDIO]
        }
        return [
            {
                "project_id": project["id"],
                "magichour_conn_id": project["magichour_conn_id"],
                "destination": f"{FOLDER}/{project['magichour_conn_id']}",
            }
            for project in triggering_projects(context, "completed")
            if names[project["id"]].startswith("others ")
        ]

    MagicHourDownloadOperator.partial(task_id="save", kind="audio", index=FOLDER).expand_kwargs(completed())


@chaos_dag()
def chaos_cleanup() -> None:
    """Deletes what was saved."""
    MagicHourCleanupOperator(task_id="cleanup", older_than=timedelta(0), **WHERE)


@chaos_dag()
def chaos_deadline() -> None:
    """Waits for what is not finished in time."""
    MagicHourProjectSensor(
        task_id="wait",
        project_id="{{ dag_run.conf.project_id }}",
        kind="image",
        timeout=40,
        deferrable=True,
        defer_after=0,
        retries=2,  # its worker may be killed; a timeout is final
        **CONNECTION,
    )


chaos_mapped()
chaos_list()
chaos_webhooks()
chaos_cleanup()
chaos_deadline()

"""
Save all projects that are completed at Magic Hour, whether a DAG, another team or the web app created them.

| Step | What it does |
|---|---|
| `completed` | lists the projects whose webhooks came since the last successful run |
| `download` | saves, verifies and records their files, so that a clean-up can delete them later |

A webhook starts a run at once. The DAG also runs every hour. If a webhook started no run, because Airflow
restarted at that moment, it waits for an hour at most.

**What you need:** Airflow 3.2 or newer (on 3.3 no project is listed twice), a connection `magichour_default`
with your API key as its password, and the receiver of `docs/webhooks.md`, which gets the `completed` events
from Magic Hour. The variable `magichour_destination` is the destination of the files.

**What it costs:** nothing.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, dag, task

from airflow_provider_magichour.operators import MagicHourDownloadOperator
from airflow_provider_magichour.webhooks import magichour_asset, triggering_projects

# A folder, or s3://bucket/path, gs://bucket/path... Webhooks start the runs, so set the Airflow variable
# instead of a parameter.
DESTINATION = "{{ var.value.get('magichour_destination', 'file:///tmp/magichour') }}"

# For all connections. magichour_asset("video", conn_id="team_a") is for one.
IMAGE, VIDEO, AUDIO = magichour_asset("image"), magichour_asset("video"), magichour_asset("audio")


@dag(
    # It runs when a project of any kind is completed, and every hour.
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("17 * * * *", timezone="UTC"), assets=IMAGE | VIDEO | AUDIO
    ),
    max_active_runs=1,  # each run starts where the previous one ended
    default_args={"retries": 2},
    description="Save all completed projects, started by Magic Hour's webhooks",
    doc_md=__doc__,
    tags=["magichour", "example"],
)
def magichour_on_completed() -> None:
    """Download each project that was completed."""

    @task(inlets=[IMAGE, VIDEO, AUDIO])  # reads the events since the last successful run
    def completed(**context: Any) -> list[dict[str, Any]]:
        ids: dict[tuple[str, str], list[str]] = defaultdict(list)
        for project in triggering_projects(context, "completed"):
            ids[project["kind"], project["magichour_conn_id"]].append(project["id"])
        return [
            {"kind": kind, "magichour_conn_id": conn_id, "project_id": listed}
            for (kind, conn_id), listed in ids.items()
        ]

    # One task for each kind and account, however many projects there are.
    MagicHourDownloadOperator.partial(task_id="download", destination=DESTINATION).expand_kwargs(completed())


magichour_on_completed()

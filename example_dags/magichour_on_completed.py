"""
Save whatever is completed at Magic Hour, however it was made: by a DAG, another team, or in the web app.

| step | what it does |
|---|---|
| `completed` | lists the projects whose webhooks came since the last successful run |
| `download` | saves, verifies and records their files, so that a clean-up may delete them later |

A webhook starts a run at once. The DAG also runs every hour, so that a webhook that started no run, which
happens where Airflow was restarted at that moment, waits for an hour at most.

**What you need:** Airflow 3.2 or newer (on 3.3 no project is listed twice), a connection `magichour_default`
with your API key as its password, and the receiver of `docs/webhooks.md`, to which Magic Hour sends its
`completed` events. The variable `magichour_destination` says where the files go.

**What it costs:** nothing.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, dag, task

from airflow_provider_magichour.operators import MagicHourDownloadOperator
from airflow_provider_magichour.webhooks import magichour_asset, triggering_projects

# A folder, or s3://bucket/path, gs://bucket/path... Nobody starts these runs, so nobody fills in a parameter:
# set the Airflow variable instead.
DESTINATION = "{{ var.value.get('magichour_destination', 'file:///tmp/magichour') }}"

# Of any connection; magichour_asset("video", conn_id="team_a") is of one.
IMAGE, VIDEO, AUDIO = magichour_asset("image"), magichour_asset("video"), magichour_asset("audio")


@dag(
    # It runs when a project of any kind is completed, and every hour.
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("17 * * * *", timezone="UTC"), assets=IMAGE | VIDEO | AUDIO
    ),
    max_active_runs=1,  # a run lists what the one before it left
    default_args={"retries": 2},
    description="Save whatever Magic Hour completes, started by its webhooks",
    doc_md=__doc__,
    tags=["magichour", "example"],
)
def magichour_on_completed() -> None:
    """Download each project that was completed."""

    @task(inlets=[IMAGE, VIDEO, AUDIO])  # whose events are read since the last successful run
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

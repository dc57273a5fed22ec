"""
Save whatever is completed at Magic Hour, however it was made: by a DAG, another team, or in the web app.

| step | what it does |
|---|---|
| `completed` | lists the projects whose webhooks started this run |
| `download` | saves and verifies the files of each, with a receipt, so that a clean-up may delete it later |

**What you need:** Airflow 3.3 or newer, a connection `magichour_default` with your API key as its password
and a webhook secret, and a webhook at Magic Hour that sends its `completed` events to
`https://<your Airflow>/magichour/webhooks/magichour_default`. See `docs/webhooks.md`. The variable
`magichour_destination` says where the files go.

**What it costs:** nothing.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import dag, task

from airflow_provider_magichour.operators import MagicHourDownloadOperator
from airflow_provider_magichour.webhooks import magichour_asset, triggering_projects

# A folder, or s3://bucket/path, gs://bucket/path... Nobody starts these runs, so nobody fills in a parameter:
# set the Airflow variable instead.
DESTINATION = "{{ var.value.get('magichour_destination', 'file:///tmp/magichour') }}"


@dag(
    # It runs when a project of any kind is completed.
    schedule=magichour_asset("image") | magichour_asset("video") | magichour_asset("audio"),
    description="Save whatever Magic Hour completes, started by its webhooks",
    doc_md=__doc__,
    tags=["magichour", "example"],
)
def magichour_on_completed() -> None:
    """Download each project that was completed."""

    @task
    def completed(triggering_asset_events: Any = None) -> list[dict[str, str]]:
        # Several webhooks can start one run. Their download URLs may have expired by now, so `download`
        # asks for fresh ones by the id.
        return [
            {
                "kind": project["kind"],
                "project_id": project["id"],
                "magichour_conn_id": project["magichour_conn_id"],  # the account that it belongs to
            }
            for project in triggering_projects(triggering_asset_events, "completed")
        ]

    # One task for each project: they run side by side, and fail and retry apart.
    MagicHourDownloadOperator.partial(task_id="download", destination=DESTINATION, retries=3).expand_kwargs(
        completed()
    )


magichour_on_completed()

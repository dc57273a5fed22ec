"""
Delete old projects at Magic Hour, every day.

Each project that this provider downloads gets an entry in a catalogue beside the files. This DAG reads these
entries. It deletes a project only if it was downloaded more than `retention_days` ago, and if its files are
still complete. If it keeps a project that is due, the log says why.

The first run is a dry run: it deletes nothing, and logs what it would delete. Read the log, and then set
`dry_run` to false here, or when you trigger the DAG.

**What you need:** a connection `magichour_default` of type *Magic Hour*, with your API key as its password.
Set the Airflow variable `magichour_destination` to the destination of your downloads, such as
`s3://aws_default@bucket/media`. Without it, the DAG uses the folder of the other examples, `/tmp/magichour`.

**What it costs:** nothing. Deleting cannot be undone; your downloaded files stay.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import Param, dag

from airflow_provider_magichour.operators import MagicHourCleanupOperator

# The schedule starts the runs, so set the Airflow variable instead of a parameter.
DESTINATION = "var.value.get('magichour_destination', 'file:///tmp/magichour')"


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # do not run for the days before you switched it on
    max_active_runs=1,
    description="Delete old projects at Magic Hour whose files are saved",
    doc_md=__doc__,
    tags=["magichour", "example"],
    default_args={"retries": 2},
    render_template_as_native_obj=True,  # so that a number in {{ }} stays a number
    params={
        "destination": Param(None, type=["null", "string"], title="Where the files are; else the variable"),
        "retention_days": Param(30, type="integer", minimum=0, title="Keep at Magic Hour for this many days"),
        "dry_run": Param(True, type="boolean", title="Only log what would be deleted"),
    },
)
def magichour_cleanup() -> None:
    """Delete old projects at Magic Hour, every day."""
    MagicHourCleanupOperator(
        task_id="clean_up",
        destination="{{ params.destination or " + DESTINATION + " }}",
        older_than="{{ macros.timedelta(days=params.retention_days) }}",
        dry_run="{{ params.dry_run }}",
    )


magichour_cleanup()

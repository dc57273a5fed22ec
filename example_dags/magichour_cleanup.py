"""
Delete at Magic Hour, every day, what was downloaded long enough ago.

Each project that this provider downloads gets an entry in a catalogue beside the files. This DAG goes by
these entries: it deletes a project only if it was downloaded more than `retention_days` ago and its files are
still there, whole. What it keeps although it is due, it says in the log.

It starts as a dry run, which deletes nothing and shows what it would: look at the log, then set `dry_run` to
false here or when you start it by hand.

**What you need:** a connection `magichour_default` of type *Magic Hour*, with your API key as its password,
and an Airflow variable `magichour_destination`: where your DAGs download to, such as
`s3://aws_default@bucket/media`. Without it, the folder of the other examples is cleaned up, `/tmp/magichour`.

**What it costs:** nothing. Deleting cannot be undone; your downloaded files stay.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import Param, dag

from airflow_provider_magichour.operators import MagicHourCleanupOperator

# The schedule starts the runs, so nobody fills in a parameter: set the Airflow variable instead.
DESTINATION = "var.value.get('magichour_destination', 'file:///tmp/magichour')"


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # the days before it was switched on are not made up for
    max_active_runs=1,
    description="Delete at Magic Hour what was downloaded long enough ago",
    doc_md=__doc__,
    tags=["magichour", "example"],
    default_args={"retries": 2},
    render_template_as_native_obj=True,  # so that a number in {{ }} stays a number
    params={
        "destination": Param(None, type=["null", "string"], title="Where the files are; else the variable"),
        "retention_days": Param(30, type="integer", minimum=0, title="Keep at Magic Hour for this many days"),
        "dry_run": Param(True, type="boolean", title="Only say what would be deleted"),
    },
)
def magichour_cleanup() -> None:
    """Delete at Magic Hour, every day, what was downloaded long enough ago."""
    MagicHourCleanupOperator(
        task_id="clean_up",
        destination="{{ params.destination or " + DESTINATION + " }}",
        older_than="{{ macros.timedelta(days=params.retention_days) }}",
        dry_run="{{ params.dry_run }}",
    )


magichour_cleanup()

"""
Delete given projects at Magic Hour, every night.

Their ids stand in three Airflow variables (Admin > Variables), each a JSON list: `magichour_image_ids`,
`magichour_video_ids` and `magichour_audio_ids`. A project that is gone already is no error, so the lists may
keep their old entries.

To delete others once, start the DAG by hand and give the ids as parameters.

**What you need:** a connection `magichour_default` of type *Magic Hour*, with your API key as its password.

**What it costs:** nothing. Deleting cannot be undone. To delete what was downloaded some time ago without
keeping lists, look at `magichour_cleanup`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import Param, dag

from airflow_provider_magichour.operators import MagicHourDeleteProjectOperator


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # the nights before it was switched on are not made up for
    description="Delete given projects at Magic Hour, every night",
    doc_md=__doc__,
    tags=["magichour", "example"],
    default_args={"retries": 2},
    render_template_as_native_obj=True,  # so that a list in {{ }} stays a list
    params={
        f"{kind}_ids": Param([], type="array", items={"type": "string"}, title=f"{kind.title()} projects")
        for kind in ("image", "video", "audio")
    },
)
def magichour_scheduled_delete() -> None:
    """Delete given projects at Magic Hour, every night."""
    for kind in ("image", "video", "audio"):
        MagicHourDeleteProjectOperator(
            task_id=f"delete_{kind}s",
            kind=kind,
            project_id=f"{{{{ params.{kind}_ids or var.json.get('magichour_{kind}_ids', []) }}}}",
        )


magichour_scheduled_delete()

"""
Delete given projects at Magic Hour, every night.

The ids are in three Airflow variables (Admin > Variables), each a JSON list: `magichour_image_ids`,
`magichour_video_ids` and `magichour_audio_ids`. You can leave old ids in the lists: a project that was
already deleted is not an error.

To delete other projects once, trigger the DAG, and enter the ids as parameters.

**What you need:** a connection `magichour_default` of type *Magic Hour*, with your API key as its password.

**What it costs:** nothing. A deletion cannot be undone. To delete old projects without a list of ids, see
`magichour_cleanup`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import Param, dag

from airflow_provider_magichour.operators import MagicHourDeleteProjectOperator


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # do not run for the nights before you switched it on
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

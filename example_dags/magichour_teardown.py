"""
Make an image, publish it, and delete it at Magic Hour, even if publishing failed.

A teardown task runs if its setup task has succeeded, whatever happened in between. It does not decide whether
the run succeeded: if `publish` fails, the project is deleted, and the run is red. A task with
`trigger_rule="all_done"` would also delete it, but the run would be green.

**What you need:** a connection `magichour_default` of type *Magic Hour*, with your API key as its password.

**What it costs:** about 5 credits for one image. The downloaded file stays.
"""

from __future__ import annotations

# --8<-- [start:dag]
from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_magichour.operators import MagicHourDeleteProjectOperator, MagicHourGenerateOperator


@dag(
    schedule=None,
    description="Delete the project at Magic Hour, even if a later step failed",
    tags=["magichour", "example"],
    params={"destination": Param("file:///tmp/magichour", type="string", title="Where the file goes")},
    doc_md=__doc__,
)
def magichour_teardown() -> None:
    """Make an image, publish it, and delete it at Magic Hour, even if publishing failed."""
    picture = MagicHourGenerateOperator(
        task_id="picture",
        tool="ai-image-generator",
        body={"image_count": 1, "style": {"prompt": "a lighthouse at dawn"}},
        destination="{{ params.destination }}",
        deferrable=True,
    )

    @task
    def publish(made: dict[str, Any]) -> None:
        print("published", made["files"][0]["path"])  # your own code, which may fail

    delete = MagicHourDeleteProjectOperator(
        task_id="delete",
        project_id=picture.output,
        destination="{{ params.destination }}",  # where the deletion is recorded
    )
    publish(picture.output) >> delete.as_teardown(setups=picture)


magichour_teardown()
# --8<-- [end:dag]

"""
Make many images: one task for each (`magichour_batch`), or one task for all (`magichour_batch_in_one_task`).

| | One task for each image | One task for all images |
|---|---|---|
| Code | `.expand(body=...)` | `body=[...]` |
| In the grid | 50 squares, each with its own log, retry and Clear | one square |
| Cost for Airflow | 50 starts of a worker, 50 triggers | two starts of a worker, one trigger |
| If one fails | its square is red, the others are green | the task is red, the others are saved |
| To repeat it | retry or clear the failed tasks | a retry or a Clear submits only the failed bodies |
| Results | an XCom for each image | one XCom, a list in the order of the bodies |

Use one task for each image if people look at the results one by one. Use one task for all for hundreds of
images, or if you use the results together. Both pay once, even if a worker dies.

**What you need:** a connection `magichour_default` of type *Magic Hour*, with your API key as its password.

**What it costs:** about 5 credits for each image, so 250 for the 50 of one run.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_magichour.operators import MagicHourGenerateOperator

PARAMS = {
    "subject": Param("a lighthouse", type="string", title="What to show"),
    "images": Param(50, type="integer", minimum=1, maximum=500, title="How many images"),
    "destination": Param(
        "file:///tmp/magichour",
        type="string",
        title="Where the files go",
        description="A folder, or s3://bucket/path, gs://bucket/path...",
    ),
}

WEATHER = ["at dawn", "in the rain", "in fog", "under the stars", "in a storm"]


@task
def write_bodies(**context: Any) -> list[dict[str, Any]]:
    """Return a body for each image. In real life, the prompts come from your own tables or files."""
    params = context["params"]
    return [
        {
            "name": f"image {number}",
            "image_count": 1,
            "model": "flux-schnell",
            "style": {"prompt": f"{params['subject']} {WEATHER[number % len(WEATHER)]}, view {number}"},
        }
        for number in range(params["images"])
    ]


# --8<-- [start:mapped]
@dag(
    schedule=None,
    description="Make many images, one task for each",
    doc_md=__doc__,
    tags=["magichour", "example"],
    params=PARAMS,
)
def magichour_batch() -> None:
    """Make many images, one task for each."""
    MagicHourGenerateOperator.partial(
        task_id="generate",
        tool="ai-image-generator",
        destination="{{ params.destination }}",
        deferrable=True,
        retries=2,
        # As many at once as your plan renders. The others wait in Airflow.
        max_active_tis_per_dag=16,
    ).expand(body=write_bodies())


# --8<-- [end:mapped]


# --8<-- [start:list]
@dag(
    schedule=None,
    description="Make many images in one task",
    doc_md=__doc__,
    tags=["magichour", "example"],
    params=PARAMS,
)
def magichour_batch_in_one_task() -> None:
    """Make many images in one task."""
    MagicHourGenerateOperator(
        task_id="generate",
        tool="ai-image-generator",
        body=write_bodies(),
        destination="{{ params.destination }}",
        deferrable=True,
        retries=2,
        max_credits=1000,  # the most that all of them together may cost
    )


# --8<-- [end:list]


magichour_batch()
magichour_batch_in_one_task()

"""
Make an image at Magic Hour and save it: one task.

`MagicHourGenerateOperator` submits, waits and downloads. It uses a worker only to submit and to download; the
triggerer waits.

**What you need:** a connection `magichour_default` of type *Magic Hour*, with your API key as its password.

**What it costs:** about 5 credits. You pay once: if the worker dies or the download fails, a retry continues
with the image that you already paid for.
"""

from __future__ import annotations

# --8<-- [start:dag]
from datetime import timedelta

from airflow.sdk import Param, dag

from airflow_provider_magichour.operators import MagicHourGenerateOperator


@dag(
    schedule=None,  # it runs when you trigger it
    description="Make an image and save it, in one task",
    doc_md=__doc__,
    tags=["magichour", "example"],
    params={
        "prompt": Param("a lighthouse at dawn, calm sea", type="string", title="What to show"),
        "destination": Param(
            "file:///tmp/magichour",
            type="string",
            title="Where the file goes",
            description="A folder, or s3://bucket/path, gs://bucket/path...",
        ),
    },
)
def magichour_generate() -> None:
    """Make an image and save it."""
    MagicHourGenerateOperator(
        task_id="generate",
        tool="ai-image-generator",
        body={"image_count": 1, "model": "flux-schnell", "style": {"prompt": "{{ params.prompt }}"}},
        destination="{{ params.destination }}",
        deferrable=True,  # wait in the triggerer, so that no worker is used
        timeout=30 * 60,
        max_credits=50,  # do not submit if the account has less, or if it could cost more
        retries=2,
        retry_delay=timedelta(seconds=30),
    )


magichour_generate()
# --8<-- [end:dag]

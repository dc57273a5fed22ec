"""
Make an image, a video and a voice at Magic Hour, save them, and delete them there.

| Step | Operator | Uses a worker? |
|---|---|---|
| `make` | `MagicHourCreateProjectOperator` starts the project | a moment |
| `wait` | `MagicHourProjectSensor` waits in the triggerer | no |
| `download` | `MagicHourDownloadOperator` saves and verifies the files | while it downloads |
| `delete` | `MagicHourDeleteProjectOperator` leaves nothing behind | a moment |

**What you need:** a connection `magichour_default` of type *Magic Hour*, with your API key as its password.

**What it costs:** the image about 5 credits, the video a few hundred (it depends on the model), the voice a
few. The log of `make` shows the credits. A project that fails is refunded.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, TaskGroup, dag

from airflow_provider_magichour.operators import (
    MagicHourCreateProjectOperator,
    MagicHourDeleteProjectOperator,
    MagicHourDownloadOperator,
)
from airflow_provider_magichour.sensors import MagicHourProjectSensor

# For each kind of media: the tool, and the JSON of its create call. Names in {{ }} are replaced when the DAG
# runs, with the parameters below.
MEDIA: dict[str, tuple[str, dict[str, Any]]] = {
    "image": (
        "ai-image-generator",
        {"image_count": 1, "model": "flux-schnell", "style": {"prompt": "{{ params.prompt }}"}},
    ),
    "video": (
        "text-to-video",
        {
            "end_seconds": 3,
            "model": "ltx-2.3",
            "resolution": "480p",
            "style": {"prompt": "{{ params.prompt }}"},
        },
    ),
    "audio": (
        "ai-voice-generator",
        {"style": {"prompt": "{{ params.speech }}", "voice_name": "David Attenborough"}},
    ),
}


@dag(
    schedule=None,  # it runs when you trigger it
    description="Make an image, a video and a voice, save them, and delete them at Magic Hour",
    doc_md=__doc__,
    tags=["magichour", "example"],
    # A retry continues with the project that the first try paid for, and skips the files that are saved.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={
        "prompt": Param("a lighthouse at dawn, calm sea", type="string", title="What to show"),
        "speech": Param("The light has been burning all night.", type="string", title="What to say"),
        "destination": Param(
            "file:///tmp/magichour",
            type="string",
            title="Where the files go",
            description="A folder, or s3://bucket/path, gs://bucket/path...",
        ),
    },
)
def magichour_media_pipeline() -> None:
    """Make an image, a video and a voice, download them, and delete them at Magic Hour."""
    # The three kinds run in parallel, each in its own group of tasks.
    for kind, (tool, body) in MEDIA.items():
        with TaskGroup(group_id=kind):
            make = MagicHourCreateProjectOperator(task_id="make", tool=tool, body=body)

            # `output` is the value that a task returns. It also makes the next task run after this one.
            project_id = make.output["id"]

            wait = MagicHourProjectSensor(
                task_id="wait",
                kind=kind,
                project_id=project_id,
                deferrable=True,  # wait in the triggerer, so that no worker is used
                timeout=60 * 60,
            )
            download = MagicHourDownloadOperator(
                task_id="download",
                kind=kind,
                project_id=project_id,
                destination="{{ params.destination }}",
            )
            delete = MagicHourDeleteProjectOperator(
                task_id="delete",
                kind=kind,
                project_id=project_id,
                destination="{{ params.destination }}",  # where the deletion is recorded
            )

            # Deleted only after the files are saved and verified.
            wait >> download >> delete


magichour_media_pipeline()

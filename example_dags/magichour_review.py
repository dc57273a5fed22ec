"""
Draft four cheap pictures, let a person choose one, make the paid video of that one only, and publish it.

| Step | What happens |
|---|---|
| `drafts` | one image project with four pictures |
| `describe` | writes the form: the pictures if the view is on, and otherwise names and links |
| `review` | waits in Airflow's *Required Actions* until a person chooses; it uses no worker |
| `video_1` to `video_4` | only the chosen picture becomes a video; the others are skipped |
| `publish` | copies the video to the folder `published` |
| `rejected` | runs instead if the person chose none, or if nobody chose within a day |

**What you need:** Airflow 3.1 or newer; a connection `magichour_default` of type *Magic Hour*, with your
API key as its password.

**What it costs:** the four drafts about 20 credits, and the video a few hundred. The video is paid for only
after a person has chosen.
"""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLBranchOperator, HITLOperator
from airflow.sdk import ObjectStoragePath, Param, dag, task

from airflow_provider_magichour.operators import MagicHourGenerateOperator
from airflow_provider_magichour.ui import review_body

DRAFTS = range(1, 5)
NONE = "None of them"
# Older standard providers, such as that of Airflow 3.1, have another name for it.
IS_NEW = "response_timeout" in inspect.signature(HITLOperator.__init__).parameters
TIMEOUT = {"response_timeout" if IS_NEW else "execution_timeout": timedelta(days=1)}


@dag(
    schedule=None,
    description="A person chooses one of four drafts, and only that one becomes a video",
    doc_md=__doc__,
    tags=["magichour", "example"],
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={
        "prompt": Param("a lighthouse at dawn, calm sea", type="string", title="What to show"),
        "destination": Param("file:///tmp/magichour", type="string", title="Where the files go"),
    },
)
def magichour_review() -> None:
    """Draft, choose, make, publish."""
    drafts = MagicHourGenerateOperator(
        task_id="drafts",
        tool="ai-image-generator",
        body={"image_count": 4, "model": "flux-schnell", "style": {"prompt": "{{ params.prompt }}"}},
        destination="{{ params.destination }}",
        deferrable=True,
    )

    @task
    def describe(made: dict[str, Any]) -> str:
        return review_body(made["files"])

    review = HITLBranchOperator(
        task_id="review",
        subject="Which draft becomes the video?",
        body="{{ ti.xcom_pull('describe') }}",
        # Fixed labels, because `options` is not templated.
        options=[*(f"Draft {n}" for n in DRAFTS), NONE],
        options_mapping={**{f"Draft {n}": f"video_{n}" for n in DRAFTS}, NONE: "rejected"},
        defaults=[NONE],  # the choice if nobody responds in time
        **TIMEOUT,
    )

    @task
    def rejected() -> None:
        print("Nothing was chosen, and nothing more was paid.")

    @task(trigger_rule="none_failed_min_one_success")
    def publish(*videos: dict[str, Any] | None, destination: str) -> list[str]:
        published = []
        for file in (file for video in videos if video for file in video["files"]):
            target = ObjectStoragePath(f"{destination}/published") / file["path"].rpartition("/")[2]
            target.parent.mkdir(parents=True, exist_ok=True)
            ObjectStoragePath(file["path"]).copy(target)
            published.append(str(target))
        return published

    videos = [
        MagicHourGenerateOperator(
            task_id=f"video_{n}",
            tool="image-to-video",
            body={
                "assets": {"image_file_path": f"{{{{ ti.xcom_pull('drafts')['files'][{n - 1}]['path'] }}}}"},
                "end_seconds": 3,
                "resolution": "480p",
            },
            destination="{{ params.destination }}",
            deferrable=True,
        )
        for n in DRAFTS
    ]

    describe(drafts.output) >> review
    review >> videos
    review >> rejected()
    publish(*(video.output for video in videos), destination="{{ params.destination }}")


magichour_review()

"""
Make images for several prompts in one task, and a page that shows all of them: a contact sheet.

For a list of bodies, the task returns a list of results, and each result has a list of files. This expression
makes one flat list of the files, and you can map other tasks over it:

    [file for result in results for file in result["files"]]

The page is `contact-sheet.html` in the destination; open it in a browser, or serve the folder.

**What you need:** a connection `magichour_default` of type *Magic Hour*, with your API key as its password.

**What it costs:** about 5 credits for each image, so 20 for one run.
"""

from __future__ import annotations

import html
from typing import Any

from airflow.sdk import ObjectStoragePath, Param, dag, task

from airflow_provider_magichour.operators import MagicHourGenerateOperator


@task
def write_bodies(**context: Any) -> list[dict[str, Any]]:
    """Return the body of a create call for each prompt, of two images each."""
    return [
        {"name": prompt, "image_count": 2, "model": "flux-schnell", "style": {"prompt": prompt}}
        for prompt in context["params"]["prompts"]
    ]


@task
def all_files(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the files of all results as one flat list."""
    return [file for result in results for file in result["files"]]


@task
def figure(file: dict[str, Any]) -> str:
    """Return the HTML of one image; one mapped task for each file."""
    name = html.escape("/".join(file["path"].split("/")[-2:]))  # relative to the page
    return f'<figure><img src="{name}" width="320"><figcaption>{name}</figcaption></figure>'


@task
def write_sheet(figures: Any, **context: Any) -> str:
    """Write the page with all figures, beside the projects' folders, and return its path."""
    sheet = ObjectStoragePath(context["params"]["destination"]) / "contact-sheet.html"
    sheet.write_text("<!doctype html><title>Contact sheet</title>\n" + "\n".join(figures))
    return str(sheet)


@dag(
    schedule=None,
    description="Make images for several prompts, and one page with all of them",
    doc_md=__doc__,
    tags=["magichour", "example"],
    params={
        "prompts": Param(["a lighthouse", "a harbour"], type="array", title="What to show"),
        "destination": Param(
            "file:///tmp/magichour",
            type="string",
            title="Where the files go",
            description="A folder, or s3://bucket/path, gs://bucket/path...",
        ),
    },
)
def magichour_contact_sheet() -> None:
    """Make images for several prompts, and one page with all of them."""
    images = MagicHourGenerateOperator(
        task_id="generate",
        tool="ai-image-generator",
        body=write_bodies(),
        destination="{{ params.destination }}",
        deferrable=True,
        retries=2,
    )
    write_sheet(figure.expand(file=all_files(images.output)))


magichour_contact_sheet()

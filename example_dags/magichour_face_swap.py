"""
Replace every face in a picture with one face: upload, detect, swap, download.

| Step | Operator |
|---|---|
| `upload_face`, `upload_picture` | `MagicHourUploadOperator` sends a picture to Magic Hour |
| `detect` | `MagicHourDetectFacesOperator` finds the faces in the picture |
| `write_body` | your own task, which says which face replaces which |
| `swap` | `MagicHourGenerateOperator` makes the new picture and saves it |

If only one task uses a picture, you do not need the upload task: put the path of the file into the body, and
the operator uploads it. If many mapped tasks use the same picture, upload it once, as here. Put its path
into their bodies.

**What you need:** a connection `magichour_default` of type *Magic Hour*, with your API key as its password.
You also need the right to use the faces.

**What it costs:** uploads and detection are free; the swap costs about 5 credits.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_magichour.operators import (
    MagicHourDetectFacesOperator,
    MagicHourGenerateOperator,
    MagicHourUploadOperator,
)

PAINTINGS = "https://commons.wikimedia.org/wiki/Special:FilePath"


@dag(
    schedule=None,
    description="Replace every face in a picture with one face, and save it",
    doc_md=__doc__,
    tags=["magichour", "example"],
    default_args={"retries": 2},
    params={
        "face": Param(
            f"{PAINTINGS}/Mona_Lisa,_by_Leonardo_da_Vinci,_from_C2RMF_retouched.jpg",
            type="string",
            title="The face to put in",
            description="A file or s3://bucket/path... is uploaded; a public web address is not",
        ),
        "picture": Param(
            f"{PAINTINGS}/Grant_Wood_-_American_Gothic_-_Google_Art_Project.jpg",
            type="string",
            title="The picture to put it into",
        ),
        "destination": Param("file:///tmp/magichour", type="string", title="Where the file goes"),
    },
)
def magichour_face_swap() -> None:
    """Replace every face in a picture with one face."""
    # These tasks return the path of the file at Magic Hour.
    face = MagicHourUploadOperator(task_id="upload_face", source="{{ params.face }}").output
    picture = MagicHourUploadOperator(task_id="upload_picture", source="{{ params.picture }}").output

    detect = MagicHourDetectFacesOperator(task_id="detect", assets={"target_file_path": picture})

    @task
    def write_body(faces: list[dict[str, str]], face: str, picture: str) -> dict[str, Any]:
        return {
            "name": "one face for all",
            "assets": {
                "face_swap_mode": "individual-faces",
                "face_mappings": [{"original_face": found["path"], "new_face": face} for found in faces],
                "target_file_path": picture,
            },
        }

    MagicHourGenerateOperator(
        task_id="swap",
        tool="face-swap-photo",
        body=write_body(detect.output, face, picture),
        destination="{{ params.destination }}",
        deferrable=True,
    )


magichour_face_swap()

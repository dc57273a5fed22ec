"""What tests of the clean-up share."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._transfer import catalogue
from airflow_provider_magichour.operators import (
    MagicHourCleanupOperator,
)
from tests.support.files import complete_project, entries, write_old_receipt
from tests.support.tasks import task_context

NOTHING = {"deleted": [], "missing": [], "kept": []}


def clean_up(destination, older_than=timedelta(0), **options):
    operator = MagicHourCleanupOperator(
        task_id="clean_up", destination=str(destination), older_than=older_than, **options
    )
    return operator.execute(task_context())


def downloaded(simulator, hook, folder, age=timedelta(0), **body):
    """Return the id of a project that was downloaded that long ago."""
    project_id = complete_project(simulator, hook, **body)
    hook.download_project("image", project_id, str(folder))
    backdate(folder, project_id, age)
    return project_id


def backdate(folder, project_id, age):
    """Make a project one that was created and downloaded that long ago."""
    file = entry_file(folder, project_id)
    at = datetime.now(UTC) - age
    edit(file, created_at=f"{at:%Y-%m-%dT%H:%M:%SZ}")
    if json.loads(file.read_text())["downloaded_at"]:
        edit(file, downloaded_at=f"{at:%Y-%m-%dT%H:%M:%SZ}")
    moved = Path(folder, catalogue.entry_path(at, project_id))
    moved.parent.mkdir(exist_ok=True)
    file.rename(moved)


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def entry_file(folder, project_id) -> Path:
    (file,) = Path(folder).glob(f"magichour-catalog/*/*-{project_id}.json")
    return file


def events(folder):
    """Return what is recorded as deleted: project and outcome."""
    return {
        data["project_id"]: data["outcome"]
        for name, data in entries(folder).items()
        if name.endswith("-deleted")
    }


def exists(hook, project_id):
    try:
        return hook.get_project("image", project_id)["enabled"]
    except errors.MagicHourNotFoundError:
        return False


def old_download(sim, hook, folder, age=timedelta(days=40), **more):
    """Return a project that version 0.1.0 downloaded, and its place in the old index."""
    project_id = complete_project(sim, hook)
    (file,) = hook.download_project("image", project_id, str(folder), receipt=False)
    stored = {**file, "path": f"{project_id}/output.png"}
    at = datetime.now(UTC) - age
    return project_id, write_old_receipt(folder, project_id, files=[stored], downloaded_at=at, **more)

"""Each example DAG does what it says, by ``dag.test()`` against the simulator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.simulator import Simulator
from tests.support.airflow import AIRFLOW_VERSION, load_dag
from tests.support.files import complete_project

FOLDER = Path(__file__).resolve().parents[1] / "example_dags"
# What asks people, and what also runs by time, import names that are in Airflow from then on.
SINCE = {"magichour_review": (3, 1), "magichour_on_completed": (3, 2)}
NAMES = sorted(path.stem for path in FOLDER.glob("magichour_*.py"))
EXAMPLES = [name for name in NAMES if SINCE.get(name, (2, 11)) <= AIRFLOW_VERSION]


@pytest.fixture
def magic_hour(magichour_simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", magichour_simulator.connection_uri)
    return magichour_simulator


def xcom(run: Any, task_id: str) -> Any:
    task = run.get_task_instance(task_id)
    return task.xcom_pull(task_ids=task_id)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_has_documentation(name: str) -> None:
    dag = load_dag(FOLDER / f"{name}.py", name)
    assert dag.doc_md
    assert "cost" in dag.doc_md
    assert {"magichour", "example"} <= set(dag.tags)
    assert not dag.catchup
    if name in SINCE:
        assert f"Airflow {'.'.join(map(str, SINCE[name]))} or newer" in dag.doc_md


def test_media_pipeline_example_runs(
    magic_hour: Simulator, run_dag: Callable[..., Any], tmp_path: Path
) -> None:
    destination = tmp_path / "some media"
    run = run_dag(
        FOLDER / "magichour_media_pipeline.py", "magichour_media_pipeline", {"destination": str(destination)}
    )
    assert run.state == "success"
    for kind, start in {"image": b"\x89PNG", "video": b"", "audio": b"RIFF"}.items():
        made = xcom(run, f"{kind}.make")
        (file,) = xcom(run, f"{kind}.download")
        path = Path(file["path"].removeprefix("file://"))
        assert path.parent == destination / made["id"]
        assert path.stat().st_size == file["bytes"] > 0
        assert path.read_bytes().startswith(start)
        assert xcom(run, f"{kind}.delete") == {"deleted": [made["id"]], "missing": []}
    projects = magic_hour.state()["projects"].values()
    assert [project["enabled"] for project in projects] == [False, False, False]


@pytest.mark.parametrize("given_by", ["parameters", "variables"])
def test_scheduled_delete_example_runs(
    magic_hour: Simulator, run_dag: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, given_by: str
) -> None:
    hook = MagicHourHook()
    body = {"image_count": 1, "style": {"prompt": "a lighthouse"}}
    ids = [one["id"] for one in hook.create_project("ai-image-generator", [body, body, body])]
    given, kept = [*ids[:2], "gone-already"], ids[2]
    if given_by == "variables":
        monkeypatch.setenv("AIRFLOW_VAR_MAGICHOUR_IMAGE_IDS", json.dumps(given))
    run = run_dag(
        FOLDER / "magichour_scheduled_delete.py",
        "magichour_scheduled_delete",
        {"image_ids": given} if given_by == "parameters" else {},
    )
    assert run.state == "success"
    assert xcom(run, "delete_images") == {"deleted": given[:2], "missing": ["gone-already"]}
    assert xcom(run, "delete_videos") == {"deleted": [], "missing": []}
    assert hook.get_project("image", kept)["enabled"]


def test_cleanup_example_runs(
    magic_hour: Simulator, run_dag: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_MAGICHOUR_DESTINATION", str(tmp_path))
    hook = MagicHourHook()
    project_id = complete_project(magic_hour, hook)
    hook.download_project("image", project_id, str(tmp_path))
    file = FOLDER / "magichour_cleanup.py"
    nothing = {"deleted": [], "missing": [], "kept": []}
    assert xcom(run_dag(file, "magichour_cleanup"), "clean_up") == nothing
    dry = xcom(run_dag(file, "magichour_cleanup", {"retention_days": 0}), "clean_up")
    assert dry == {**nothing, "kept": [{"id": project_id, "reason": "would delete"}]}
    assert hook.get_project("image", project_id)["enabled"]
    done = xcom(run_dag(file, "magichour_cleanup", {"retention_days": 0, "dry_run": False}), "clean_up")
    assert done == {**nothing, "deleted": [project_id]}
    assert (tmp_path / project_id / "output.png").exists()


def test_cleanup_example_runs_out_of_the_box(magic_hour: Simulator, run_dag: Callable[..., Any]) -> None:
    assert run_dag(FOLDER / "magichour_cleanup.py", "magichour_cleanup").state == "success"


@pytest.mark.parametrize("publishes", [True, False])
def test_teardown_example_deletes_whether_publishing_fails_or_not(
    magic_hour: Simulator, run_dag: Callable[..., Any], tmp_path: Path, publishes: bool
) -> None:
    text = (FOLDER / "magichour_teardown.py").read_text()
    file = tmp_path / "dags" / "magichour_teardown.py"
    file.parent.mkdir()
    file.write_text(text if publishes else text.replace('print("published",', 'raise RuntimeError("no",'))
    run = run_dag(file, "magichour_teardown", {"destination": str(tmp_path / "media")})
    assert run.state == ("success" if publishes else "failed")
    [project] = magic_hour.state()["projects"].values()
    assert not project["enabled"]
    assert len([*(tmp_path / "media").rglob("output.png")]) == 1


def test_generate_example_runs(magic_hour: Simulator, run_dag: Callable[..., Any], tmp_path: Path) -> None:
    run = run_dag(FOLDER / "magichour_generate.py", "magichour_generate", {"destination": str(tmp_path)})
    assert run.state == "success"
    made = xcom(run, "generate")
    assert made["project"]["status"] == "complete"
    assert Path(made["files"][0]["path"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["magichour_batch", "magichour_batch_in_one_task"])
def test_batch_example_runs(
    magic_hour: Simulator, run_dag: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    run = run_dag(
        FOLDER / "magichour_batch.py", name, {"images": 4, "destination": str(tmp_path), "subject": "a cat"}
    )
    assert run.state == "success"
    projects = magic_hour.state()["projects"]
    assert sorted(project["name"] for project in projects.values()) == [f"image {n}" for n in range(4)]
    assert all((tmp_path / project_id / "output.png").exists() for project_id in projects)


def test_face_swap_example_runs(magic_hour: Simulator, run_dag: Callable[..., Any], tmp_path: Path) -> None:
    face, picture = tmp_path / "face.png", tmp_path / "picture.jpg"
    for path in (face, picture):
        path.write_bytes(b"pixels")
    given = {"face": str(face), "picture": f"file://{picture}", "destination": str(tmp_path)}
    run = run_dag(FOLDER / "magichour_face_swap.py", "magichour_face_swap", given)
    assert run.state == "success"
    assert len(magic_hour.state()["uploads"]) == 2
    assets = next(iter(magic_hour.state()["projects"].values()))["body"]["assets"]
    assert assets["target_file_path"] == xcom(run, "upload_picture")
    assert assets["face_mappings"] == [
        {"original_face": xcom(run, "detect")[0]["path"], "new_face": xcom(run, "upload_face")}
    ]
    assert Path(xcom(run, "swap")["files"][0]["path"]).exists()


def test_contact_sheet_example_shows_every_file(
    magic_hour: Simulator, run_dag: Callable[..., Any], tmp_path: Path
) -> None:
    run = run_dag(
        FOLDER / "magichour_contact_sheet.py",
        "magichour_contact_sheet",
        {"destination": f"file://{tmp_path}", "prompts": ["a lighthouse", "a harbour"]},
    )
    assert run.state == "success"
    page = (tmp_path / "contact-sheet.html").read_text()
    images = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*.png"))
    assert len(images) == 4
    assert all(f'src="{image}"' in page for image in images)

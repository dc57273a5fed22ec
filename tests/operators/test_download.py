from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._transfer.lineage import dataset_name
from airflow_provider_magichour.operators import MagicHourDownloadOperator
from tests.support.files import IMAGE, complete_project, entry, sha256, visible
from tests.support.tasks import task_context


def download(**arguments):
    return MagicHourDownloadOperator(task_id="download", **arguments)


def test_files_of_one_project_are_stored(magichour_simulator, hook, tmp_path):
    project_id = complete_project(magichour_simulator, hook, image_count=3)
    operator = download(project_id=project_id, kind="image", destination=str(tmp_path))
    files = operator.execute(task_context(dag_id="d", run_id="r", try_number=2))
    assert len(files) == 3
    assert len({file["path"] for file in files}) == 3
    for file in files:
        assert set(file) == {"path", "bytes", "sha256", "content_type"}
        assert file["sha256"] == sha256(file["path"])
        assert file["bytes"] == Path(file["path"]).stat().st_size
        assert file["content_type"] == "image/png"
        assert Path(file["path"]).parent == tmp_path / project_id
    task = {"dag_id": "d", "run_id": "r", "task_id": "task", "map_index": -1, "try_number": 2}
    assert entry(tmp_path, project_id).items() >= task.items()
    assert magichour_simulator.state()["leaked_keys"] == 0
    json.dumps(files)


@pytest.mark.parametrize(
    ("kind", "tool", "body"),
    [
        ("video", "text-to-video", {"end_seconds": 1, "style": {"prompt": "x"}, "orientation": "landscape"}),
        ("audio", "ai-voice-generator", {"style": {"prompt": "hello", "voice_name": "Morgan Freeman"}}),
    ],
)
def test_every_kind_can_be_downloaded(magichour_simulator, hook, tmp_path, kind, tool, body):
    project_id = hook.create_project(tool, body)["id"]
    magichour_simulator.end_project(project_id)
    (file,) = download(project_id=project_id, kind=kind, destination=str(tmp_path)).execute(task_context())
    assert file["content_type"].startswith(kind)
    assert sha256(file["path"]) == file["sha256"]


def test_list_returns_a_list_per_project_in_order(magichour_simulator, hook, tmp_path):
    ids = [complete_project(magichour_simulator, hook) for _ in range(6)]
    files = download(project_id=[*ids, ids[0]], kind="image", destination=str(tmp_path)).execute(
        task_context()
    )
    assert [Path(one[0]["path"]).parent.name for one in files] == [*ids, ids[0]]
    assert len(magichour_simulator.requests("download")) == 6
    assert download(project_id=[], kind="image", destination=str(tmp_path)).execute(task_context()) == []
    one = download(project_id=ids[:1], kind="image", destination=str(tmp_path)).execute(task_context())
    assert [len(files) for files in one] == [1]


def test_files_are_fetched_in_parallel_up_to_a_limit(magichour_simulator, hook, tmp_path):
    ids = [complete_project(magichour_simulator, hook) for _ in range(12)]
    magichour_simulator.faults({"match": {"host": "downloads"}, "delay": 0.4})
    started = time.monotonic()
    download(project_id=ids, kind="image", destination=str(tmp_path), parallel=3).execute(task_context())
    assert time.monotonic() - started >= 12 / 3 * 0.4
    assert magichour_simulator.state()["in_flight"]["most"] > 1


def test_failed_project_does_not_stop_the_others(magichour_simulator, hook, tmp_path):
    whole = complete_project(magichour_simulator, hook)
    failed = hook.create_project("ai-image-generator", IMAGE)["id"]
    magichour_simulator.end_project(failed, "error", "no_source_face", "No face")
    operator = download(project_id=[failed, whole, "nowhere"], kind="image", destination=str(tmp_path))
    with pytest.raises(errors.MagicHourError, match="2 of 3") as caught:
        operator.execute(task_context())
    assert failed in str(caught.value)
    assert "nowhere" in str(caught.value)
    assert visible(tmp_path) == [f"{whole}/output.png"]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("kind", "document"),
        ("kind", ""),
        ("kind", None),
        ("max_bytes", 0),
        ("max_bytes", "some"),
        ("parallel", 0),
    ],
)
def test_constructor_refuses_wrong_arguments(argument, value):
    given = {"project_id": "p1", "kind": "image", "destination": "x", argument: value}
    with pytest.raises(errors.MagicHourArgumentError, match=argument):
        download(**given)


@pytest.mark.parametrize("project_id", [None, "", " ", 3, "../x", "a/b", ["a", None]])
def test_wrong_id_is_refused_before_any_request(magichour_simulator, hook, tmp_path, project_id):
    with pytest.raises(errors.MagicHourArgumentError, match="project_id"):
        download(project_id=project_id, kind="image", destination=str(tmp_path)).execute(task_context())
    assert magichour_simulator.requests() == []
    assert list(tmp_path.iterdir()) == []


def test_kind_may_be_a_template():
    operator = download(project_id="{{ x }}", kind="{{ params.kind }}", destination="{{ y }}")
    assert set(operator.template_fields) >= {"project_id", "kind", "destination", "magichour_conn_id"}


def test_files_are_reported_as_lineage(magichour_simulator, hook, tmp_path, monkeypatch):
    from airflow.providers.common.compat.lineage import hook as lineage

    monkeypatch.setattr("airflow_provider_magichour._transfer.lineage._is_read", lambda: True)
    project_id = complete_project(magichour_simulator, hook)
    seen = []
    collector = SimpleNamespace(add_output_asset=lambda context, uri: seen.append((context, uri)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lineage, "get_hook_lineage_collector", lambda: collector)
        hook.download_project("image", project_id, str(tmp_path))
        assert seen == [(hook, f"file://{tmp_path}/{project_id}/output.png")]
        patched.setattr(lineage, "get_hook_lineage_collector", lambda: 1 / 0)
        assert hook.download_project("image", project_id, str(tmp_path))  # reporting is not worth a failure


def test_files_are_openlineage_datasets(magichour_simulator, hook, tmp_path, monkeypatch):
    pytest.importorskip("airflow.providers.openlineage")
    project_id = complete_project(magichour_simulator, hook)
    operator = download(project_id=[project_id], kind="image", destination=str(tmp_path))
    ((file,),) = operator.execute(task_context())
    (output,) = operator.get_openlineage_facets_on_complete(None).outputs
    assert (output.namespace, output.name) == ("file", file["path"])
    assert output.outputFacets["outputStatistics"].size == file["bytes"]
    monkeypatch.setitem(sys.modules, "airflow.providers.openlineage.extractors", None)
    assert operator.get_openlineage_facets_on_complete(None) is None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b c.png", ("file", "/a/b c.png")),
        ("file:///a/b.png", ("file", "/a/b.png")),
        ("s3://conn@bucket/a/b.png", ("s3://bucket", "a/b.png")),
        ("s3://bucket/a?b#c.png", ("s3://bucket", "a?b#c.png")),
    ],
)
def test_dataset_names_carry_no_connection(path, name):
    assert dataset_name(path) == name


DAG_FILE = """
from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG, task
from airflow_provider_magichour.operators import (
    MagicHourCleanupOperator, MagicHourDeleteProjectOperator, MagicHourDownloadOperator
)

with DAG("files", schedule=None, params={"ids": [], "destination": "", "dry": False}):
    @task
    def ids(params=None):
        return params["ids"]

    @task
    def same(one):
        return one

    given = ids()
    whole = MagicHourDownloadOperator(
        task_id="whole",
        project_id=same.expand(one=given),
        kind="image",
        destination="{{ params.destination }}/a",
    )
    each = MagicHourDownloadOperator.partial(
        task_id="each", kind="image", destination="{{ params.destination }}/b"
    ).expand(project_id=given)
    clean_up = MagicHourCleanupOperator(
        task_id="clean_up",
        destination="{{ params.destination }}/a",
        older_than="{{ macros.timedelta(0) }}",
        dry_run="{{ params.dry }}",
        limit="{{ params.limit or None }}",
    )
    delete = MagicHourDeleteProjectOperator.partial(task_id="delete", kind="image").expand(project_id=given)
    [whole, each] >> clean_up >> delete
"""


def test_arguments_can_be_templated_and_mapped(magichour_simulator, hook, tmp_path, run_dag):
    file = tmp_path / "files.py"
    file.write_text(DAG_FILE)
    ids = [complete_project(magichour_simulator, hook) for _ in range(2)]
    run = run_dag(file, "files", {"ids": ids, "destination": str(tmp_path), "limit": 1})
    assert run.state == "success"
    assert visible(tmp_path / "a") == visible(tmp_path / "b") == sorted(f"{one}/output.png" for one in ids)
    enabled = [project["enabled"] for project in magichour_simulator.state()["projects"].values()]
    assert enabled == [False, False]


# ---------------------------------------------------------------------------------- hook.check_result


def test_check_result_waits_and_downloads(magichour_simulator, hook, tmp_path, monkeypatch):
    project_id = hook.create_project("ai-image-generator", IMAGE)["id"]
    found = hook.check_result("image", project_id, True, True, str(tmp_path))
    assert found["status"] == "complete"
    assert found["downloaded_paths"] == [f"{tmp_path}/{project_id}/output.png"]
    assert hook.check_result("image", project_id, False, False)["downloaded_paths"] is None
    monkeypatch.chdir(tmp_path)
    hook.check_result("image", project_id, False, True)
    assert Path(project_id, "output.png").exists()


def test_check_result_returns_an_incomplete_project(magichour_simulator, hook, tmp_path):
    magichour_simulator.faults({"duration": 60})
    project_id = hook.create_project("ai-image-generator", IMAGE)["id"]
    found = hook.check_result("image", project_id, False, True, str(tmp_path))
    assert found["status"] in {"queued", "rendering"}
    assert found["downloaded_paths"] is None
    with pytest.raises(errors.MagicHourTimeoutError):
        hook.check_result("image", project_id, True, True, str(tmp_path), timeout=0.2)
    magichour_simulator.end_project(project_id, "error", "no_source_face", "No face")
    with pytest.raises(errors.MagicHourProjectFailedError):
        hook.check_result("image", project_id, True, True, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_newer_receipt_is_not_overwritten(magichour_simulator, hook, tmp_path, overwrite):
    project_id = complete_project(magichour_simulator, hook)
    hook.download_project("image", project_id, str(tmp_path))
    (receipt,) = tmp_path.glob("magichour-catalog/*/*.json")
    newer = json.dumps({**json.loads(receipt.read_text()), "version": 3})
    receipt.write_text(newer)
    asked = len(magichour_simulator.requests("download"))
    with pytest.raises(errors.MagicHourDownloadError, match="update it") as caught:
        hook.download_project("image", project_id, str(tmp_path), overwrite=overwrite)
    assert str(tmp_path / project_id) in str(caught.value)
    assert receipt.read_text() == newer
    assert len(magichour_simulator.requests("download")) == asked


# ------------------------------------------------------------------- what tasks before it return


@pytest.mark.parametrize("shape", [lambda one: one, lambda one: {"project": one, "files": []}])
def test_what_a_task_returned_is_taken(sim, hook, tmp_path, shape):
    created = hook.create_project("ai-image-generator", IMAGE)
    sim.end_project(created["id"])
    task = download(project_id=shape({**created, "kind": "image"}), destination=str(tmp_path))
    (file,) = task.execute(task_context())
    assert file["path"] == f"{tmp_path}/{created['id']}/output.png"
    listed = download(project_id=[shape({**created, "kind": "image"})], destination=str(tmp_path))
    assert listed.execute(task_context()) == [[file]]
    with pytest.raises(errors.MagicHourArgumentError, match="kind"):
        download(project_id=created["id"], destination=str(tmp_path)).execute(task_context())


def test_project_of_another_kind_is_named(sim, hook, tmp_path):
    project_id = complete_project(sim, hook)
    with pytest.raises(errors.MagicHourError, match="is an image, not a video"):
        download(project_id=project_id, kind="video", destination=str(tmp_path)).execute(task_context())


def test_file_names_and_the_entry_follow_the_template(sim, hook, tmp_path):
    project_id = complete_project(sim, hook, image_count=2)
    task = download(
        project_id=project_id,
        kind="image",
        destination=str(tmp_path),
        file_name="sku-7-{index}{ext}",
        index=str(tmp_path / "index"),
    )
    files = task.execute(task_context())
    assert visible(tmp_path) == [f"{project_id}/sku-7-1.png", f"{project_id}/sku-7-2.png"]
    recorded = entry(tmp_path / "index", project_id)["files"]
    assert [f"{tmp_path}/{one['path']}" for one in recorded] == [file["path"] for file in files]


def test_download_without_a_receipt_leaves_files_alone(sim, hook, tmp_path):
    project_id = complete_project(sim, hook)
    download(project_id=project_id, kind="image", destination=str(tmp_path), receipt=False).execute(
        task_context()
    )
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["output.png"]

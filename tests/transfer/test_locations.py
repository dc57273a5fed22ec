"""Destinations, sources and roots: wrong ones are refused before anything is paid or stored."""

from __future__ import annotations

import logging
import resource
from pathlib import Path

import pytest

from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour._transfer.locations import check_location, index_root
from airflow_provider_magichour._transfer.storage_errors import storage_error
from airflow_provider_magichour.exceptions import MagicHourArgumentError, MagicHourDownloadError
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import MagicHourCleanupOperator, MagicHourDownloadOperator
from tests.support.files import complete_project
from tests.support.tasks import task_context

CANNOT_BE_MEANT = [
    "s3:/b/x",
    Path("s3://b/x"),
    "gs:/b/x",
    "s3:b/x",
    "None",
    "none",
    " null\n",
    "None/media",
    "s3://None/media",
    "file://data/media",
    "file://host/x",
    "file:/x",
    "file:x",
    "file://",
    "file:///C:/media",
    "C:\\media",
    "c:/media",
    "\\\\server\\share",
    "/data/a\nb",
    "/data/a\x00b",
    "/data/a\x1bb",
    "s3://b/\x7f",
    "s3://b/\u2028x",
    "https://example.com/media",
    "HTTP://example.com/media",
    "s3:///x",
    "s3://conn@/x",
    "s3://s3://b/x",
    "s3://[b/x",
    "s3://b/x?versionId=1",
    "s3://b/media/../x",
    "s3://b/..",
    "s3://b/./x",
    "gs://conn@b/../other/x",
    "memory://b/../x",
    "//host/x",
    "//host",
    "file:////host/x",
    "file://localhost//host/x",
    "~nobody-has-this-name/x",
    "{{ params.where }}",
    "s3://b/{% if x %}",
    "",
    "  ",
    None,
    3,
    {"where": "secret"},
    ["/data"],
    b"/data",
]


@pytest.mark.parametrize("value", CANNOT_BE_MEANT, ids=repr)
def test_a_place_that_cannot_be_meant_is_refused(value):
    with pytest.raises(MagicHourArgumentError, match="destination") as caught:
        check_location(value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["s3:/b/x", "None", "file://host/x", "C:\\x", "https://example.com/x"])
def test_nothing_is_asked_of_magic_hour_where_nothing_can_be_stored(
    magichour_simulator, connect, value, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    connect(magichour_simulator.url, magichour_simulator.api_key)
    project_id = complete_project(magichour_simulator, MagicHourHook())
    asked = len(magichour_simulator.requests())
    with pytest.raises(MagicHourArgumentError, match="destination"):
        MagicHourHook().download_project("image", project_id, value)
    download = MagicHourDownloadOperator(
        task_id="t", project_id=project_id, kind="image", destination="{{ later }}"
    )
    clean_up = MagicHourCleanupOperator(task_id="c", destination="{{ later }}", older_than="30 days")
    for operator in (download, clean_up):
        operator.destination = value  # as a template renders it
        with pytest.raises(MagicHourArgumentError, match="destination"):
            operator.execute(task_context())
    assert len(magichour_simulator.requests()) == asked
    assert list(tmp_path.iterdir()) == []


def test_a_literal_place_is_refused_when_the_dag_is_parsed():
    with pytest.raises(MagicHourArgumentError, match="destination"):
        MagicHourDownloadOperator(task_id="t", project_id="p1", kind="image", destination="s3:/b/x")
    with pytest.raises(MagicHourArgumentError, match="destination"):
        MagicHourCleanupOperator(task_id="c", destination="file://host/x", older_than="30 days")


@pytest.mark.parametrize(
    "value",
    [
        "s3://b/x..y/.z/...",
        "s3://b/x",
        "s3://conn@b",
        "gs://b/x",
        "abfs://c@b/x",
        "memory://box",
        "memory:///x",
        "file:///data/x",
    ],
)
def test_a_url_stays_as_it_is(value):
    assert check_location(value) == value
    assert check_location(f"{value}\n") == value


def test_a_path_becomes_absolute(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert check_location("/data/media\n") == "/data/media"
    assert check_location("~/media") == str(tmp_path / "home" / "media")
    assert check_location("./a:b") == str(tmp_path / "a:b")
    assert open_destination("/data").shown("p") == "/data/p"
    assert open_destination("~/media").shown("p") == str(tmp_path / "home" / "media" / "p")
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        assert open_destination(Path("media")).shown("p") == str(tmp_path / "media" / "p")
    assert f"relative to the worker's working directory: it is {tmp_path}/media" in caplog.text


def test_results_hold_absolute_paths(magichour_simulator, connect, tmp_path, monkeypatch):
    connect(magichour_simulator.url, magichour_simulator.api_key)
    monkeypatch.chdir(tmp_path)
    hook = MagicHourHook()
    project_id = complete_project(magichour_simulator, hook)
    (file,) = hook.download_project("image", project_id, "media")
    assert file["path"] == str(tmp_path / "media" / project_id / "output.png")


@pytest.mark.parametrize("source", ["s3:/b/face.png", "None", "file://host/face.png", "C:\\face.png"])
def test_a_source_that_cannot_be_meant_is_refused(magichour_simulator, connect, source):
    connect(magichour_simulator.url, magichour_simulator.api_key)
    with pytest.raises(MagicHourArgumentError, match="source"):
        MagicHourHook().upload_file(source)
    assert magichour_simulator.requests() == []


# ------------------------------------------------------------------------------------------------ root


@pytest.mark.parametrize(
    ("unrendered", "rendered", "root"),
    [
        ("s3://b/media/{{ ds }}", "s3://b/media/2026-11-28", "s3://b/media"),
        ("s3://b/media/{{ ds }}/x", "s3://b/media/2026-11-28/x", "s3://b/media"),
        ("s3://b/media-{{ ds }}", "s3://b/media-1", "s3://b"),
        ("s3://conn@b/{% if x %}a{% endif %}", "s3://conn@b/a", "s3://conn@b"),
        ("s3://{{ bucket }}/media", "s3://b/media", "s3://b/media"),
        ("s3://conn@{{ bucket }}/media", "s3://conn@b/media", "s3://conn@b/media"),
        ("{{ var.value.where }}", "s3://b/media", "s3://b/media"),
        ("/{{ x }}", "/data", "/data"),
        ("/data/{{ ds }}", "/data/1", "/data"),
        ("file:///{{ x }}", "file:///data", "file:///data"),
        ("file:///data/{{ x }}", "file:///data/1", "file:///data"),
        ("s3://b/media", "s3://b/media", "s3://b/media"),
        (None, "s3://b/media", "s3://b/media"),
        (["s3://b/{{ ds }}"], "s3://b/1", "s3://b/1"),
    ],
)
def test_the_root_is_what_no_template_moves(unrendered, rendered, root):
    assert index_root(unrendered, rendered) == root


def test_the_root_of_a_path_object():
    sdk_io = pytest.importorskip("airflow.sdk")
    path = sdk_io.ObjectStoragePath("s3://conn@b/media/{{ ds }}")
    assert index_root(path, "s3://conn@b/media/1") == "s3://conn@b/media"


def test_an_index_of_the_users_own_wins():
    assert index_root("s3://b/{{ ds }}", "s3://b/1", "s3://other/index") == "s3://other/index"
    with pytest.raises(MagicHourArgumentError, match="index"):
        index_root("s3://b/{{ ds }}", "s3://b/1", "s3:/other")


@pytest.mark.parametrize("unrendered", ["{{ var.value.where }}", None])
def test_a_root_that_may_move_is_logged(caplog, unrendered):
    with caplog.at_level(logging.INFO):
        index_root(unrendered, "s3://b/media")
    assert "index=" in caplog.text
    caplog.clear()
    index_root("s3://b/media", "s3://b/media")
    assert caplog.text == ""


# -------------------------------------------------------------------------------------- can it be stored?


def test_a_folder_is_made_and_nothing_is_left_in_it(tmp_path):
    open_destination(tmp_path / "new" / "folder").check_writable()
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_a_file_or_a_forbidden_folder_is_found_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for where in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(MagicHourDownloadError, match="a file is where a folder is needed"):
            open_destination(where).check_writable()

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(MagicHourDownloadError, match="the worker may not write there"):
        open_destination(tmp_path).check_writable()


def test_a_full_disk_is_found_out(tmp_path):
    """An empty file fits on a full disk."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(MagicHourDownloadError, match="largest file that the worker may write"):
            open_destination(tmp_path).check_writable()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_any_kind_is_tried(monkeypatch):
    storage = open_destination("memory://probe/media")
    storage.check_writable()
    assert storage.fs.find("/probe") == []

    def refuse(*_args, **_options):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(storage.fs), "pipe_file", refuse)
    with pytest.raises(MagicHourDownloadError, match=r"memory://probe/media could not be stored"):
        storage.check_writable()


@pytest.mark.parametrize(
    ("where", "package"),
    [
        ("s3://b/x", r"airflow-provider-magichour\[amazon\]"),
        ("gs://b/x", r"airflow-provider-magichour\[google\]"),
        ("abfs://c@b/x", r"airflow-provider-magichour\[azure\]"),
        ("nosuch://b/x", "the Airflow provider of this store"),
    ],
)
def test_a_missing_file_system_names_what_brings_it(monkeypatch, where, package):
    try:
        from airflow.sdk.io import store
    except ImportError:
        from airflow.io import store
    import fsspec

    def missing(*_args, **_options):
        raise ImportError("not installed")

    monkeypatch.setattr(store, "attach", missing)
    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(MagicHourDownloadError, match=f"install {package}"):
        open_destination(where)


def test_forbidden_object_names_every_right_that_may_lack():
    error = storage_error(PermissionError("Forbidden"), "s3://b/p1")
    assert "write, read and list" in str(error)

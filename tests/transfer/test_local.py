"""Local disk: partial files of a killed worker, a full disk, and missing permissions."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._transfer.responses import Validator
from airflow_provider_magichour._transfer.sinks import LocalSink
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.files import complete_project, entries, entry, sha256, visible
from tests.support.scripted_server import Reply
from tests.transfer.conftest import digest, ranged


def download(destination, **options):
    return MagicHourHook().download_project("video", "p1", str(destination), **options)


def hidden(folder):
    return sorted(path.name for path in folder.rglob(".*") if path.is_file() and "receipt" not in path.name)


# --------------------------------------------------------------------------------------- killed workers


def test_killed_download_is_resumed(magichour_simulator, hook, tmp_path):
    magichour_simulator.faults({"output_bytes": 2_000_000, "times": 1})
    project_id = complete_project(magichour_simulator, hook)
    (known,) = hook.download_project("image", project_id, str(tmp_path / "whole"))
    slow = {"match": {"host": "downloads"}, "drip_bytes": 100_000, "drip_seconds": 0.5, "times": 1}
    magichour_simulator.faults(slow)
    part = tmp_path / "killed" / project_id / ".output.png.part"

    def work():
        MagicHourHook().download_project("image", project_id, str(tmp_path / "killed"))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    deadline = time.monotonic() + 120
    while (not part.exists() or part.stat().st_size < 500_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    held = part.stat().st_size
    assert 0 < held < 2_000_000
    assert visible(tmp_path / "killed") == []

    (file,) = hook.download_project("image", project_id, str(tmp_path / "killed"))
    assert file["sha256"] == known["sha256"] == sha256(file["path"])
    assert magichour_simulator.requests("download")[-1]["headers"]["range"] == f"bytes={held}-"
    assert [path.name for path in part.parent.iterdir()] == ["output.png"]


def test_retry_resumes_a_failed_download(host, tmp_path, media):
    host.fetch = lambda seen: ranged(media, seen, cut=200_000) if len(host.fetches) == 1 else Reply(500)
    with pytest.raises(errors.MagicHourDownloadError):
        download(tmp_path)
    assert visible(tmp_path) == []
    host.server.seen.clear()
    host.fetch = lambda seen: ranged(media, seen)
    (file,) = download(tmp_path)
    assert file["sha256"] == digest(media)
    assert host.fetches[0].headers["range"] == "bytes=200000-"
    assert hidden(tmp_path / "p1") == []


def test_complete_part_is_renamed_without_a_request(host, tmp_path, media):
    part = tmp_path / "p1" / ".output.mp4.part"
    part.parent.mkdir()
    part.write_bytes(media)
    note = Validator('"v1"', None, len(media)).as_dict()
    part.with_name(".output.mp4.part.json").write_text(json.dumps(note))
    host.fetch = lambda seen: Reply(500)
    assert download(tmp_path)[0]["sha256"] == digest(media)
    assert host.fetches == []


@pytest.mark.parametrize(
    ("paths", "file_name"),
    [(("/a/output.png", "/b/output.png"), None), (("/f/one.png", "/f/two.png"), "{index}{ext}")],
)
def test_complete_part_is_not_taken_for_another_output(host, tmp_path, paths, file_name):
    """Outputs come in another order, and their names do not tell them apart."""
    content = {paths[0]: b"1" * 1000, paths[1]: b"2" * 1000}
    part = tmp_path / "p1" / (".1.png.part" if file_name else ".output.png.part")
    part.parent.mkdir()
    part.write_bytes(content[paths[0]])
    part.with_name(f"{part.name}.json").write_text(json.dumps(Validator('"v1"', None, 1000).as_dict()))
    host.paths = list(reversed(paths))
    host.fetch = lambda seen: Reply(body=content[seen.path.partition("?")[0]], headers={"ETag": '"v1"'})
    files = download(tmp_path, file_name=file_name)
    assert [Path(file["path"]).read_bytes()[:1] for file in files] == [b"2", b"1"]


@pytest.mark.parametrize(
    "note",
    [
        None,
        "garbage",
        "[]",
        '{"etag": 1}',
        '{"etag": "a\\r\\nX: y"}',
        '{"etag": "\\"v1\\"", "length": -1}',
        '{"etag": null, "last_modified": null, "length": 300000}',
        '{"etag": "\\"v1\\"", "length": 10}',
        '{"etag": "\\"old\\"", "length": 300000}',
    ],
)
def test_part_of_unknown_version_is_not_resumed(host, tmp_path, media, note):
    part = tmp_path / "p1" / ".output.mp4.part"
    part.parent.mkdir()
    part.write_bytes(b"\0" * 1000)
    if note:
        part.with_name(".output.mp4.part.json").write_text(note)
    host.fetch = lambda seen: ranged(media, seen)
    assert download(tmp_path)[0]["sha256"] == digest(media)
    assert hidden(tmp_path / "p1") == []


def test_overwrite_does_not_resume_an_old_part(host, tmp_path, media):
    host.fetch = lambda seen: ranged(media, seen)
    first = download(tmp_path)
    part = tmp_path / "p1" / ".output.mp4.part"
    part.write_bytes(media[:1000])
    note = Validator('"v1"', None, len(media)).as_dict()
    part.with_name(".output.mp4.part.json").write_text(json.dumps(note))
    assert download(tmp_path, overwrite=True) == first
    assert "range" not in host.fetches[-1].headers
    assert hidden(tmp_path / "p1") == []


def test_two_tasks_at_once_store_the_same_files(host, tmp_path, media):
    started = threading.Barrier(3, timeout=60)

    def fetch_it(seen):
        started.wait()  # all three are at it before one gets a byte
        return ranged(media, seen)

    host.fetch = fetch_it
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: download(tmp_path), range(3)))
    assert all(files[0]["sha256"] == digest(media) for files in results)
    assert sha256(results[0][0]["path"]) == digest(media)
    assert hidden(tmp_path / "p1") == []


def test_lock_on_a_renamed_part_does_not_count(tmp_path):
    final = tmp_path / "a.mp4"
    first = LocalSink(final)
    first.restart(Validator('"1"', None, 4))
    second = LocalSink(final)  # while the first one is at it
    first.write(b"good")
    first.publish()
    third = LocalSink(final)
    third.restart(Validator())
    third.write(b"other")
    second.restart(Validator())
    second.write(b"bad")
    second.close()
    assert final.read_bytes() == b"good"
    third.discard()
    assert visible(tmp_path) == ["a.mp4"]
    assert hidden(tmp_path) == []


# --------------------------------------------------------------------------------------------- reruns


def test_second_download_sends_no_file_request(host, tmp_path, media):
    host.fetch = lambda seen: Reply(body=media)
    first = download(tmp_path)
    host.server.seen.clear()
    assert download(tmp_path) == first
    assert [seen.path for seen in host.server.seen] == ["/v1/video-projects/p1"]


def test_files_of_a_deleted_project_are_found(sim, hook, tmp_path):
    """A Clear of a task that ran before the clean-up needs nothing of Magic Hour."""
    project_id = complete_project(sim, hook)
    first = hook.download_project("image", project_id, str(tmp_path))
    hook.delete_project("image", project_id)
    assert hook.download_project("image", project_id, str(tmp_path)) == first  # enabled: false
    sim.faults({"match": {"route": "get_project"}, "status": 404})
    assert hook.download_project("image", project_id, str(tmp_path)) == first
    (tmp_path / project_id / "output.png").unlink()
    with pytest.raises(errors.MagicHourNotFoundError):
        hook.download_project("image", project_id, str(tmp_path))


def test_second_download_fetches_only_missing_or_damaged_files(host, tmp_path, media):
    host.paths = ["/1/a.mp4", "/2/b.mp4", "/3/c.mp4"]
    host.fetch = lambda seen: Reply(body=media)
    first = download(tmp_path)
    (tmp_path / "p1" / "a.mp4").unlink()
    (tmp_path / "p1" / "b.mp4").write_bytes(b"cut")
    host.server.seen.clear()
    assert download(tmp_path) == first
    assert sorted(seen.path[:8] for seen in host.fetches) == ["/1/a.mp4", "/2/b.mp4"]
    assert sha256(tmp_path / "p1" / "b.mp4") == digest(media)


def test_overwrite_replaces_atomically_and_renews_the_receipt(host, tmp_path, media):
    host.fetch = lambda seen: Reply(body=b"old")
    download(tmp_path)
    final = tmp_path / "p1" / "output.mp4"

    def fetch_it(seen):
        assert final.read_bytes() == b"old"  # until the new one is complete
        return Reply(body=media)

    host.fetch = fetch_it
    (file,) = download(tmp_path, overwrite=True)
    assert sha256(final) == file["sha256"] == digest(media)
    assert entry(tmp_path, "p1")["files"][0]["sha256"] == digest(media)


def test_failed_file_does_not_stop_the_others(host, tmp_path, media):
    host.paths = ["/1/a.mp4", "/2/bad.mp4", "/3/c.mp4"]
    host.fetch = lambda seen: Reply(500) if "bad" in seen.path else Reply(body=media)
    with pytest.raises(errors.MagicHourDownloadError, match="bad"):
        download(tmp_path)
    assert visible(tmp_path) == ["p1/a.mp4", "p1/c.mp4"]
    assert entries(tmp_path) == {}


def test_equal_names_get_distinct_files(host, tmp_path):
    host.paths = ["/1/output.png", "/2/output.png", "/3/OUTPUT.png"]
    host.fetch = lambda seen: Reply(body=seen.path[1:2].encode())
    files = download(tmp_path)
    assert [Path(file["path"]).read_text() for file in files] == ["1", "2", "3"]
    assert [file["path"].rpartition("/")[2] for file in files] == [
        "output.png",
        "output-2.png",
        "OUTPUT-3.png",
    ]


def test_file_that_the_project_names_later_is_fetched(host, tmp_path):
    host.paths = ["/a.png"]
    first = download(tmp_path)
    host.paths = ["/a.png", "/b.png"]
    assert [Path(file["path"]).name for file in download(tmp_path)] == ["a.png", "b.png"]
    assert len(host.fetches) == 2
    host.paths = ["/a.png"]
    assert download(tmp_path)[:1] == first


def test_receipt_of_another_kind_is_another_project(host, tmp_path):
    download(tmp_path)
    with pytest.raises(errors.MagicHourDownloadError, match="holds the video project"):
        MagicHourHook().download_project("image", "p1", str(tmp_path))


@pytest.mark.parametrize("shape", ["{}", "file://{}", "file://localhost{}"])
def test_paths_have_the_form_of_the_destination(host, tmp_path, shape):
    destination = shape.format(tmp_path / "with space # and ?")
    (file,) = download(f"{destination}/")
    assert file["path"] == f"{destination}/p1/output.mp4"
    assert (tmp_path / "with space # and ?" / "p1" / "output.mp4").read_bytes() == b"media"


# ------------------------------------------------------------------------------------ full and forbidden


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_disk_is_named(host, small_disk, media):
    host.fetch = lambda seen: Reply(body=media)
    with pytest.raises(errors.MagicHourDownloadError, match=r"output\.mp4.*disk is full"):
        download(small_disk)
    assert visible(small_disk) == []
    assert hidden(small_disk) == []  # the space is free again
    host.fetch = lambda seen: Reply(body=media[:1000])
    assert download(small_disk)


def _with_a_quota(destination, report):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        download(destination)
    except errors.MagicHourDownloadError as error:
        report.put(str(error))


def test_exceeded_quota_is_named(host, tmp_path, media):
    host.fetch = lambda seen: Reply(body=media)
    context = multiprocessing.get_context("fork")
    report = context.Queue()
    process = context.Process(target=_with_a_quota, args=(str(tmp_path), report))
    process.start()
    assert "largest file" in report.get(timeout=120)
    process.join()
    assert visible(tmp_path) == []


def test_destination_that_is_a_file_is_refused(host, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(errors.MagicHourDownloadError, match="a file is where a folder is needed"):
        download(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_folder_in_place_of_the_file_is_named(host, tmp_path):
    (tmp_path / "p1" / "output.mp4" / "mine").mkdir(parents=True)
    with pytest.raises(errors.MagicHourDownloadError, match="a folder is where the file belongs"):
        download(tmp_path)
    assert hidden(tmp_path / "p1") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_write_permission_is_named(host, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(errors.MagicHourDownloadError, match="may not write"):
            download(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_read_only_file_system_is_named(host):
    with pytest.raises(errors.MagicHourDownloadError, match=r"/proc/magichour.* - "):
        download("/proc/magichour")


@pytest.mark.parametrize("destination", [None, "", "  ", 3, b"/x", ["/x"], "/a\0b", "s3://"])
def test_invalid_destination_is_refused(host, destination):
    with pytest.raises(
        (errors.MagicHourArgumentError, errors.MagicHourDownloadError), match=r"such as|control|bucket"
    ):
        MagicHourHook().download_project("video", "p1", destination)
    assert host.server.seen == []

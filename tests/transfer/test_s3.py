"""Object stores: S3 over the wire, and a store that shows files while they are written."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._transfer import object_sink
from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour._transfer.responses import Validator
from airflow_provider_magichour._transfer.s3 import open_s3
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import MagicHourCleanupOperator, MagicHourDownloadOperator
from tests.support.files import complete_project
from tests.support.scripted_server import Reply
from tests.support.stores import S3Store, connect_s3, requests_to
from tests.support.tasks import task_context
from tests.transfer.conftest import digest, ranged

pytest.importorskip("moto.server")
pytest.importorskip("s3fs")


@pytest.fixture
def s3(s3_endpoint, monkeypatch):
    connect_s3(s3_endpoint, monkeypatch)
    store = S3Store("media", s3_endpoint)
    yield store.client
    store.remove()


def keys(client):
    return [one["Key"] for one in client.list_objects_v2(Bucket="media").get("Contents", [])]


def uploads(client):
    return client.list_multipart_uploads(Bucket="media").get("Uploads", [])


def outputs(client):
    return [key for key in keys(client) if "/." not in f"/{key}" and "magichour-catalog" not in key]


def body(client, key):
    return client.get_object(Bucket="media", Key=key)["Body"].read()


WHERE = "s3://aws_test@media/in/here"
ENTRY = "in/here/magichour-catalog/dt=2026-01-01/235959-p1.json"


def download(**options):
    operator = MagicHourDownloadOperator(
        task_id="t", project_id="p1", kind="video", destination=WHERE, **options
    )
    return operator.execute(task_context())


def clean_up(**options):
    operator = MagicHourCleanupOperator(task_id="c", destination=WHERE, older_than=timedelta(0), **options)
    return operator.execute(task_context())


def test_file_is_stored_with_its_receipt_and_cleaned_up(host, s3, media):
    host.fetch = lambda seen: ranged(media, seen)
    files = download()
    assert files == [
        {
            "path": f"{WHERE}/p1/output.mp4",
            "bytes": len(media),
            "sha256": digest(media),
            "content_type": "video/mp4",
        }
    ]
    assert digest(body(s3, "in/here/p1/output.mp4")) == digest(media)
    receipt = json.loads(body(s3, ENTRY))
    assert receipt["folder"] == ""
    assert receipt["destination"] == "s3://media/in/here"
    assert receipt["files"][0]["path"] == "p1/output.mp4"
    assert receipt["run_id"] == "run"
    host.server.seen.clear()
    assert download() == files
    assert [seen.path for seen in host.server.seen] == ["/v1/video-projects/p1"]

    assert clean_up(dry_run=True)["kept"] == [{"id": "p1", "reason": "would delete"}]
    assert clean_up()["deleted"] == ["p1"]
    assert host.server.seen[-1].method == "DELETE"
    assert clean_up() == {"deleted": [], "missing": [], "kept": []}
    deleted = json.loads(body(s3, ENTRY.replace(".json", "-deleted.json")))
    assert deleted["outcome"] == "deleted"
    assert outputs(s3) == ["in/here/p1/output.mp4"]


def test_project_whose_object_is_gone_is_kept(host, s3, media):
    host.fetch = lambda seen: Reply(body=media)
    download()
    s3.delete_object(Bucket="media", Key="in/here/p1/output.mp4")
    host.server.seen.clear()
    (kept,) = clean_up()["kept"]
    assert "is not there" in kept["reason"]
    assert [seen.path for seen in host.server.seen] == ["/v1/account"]
    assert download()
    assert body(s3, "in/here/p1/output.mp4") == media


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_damaged_receipt_is_kept_and_repaired(host, s3, media, content):
    host.fetch = lambda seen: Reply(body=media)
    download()
    s3.put_object(Bucket="media", Key=ENTRY, Body=content)
    assert "not JSON" in clean_up()["kept"][0]["reason"]
    download()
    assert clean_up(dry_run=True)["kept"] == [{"id": "p1", "reason": "would delete"}]


@pytest.mark.parametrize("size", [300_000, 12_000_000])
def test_interrupted_download_publishes_nothing(host, s3, media, size):
    data = media * (size // len(media))
    host.fetch = lambda seen: (
        ranged(data, seen, cut=size - 100_000) if "range" not in seen.headers else Reply(500)
    )
    with pytest.raises(errors.MagicHourDownloadError, match="500"):
        download()
    assert keys(s3) == []
    assert uploads(s3) == []


def test_large_file_resumes_within_one_multipart_upload(host, s3, media):
    data = media * 60
    host.fetch = lambda seen: ranged(data, seen, cut=7_000_000)
    (file,) = download()
    assert file["sha256"] == digest(data) == digest(body(s3, "in/here/p1/output.mp4"))
    assert uploads(s3) == []
    assert len(host.fetches) == 3


def test_changed_file_leaves_no_multipart_upload(host, s3, media):
    old, new = media * 40, media[::-1] * 40

    def fetch_it(seen):
        return ranged(old, seen, cut=9_000_000) if len(host.fetches) == 1 else ranged(new, seen, etag='"v2"')

    host.fetch = fetch_it
    (file,) = download()
    assert file["sha256"] == digest(new) == digest(body(s3, "in/here/p1/output.mp4"))
    assert uploads(s3) == []


def test_overwrite_keeps_the_old_object_until_the_new_one_is_complete(host, s3, media):
    host.fetch = lambda seen: Reply(body=b"old")
    download()
    host.fetch = lambda seen: ranged(media, seen, cut=100_000) if len(host.fetches) < 3 else Reply(500)
    with pytest.raises(errors.MagicHourDownloadError):
        download(overwrite=True)
    assert body(s3, "in/here/p1/output.mp4") == b"old"
    host.fetch = lambda seen: ranged(media, seen)
    download(overwrite=True)
    assert body(s3, "in/here/p1/output.mp4") == media


def test_missing_bucket_is_named(host, s3, media):
    host.fetch = lambda seen: Reply(body=media)
    with pytest.raises(errors.MagicHourDownloadError, match=r"nowhere/p1/output\.mp4.*make it first"):
        MagicHourHook().download_project("video", "p1", "s3://aws_test@nowhere")
    assert [one["Name"] for one in s3.list_buckets()["Buckets"]] == ["media"]


@pytest.mark.parametrize(
    ("length", "size"),
    [(1, 6 * 2**20), (50 * 2**30, 6 * 2**20), (100 * 2**30, 12 * 2**20), (None, 12 * 2**20)],
)
def test_part_size_grows_with_the_file(s3, length, size):
    sink = object_sink.ObjectSink(open_destination(WHERE), "p/a")
    sink.restart(Validator(length=length))
    assert sink.part_size == size
    assert length is None or size * 10_000 > length


# -------------------------------------------------------------- a store that shows what is being written


@pytest.fixture
def memory():
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    return MemoryFileSystem()


def test_unknown_storage_scheme_is_named(host):
    with pytest.raises(errors.MagicHourDownloadError, match=r"no file system for nosuch://a.*install"):
        MagicHourHook().download_project("video", "p1", "nosuch://a/b")


def test_other_stores_use_a_temporary_name(host, memory, media):
    def fetch_it(seen):
        assert not [name for name in memory.find("/box") if name.endswith("output.mp4")]
        return ranged(media, seen)

    host.fetch = fetch_it
    (file,) = MagicHourHook().download_project("video", "p1", "memory://box")
    assert file["path"] == "memory://box/p1/output.mp4"
    assert memory.cat_file("/box/p1/output.mp4") == media
    assert [name for name in memory.find("/box") if name.endswith((".part", ".tmp"))] == []


def test_other_stores_keep_nothing_of_an_interrupted_download(host, memory, media):
    host.fetch = lambda seen: ranged(media, seen, cut=200_000) if "range" not in seen.headers else Reply(500)
    with pytest.raises(errors.MagicHourDownloadError):
        MagicHourHook().download_project("video", "p1", "memory://box")
    assert memory.find("/") == []


def test_empty_receipt_is_replaced(hook, magichour_simulator, s3):
    project_id = complete_project(magichour_simulator, hook)
    s3.put_object(Bucket="media", Key=f"in/here/{project_id}/.magichour-receipt.json", Body=b"")
    (file,) = hook.download_project("image", project_id, WHERE)
    assert digest(body(s3, f"in/here/{project_id}/output.png")) == file["sha256"]


@pytest.mark.parametrize("made", [False, True])
def test_requests_to_the_store_are_few(hook, sim, s3, s3_endpoint, monkeypatch, made):
    """Two writes, the file and its entry; one read, and none of what this very try has made."""
    hook.download_project("image", complete_project(sim, hook), WHERE)  # opens the store
    project_id = complete_project(sim, hook)
    sent = requests_to(s3_endpoint, monkeypatch)
    hook.download_project("image", project_id, WHERE, made=[project_id] if made else [])
    assert sorted(method for method, _ in sent) == (["PUT", "PUT"] if made else ["GET", "PUT", "PUT"])
    sent.clear()
    hook.download_project("image", project_id, WHERE)
    assert [method for method, _ in sent] == ["GET", "GET"]  # what is there, and its entry


def test_one_list_tells_which_of_many_projects_are_new(hook, sim, s3, s3_endpoint, monkeypatch):
    old, *new = (complete_project(sim, hook) for _ in range(4))
    (file,) = hook.download_project("image", old, WHERE)
    sent = requests_to(s3_endpoint, monkeypatch)
    found = hook.download_project("image", [*new, old], WHERE)
    # the list; what is there of the old one, and its entry
    assert sorted(method for method, _ in sent) == [*["GET"] * 3, *["PUT"] * 6]
    assert found[3] == [file]


@pytest.mark.parametrize(
    ("page", "known"),
    [(1, {"p0"}), (2, {"p0"}), (3, {"p0"}), (4, {"p0", "p2"}), (1000, {"p0", "p2", "p4"})],
)
def test_list_of_a_large_destination_tells_only_what_it_reached(s3, monkeypatch, page, known):
    """Names sort otherwise with a slash behind them: ``p1-x/`` comes before ``p1/``."""
    for name in ("aaa", "p1", "p1-x", "p3", "zzz"):
        s3.put_object(Bucket="media", Key=f"in/here/{name}/output.png", Body=b"x")
    s3.put_object(Bucket="media", Key="in/here/p2.json", Body=b"x")
    storage = open_destination(WHERE)
    store = open_s3(storage, {})
    original = store.client.list_objects_v2
    monkeypatch.setattr(store.client, "list_objects_v2", lambda **options: original(MaxKeys=page, **options))
    assert store.absent(storage.full(""), ["p3", "p1", "p1-x", "p0", "p2", "p4"]) == known
    store.close()


@pytest.mark.parametrize("pages", [1, 3])
def test_catalogue_is_listed_in_pages(s3, monkeypatch, pages):
    storage = open_destination(WHERE)
    names = [f"{number:06}-p.json" for number in range(5)]
    for name in names:
        s3.put_object(Bucket="media", Key=f"in/here/magichour-catalog/dt=2026-01-01/{name}", Body=b"{}")
    original = type(storage.fs).call_s3

    def few(self, method, **options):
        return original(self, method, MaxKeys=5 if pages == 1 else 2, **options)

    monkeypatch.setattr(type(storage.fs), "call_s3", few)
    folder = "magichour-catalog/dt=2026-01-01"
    assert list(storage.scan(folder)) == storage.names(folder) == names
    assert list(storage.scan(folder, "000002")) == names[2:]
    assert storage.names("magichour-catalog") == ["dt=2026-01-01"]
    assert storage.sizes(folder) == dict.fromkeys(names, 2)
    assert storage.names("nowhere") == []
    assert storage.sizes("nowhere") == {}
    assert open_destination("s3://aws_test@no-such-bucket").names("") == []


def test_new_project_is_stored_without_listing_the_others(hook, magichour_simulator, s3, monkeypatch):
    import s3fs

    listed = []
    list_folder = s3fs.S3FileSystem._lsdir

    async def note(self, path, *args, **options):
        listed.append(path)
        return await list_folder(self, path, *args, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_lsdir", note)
    hook.download_project("image", complete_project(magichour_simulator, hook), WHERE)
    assert "media/in/here" not in listed


def test_failed_rename_leaves_nothing_behind(monkeypatch):
    storage = open_destination("memory:///unnamed")

    def refuse(*args, **options):
        raise PermissionError("no renames")

    monkeypatch.setattr(type(storage.fs), "mv", refuse)
    sink = object_sink.ObjectSink(storage, "p1/output.png")
    sink.restart(Validator(length=5))
    sink.write(b"media")
    with pytest.raises(PermissionError):
        sink.publish()
    sink.discard()
    assert storage.fs.find("/unnamed") == []

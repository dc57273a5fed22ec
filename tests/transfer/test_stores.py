"""Downloads into each object store: S3 (moto), Azure (Azurite) and Google Cloud Storage (an emulator)."""

from __future__ import annotations

import threading

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._transfer import s3
from airflow_provider_magichour._transfer.object_sink import PART
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.scripted_server import Reply
from tests.support.stores import S3Store, Store
from tests.transfer.conftest import Host, digest, ranged

pytestmark = pytest.mark.xdist_group("stores")


def download(store: Store, **options):
    return MagicHourHook().download_project("video", "p1", store.url, **options)


@pytest.mark.parametrize("size", [1_000, 20_000_000])
def test_file_is_stored_whole(host: Host, object_store: Store, media: bytes, size: int):
    data = (media * (size // len(media) + 1))[:size]
    host.fetch = lambda seen: ranged(data, seen)
    (file,) = download(object_store)
    assert file["path"] == f"{object_store.url}/p1/output.mp4"
    assert file["sha256"] == digest(data) == digest(object_store.read("in/here/p1/output.mp4"))
    assert object_store.visible() == ["p1/output.mp4"]
    host.server.seen.clear()
    assert download(object_store) == [file]
    assert host.fetches == []


@pytest.mark.parametrize("size", [300_000, 20_000_000])
def test_interrupted_download_publishes_nothing(host: Host, object_store: Store, media: bytes, size: int):
    data = media * (size // len(media))
    host.fetch = lambda seen: (
        ranged(data, seen, cut=len(data) - 100_000) if "range" not in seen.headers else Reply(500)
    )
    with pytest.raises(errors.MagicHourDownloadError, match="500"):
        download(object_store)
    assert object_store.keys() == []


def test_failed_overwrite_keeps_the_old_object(host: Host, object_store: Store, media: bytes):
    old, new = media, media * 60
    host.fetch = lambda seen: ranged(old, seen)
    download(object_store)
    host.fetch = lambda seen: ranged(new, seen, cut=17_000_000) if "range" not in seen.headers else Reply(500)
    with pytest.raises(errors.MagicHourDownloadError):
        download(object_store, overwrite=True)
    assert object_store.read("in/here/p1/output.mp4") == old
    host.fetch = lambda seen: ranged(new, seen)
    download(object_store, overwrite=True)
    assert digest(object_store.read("in/here/p1/output.mp4")) == digest(new)


class TestMultipartUploads:
    """Unfinished uploads to S3, which are charged for until they are aborted."""

    KEY = "in/here/p1/output.mp4"

    def test_upload_of_a_killed_try_is_aborted(self, host: Host, s3_store: S3Store, media: bytes):
        for key in (self.KEY, f"{self.KEY}.other"):
            s3_store.client.create_multipart_upload(Bucket=s3_store.bucket, Key=key)
        host.fetch = lambda seen: ranged(media * 60, seen)
        download(s3_store)
        assert [one["Key"] for one in s3_store.unfinished_uploads()] == [f"{self.KEY}.other"]

    def test_upload_that_another_task_aborted_starts_over(
        self, host: Host, s3_store: S3Store, media: bytes, monkeypatch
    ):
        from moto.s3.exceptions import NoSuchUpload
        from moto.s3.models import S3Backend

        data, upload_part = media * 60, S3Backend.upload_part

        def as_s3_does(self, bucket_name, multipart_id, *args, **kwargs):  # moto itself fails with a 500
            if multipart_id not in self.buckets[bucket_name].multiparts:
                raise NoSuchUpload(upload_id=multipart_id)
            return upload_part(self, bucket_name, multipart_id, *args, **kwargs)

        monkeypatch.setattr(S3Backend, "upload_part", as_s3_does)

        def abort_then_serve(seen):
            for one in s3_store.unfinished_uploads() if len(host.fetches) == 2 else []:
                s3_store.client.abort_multipart_upload(
                    Bucket=s3_store.bucket, Key=one["Key"], UploadId=one["UploadId"]
                )
            return ranged(data, seen, cut=9_000_000 if len(host.fetches) == 1 else None)

        host.fetch = abort_then_serve
        (file,) = download(s3_store)
        assert file["sha256"] == digest(data) == digest(s3_store.read(self.KEY))
        assert s3_store.unfinished_uploads() == []

    def test_parts_are_equal_and_go_side_by_side(
        self, host: Host, s3_store: S3Store, media: bytes, monkeypatch
    ):
        sizes, open_now, most = [], 0, 0
        lock, send = threading.Lock(), s3.MultipartUpload._send
        side_by_side = threading.Event()

        def slow_send(self, number, part):
            nonlocal open_now, most
            with lock:
                sizes.append((number, len(part)))
                open_now += 1
                most = max(most, open_now)
            if most > 1:
                side_by_side.set()
            side_by_side.wait(60)  # for another part
            try:
                return send(self, number, part)
            finally:
                with lock:
                    open_now -= 1

        monkeypatch.setattr(s3.MultipartUpload, "_send", slow_send)
        host.fetch = lambda seen: ranged(media * 120, seen)
        download(s3_store)
        *equal, last = [size for _, size in sorted(sizes)]
        assert set(equal) == {PART}
        assert 0 < last <= PART
        assert 2 <= most <= s3.UPLOADS

"""Downloads into each object store: S3 (moto), Azure (Azurite) and Google Cloud Storage (an emulator)."""

from __future__ import annotations

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.scripted_server import Reply
from tests.support.stores import Store
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

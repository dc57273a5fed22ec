"""What outputs are called, by template and by content type, and what their objects say of themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour._transfer.object_sink import check_open_args
from airflow_provider_magichour.exceptions import MagicHourArgumentError, MagicHourDownloadError
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.files import visible
from tests.support.scripted_server import Reply
from tests.support.stores import S3Store, Store
from tests.transfer.conftest import Host, digest, ranged

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
WEBP = b"RIFF\x24\0\0\0WEBPVP8 " + bytes(100)


def names(host: Host, tmp_path: Path, **options: Any) -> list[str]:
    files = MagicHourHook().download_project("image", "p1", str(tmp_path), **options)
    found = [Path(file["path"]).name for file in files]
    assert sorted(f"p1/{name}" for name in found) == visible(tmp_path)
    return found


@pytest.fixture
def two(host: Host) -> Host:
    host.paths = ["/files/a.png", "/files/b.png"]
    host.fetch = lambda seen: Reply(body=PNG, headers={"Content-Type": "image/png"})
    return host


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("sku-{index}{ext}", ["sku-1.png", "sku-2.png"]),
        ("{index:03}-{stem}", ["001-a.png", "002-b.png"]),
        ("{project_id}_{kind}_{stem}{ext}", ["p1_image_a.png", "p1_image_b.png"]),
        ("cover{ext}", ["cover.png", "cover-2.png"]),
        ("{tool}{index}.jpg", ["1.jpg", "2.jpg"]),
        ("..{index}", ["1.png", "2.png"]),
    ],
)
def test_template_names_the_files(two: Host, tmp_path: Path, template: str, expected: list[str]) -> None:
    assert names(two, tmp_path, file_name=template) == expected
    two.server.seen.clear()
    assert names(two, tmp_path, file_name=template) == expected
    assert two.fetches == []


@pytest.mark.parametrize(
    "template", ["a/{index}", "{what}", "{index.real}", "{name!r}", "{", "", 7, "{index:999}", "..\\{index}"]
)
def test_invalid_template_is_refused_before_any_request(two: Host, tmp_path: Path, template: Any) -> None:
    with pytest.raises(MagicHourArgumentError, match="file_name"):
        names(two, tmp_path, file_name=template)
    assert two.server.seen == []


def test_missing_extension_comes_from_the_content_type(host: Host, tmp_path: Path) -> None:
    host.paths = ["/files/abc", "/files/abc", "/files/abc.png"]
    host.fetch = lambda seen: Reply(body=PNG, headers={"Content-Type": "image/png"})
    assert names(host, tmp_path) == ["abc.png", "abc-2.png", "abc-3.png"]
    host.server.seen.clear()
    assert names(host, tmp_path) == ["abc.png", "abc-2.png", "abc-3.png"]
    assert host.fetches == []
    (tmp_path / "p1" / "abc-2.png").unlink()
    assert names(host, tmp_path) == ["abc.png", "abc-2.png", "abc-3.png"]
    # The API may give them in another order, so it is not certain which one is missing.
    assert len(host.fetches) == 3


def test_interrupted_file_without_extension_is_resumed_and_completed(
    host: Host, tmp_path: Path, media: bytes
) -> None:
    data = PNG + media
    host.paths = ["/files/abc"]

    def fetch_it(seen: Any) -> Reply:
        reply = ranged(data, seen, cut=200_000 if len(host.fetches) == 1 else None)
        return Reply(reply.status, reply.body, {**reply.headers, "Content-Type": ""})

    host.fetch = fetch_it
    (file,) = MagicHourHook().download_project("image", "p1", str(tmp_path))
    assert (file["path"], file["sha256"]) == (str(tmp_path / "p1" / "abc.png"), digest(data))
    assert file["content_type"] == "image/png"


@pytest.mark.parametrize("announced", ["image/png", "application/octet-stream"])
def test_webp_named_png_keeps_its_name_and_the_result_says_its_type(
    host: Host, tmp_path: Path, announced: str
) -> None:
    host.paths = ["/files/a.png"]
    host.fetch = lambda seen: Reply(body=WEBP, headers={"Content-Type": announced})
    (file,) = MagicHourHook().download_project("image", "p1", str(tmp_path))
    assert (Path(file["path"]).name, file["content_type"]) == ("a.png", "image/webp")


@pytest.mark.parametrize("size", [1_000, 20_000_000])
def test_object_has_content_type_and_metadata(
    host: Host, object_store: Store, media: bytes, size: int
) -> None:
    data = (WEBP + media * 70)[:size]
    host.paths = ["/files/a"]
    host.fetch = lambda seen: Reply(body=data, headers={"Content-Type": "application/octet-stream"})
    (file,) = MagicHourHook().download_project("image", "p1", object_store.url)
    assert file["path"] == f"{object_store.url}/p1/a.webp"
    key = "in/here/p1/a.webp"
    assert object_store.content_type(key) == "image/webp"
    metadata = object_store.metadata(key)
    assert metadata["project_id"] == "p1"
    if size < 8_000_000 or "abfs" in object_store.url:  # others take metadata only before the first part
        assert metadata["sha256"] == file["sha256"]


@pytest.mark.parametrize("size", [1_000, 20_000_000])
def test_open_args_reach_s3(host: Host, s3_store: S3Store, media: bytes, size: int) -> None:
    host.fetch = lambda seen: Reply(body=(media * 70)[:size])
    open_args = {
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "alias/media",
        "StorageClass": "STANDARD_IA",
        "Tagging": "team=media",
        "acl": "bucket-owner-full-control",
        "Metadata": {"campaign": "spring"},
        "CacheControl": "max-age=60",
    }
    MagicHourHook().download_project("image", "p1", s3_store.url, open_args=open_args)
    head = s3_store.head("in/here/p1/output.mp4")
    assert head["ServerSideEncryption"] == "aws:kms"
    assert (head["StorageClass"], head["CacheControl"]) == ("STANDARD_IA", "max-age=60")
    entry = next(filter(lambda key: "magichour-catalog" in key, s3_store.keys()))
    assert s3_store.head(entry)["ServerSideEncryption"] == "aws:kms"
    assert s3_store.head(entry).get("StorageClass") is None
    assert head["Metadata"]["campaign"] == "spring"
    assert head["Metadata"]["project_id"] == "p1"
    tags = s3_store.client.get_object_tagging(Bucket=s3_store.bucket, Key="in/here/p1/output.mp4")["TagSet"]
    assert tags == [{"Key": "team", "Value": "media"}]


def test_misspelt_open_arg_is_refused(host: Host, s3_store: S3Store) -> None:
    with pytest.raises(MagicHourArgumentError, match="open_args has StorageClas, which S3 does not accept"):
        MagicHourHook().download_project("image", "p1", s3_store.url, open_args={"StorageClas": "GLACIER"})
    assert s3_store.keys() == []


@pytest.mark.parametrize(
    ("open_args", "said"),
    [
        ({"StorageClas": "GLACIER"}, "StorageClas, which S3 does not accept"),
        ({"StorageClass": "GLACIAL"}, "value that S3 does not accept.*storage class"),
        ({"Metadata": {"campaign": 5}}, "open_args has Metadata, with which .* cannot be written"),
        ({"Tagging": {"team": "media"}}, "value that S3 does not accept: Parameter validation failed"),
        ({"StorageClass": "STANDARD_IA", "ObjectLockMode": "GOVERNANCE"}, None),
    ],
)
def test_open_args_are_tried_before_a_submit(
    s3_store: S3Store, open_args: dict[str, Any], said: str | None
) -> None:
    destination = open_destination(s3_store.url)
    if said is None:
        check_open_args(destination, open_args)
    else:
        with pytest.raises(MagicHourArgumentError, match=said):
            check_open_args(destination, open_args)
    assert s3_store.keys() == []


@pytest.mark.parametrize("name", ["a.svg", "a.srt", "a.json", "a.vtt", "a.txt"])
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<!DOCTYPE html><p>Sign in", "image/svg+xml"),
        (b"\n<html><body>", ""),
        (b"anything", "text/html; charset=utf-8"),
        (b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>", "application/xml"),
    ],
)
def test_error_page_is_not_stored_as_text(
    host: Host, tmp_path: Path, name: str, body: bytes, content_type: str
) -> None:
    host.paths = [f"/files/{name}"]
    host.fetch = lambda seen: Reply(body=body, headers={"Content-Type": content_type})
    with pytest.raises(Exception, match="a web page or an error message instead of the file"):
        MagicHourHook().download_project("image", "p1", str(tmp_path))
    assert visible(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.svg", b"<?xml version='1.0'?><!-- drawn --><svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("a.svg", b"<svg/>"),
        ("a.json", json.dumps({"v": "5.7"}).encode()),
        ("a.srt", b"1\n00:00:00,000 --> 00:00:01,000\nHi"),
        ("a.html", b"<!doctype html><p>x"),
        ("a.xml", b"<?xml version='1.0'?><captions/>"),
    ],
)
def test_text_output_is_stored(host: Host, tmp_path: Path, name: str, body: bytes) -> None:
    host.paths = [f"/files/{name}"]
    host.fetch = lambda seen: Reply(body=body, headers={"Content-Type": "text/plain"})
    MagicHourHook().download_project("image", "p1", str(tmp_path))
    assert (tmp_path / "p1" / name).read_bytes() == body


@pytest.mark.parametrize(
    ("name", "body", "stored"),
    [
        ("a.json", b'{"v": 1}', "clip-1.json"),
        ("a.svg", b"<svg/>", "clip-1.svg"),
        ("a.lottie", b"{}", "clip-1.lottie"),
        ("a.png", WEBP, "clip-1.webp"),
    ],
)
def test_template_without_extension_gets_that_of_the_file(
    host: Host, tmp_path: Path, name: str, body: bytes, stored: str
) -> None:
    host.paths = [f"/files/{name}"]
    host.fetch = lambda seen: Reply(body=body, headers={"Content-Type": "application/octet-stream"})
    MagicHourHook().download_project("image", "p1", str(tmp_path), file_name="clip-{index}")
    assert visible(tmp_path) == [f"p1/{stored}"]


@pytest.mark.parametrize(
    ("first", "fresh", "is_known"),
    [
        (("/1/a.png", "/1/b.png"), ("/2/b.png", "/2/a.png"), True),
        (("/1/x/out.png", "/1/y/out.png"), ("/2/y/out.png", "/2/x/out.png"), False),
    ],
)
def test_fresh_url_is_that_of_the_same_file(host, tmp_path, first, fresh, is_known):
    """Paths of URLs hold a token, the first URL has expired, and the fresh ones come in another order."""

    def fetch_it(seen):
        if seen.path.startswith(first[0]):
            host.paths = list(fresh)
            return Reply(403)
        return Reply(body=seen.path.partition("?")[0][3:].encode() * 100)

    host.paths, host.fetch = list(first), fetch_it
    if is_known:
        files = MagicHourHook().download_project("image", "p1", str(tmp_path))
        assert [Path(file["path"]).read_bytes()[:5] for file in files] == [b"a.png", b"b.png"]
    else:
        with pytest.raises(MagicHourDownloadError, match="do not show which file"):
            MagicHourHook().download_project("image", "p1", str(tmp_path))


def test_files_of_one_name_are_told_apart_when_the_api_changes_their_order(host, tmp_path):
    host.paths = ["/x/out.mp4", "/y/out.mp4"]
    host.fetch = lambda seen: Reply(body=(b"AAAA" if "/x/" in seen.path else b"BBBB") * 100)
    first, _ = MagicHourHook().download_project("video", "p1", str(tmp_path))
    Path(first["path"]).unlink()
    host.paths.reverse()
    files = MagicHourHook().download_project("video", "p1", str(tmp_path))
    assert {Path(file["path"]).read_bytes()[:1] for file in files} == {b"A", b"B"}

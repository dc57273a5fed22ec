"""Unusual responses to a download: no wrong byte gets a final name."""

from __future__ import annotations

import gzip
import logging
import zlib
from itertools import pairwise

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._transfer import fetch
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.files import visible
from tests.support.scripted_server import Reply
from tests.transfer.conftest import assert_whole, digest, ranged


def download(tmp_path, **options):
    return MagicHourHook().download_project("video", "p1", str(tmp_path), **options)


def assert_nothing_is_stored(tmp_path, match=None, **options):
    with pytest.raises(errors.MagicHourDownloadError, match=match):
        download(tmp_path, **options)
    assert visible(tmp_path) == []


def cut_once(host, media, respond_to_range):
    """Cut the first response after 200,000 bytes; what a Range gets is the test's own."""

    def fetch_it(seen):
        if "range" in seen.headers:
            return respond_to_range(seen)
        return ranged(media, seen, cut=200_000 if len(host.fetches) == 1 else None)

    host.fetch = fetch_it


def part(body, content_range, etag='"v1"'):
    headers = {"ETag": etag, "Content-Type": "video/mp4", "Content-Range": content_range}
    return Reply(206, body, headers)


def test_resume_uses_last_modified_without_an_etag(host, tmp_path, media):
    def fetch_it(seen):
        modified = {"Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT", "Content-Type": "video/mp4"}
        if "range" not in seen.headers:
            head = {"Content-Length": str(len(media)), "Connection": "close"}
            return Reply(body=media[:200_000], headers=modified | head)
        assert seen.headers["if-range"] == modified["Last-Modified"]
        rest = media[200_000:]
        return Reply(206, rest, modified | {"Content-Range": f"bytes 200000-299999/{len(media)}"})

    host.fetch = fetch_it
    assert_whole(download(tmp_path), digest(media))
    assert host.fetches[1].headers["range"] == "bytes=200000-"


@pytest.mark.parametrize("etag", [None, 'W/"v1"'])
def test_resume_needs_a_validator(host, tmp_path, media, etag):
    headers = {"Content-Type": "video/mp4", **({"ETag": etag} if etag else {})}

    def fetch_it(seen):
        assert "range" not in seen.headers
        if len(host.fetches) == 1:
            head = {"Content-Length": str(len(media)), "Connection": "close"}
            return Reply(body=b"\0" * 200_000, headers=headers | head)
        return Reply(body=media, headers=headers)

    host.fetch = fetch_it
    assert_whole(download(tmp_path), digest(media))


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 199999-299999/300000",
        "bytes 200000-299999/300001",
        "bytes 200000-300000/300000",
        "bytes 200000-199999/300000",
        "bytes */300000",
        "items 200000-299999/300000",
        "",
        "bytes 200000-299998/300000",
    ],
)
def test_part_that_does_not_fit_is_not_joined(host, tmp_path, media, content_range):
    cut_once(host, media, lambda seen: part(b"\0" * 100_000, content_range))
    assert_whole(download(tmp_path), digest(media))


OLD, NEW = "Sat, 21 Nov 2026 10:00:00 GMT", "Sun, 22 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("known", "given"),
    [
        ({"ETag": '"v1"'}, {"ETag": '"v2"'}),
        ({"ETag": '"v1"'}, {"ETag": 'W/"v2"'}),
        ({"ETag": '"v1"', "Last-Modified": OLD}, {"Last-Modified": NEW}),
        ({"ETag": 'W/"v1"', "Last-Modified": OLD}, {"ETag": 'W/"v1"', "Last-Modified": NEW}),
        ({"ETag": 'W/"v1"', "Last-Modified": OLD}, {"ETag": 'W/"v2"', "Last-Modified": OLD}),
        ({"Last-Modified": OLD}, {"ETag": '"v2"'}),
        ({"Last-Modified": OLD}, {}),
        ({"ETag": '"v1"'}, {}),
    ],
)
def test_part_that_may_be_of_another_version_is_not_joined(host, tmp_path, media, known, given):
    whole = {**known, "Content-Type": "video/mp4"}
    cut = {"Content-Length": str(len(media)), "Connection": "close"}

    def fetch_it(seen):
        if "range" in seen.headers:
            return Reply(206, b"\0" * 100_000, {**given, "Content-Range": "bytes 200000-299999/300000"})
        return (
            Reply(body=media[:200_000], headers=whole | cut) if len(host.fetches) == 1 else Reply(body=media)
        )

    host.fetch = fetch_it
    assert_whole(download(tmp_path), digest(media))


def test_equal_strong_etags_are_of_one_version_whatever_the_time(host, tmp_path, media):
    def fetch_it(seen):
        reply = ranged(media, seen, cut=200_000 if len(host.fetches) == 1 else None)
        reply.headers["Last-Modified"] = OLD if len(host.fetches) == 1 else NEW
        return reply

    host.fetch = fetch_it
    assert_whole(download(tmp_path), digest(media))
    assert host.fetches[1].headers["range"] == "bytes=200000-"
    assert len(host.fetches) == 2


def test_parts_shorter_than_requested_are_joined(host, tmp_path, media):
    def next_70_000(seen):
        start = int(seen.headers["range"].removeprefix("bytes=").rstrip("-"))
        end = min(start + 70_000, len(media))
        return part(media[start:end], f"bytes {start}-{end - 1}/{len(media)}")

    cut_once(host, media, next_70_000)
    assert_whole(download(tmp_path), digest(media))
    assert len(host.fetches) == 3


def test_empty_response_does_not_complete_a_part(host, tmp_path, media):
    empty = Reply(body=b"0\r\n\r\n", headers={"Transfer-Encoding": "chunked", "ETag": '"v1"'})
    cut_once(host, media, lambda seen: empty if len(host.fetches) == 2 else ranged(media, seen))
    assert_whole(download(tmp_path), digest(media))


def test_part_of_unknown_total_length_is_not_complete(host, tmp_path, media):
    def fetch_it(seen):
        if len(host.fetches) == 1:
            headers = {"Transfer-Encoding": "chunked", "Connection": "close", "ETag": '"v1"'}
            return Reply(body=b"%x\r\n%s\r\n" % (100_000, media[:100_000]), headers=headers)
        if "range" not in seen.headers:
            return ranged(media, seen)
        return part(media[100_000:150_000], "bytes 100000-149999/*")

    host.fetch = fetch_it
    assert_whole(download(tmp_path), digest(media))


def test_endless_error_body_is_still_quoted(host, tmp_path):
    host.fetch = lambda seen: Reply(403, b'{"message": "Request has expired"}', {"Content-Length": "4096"})
    with pytest.raises(errors.MagicHourDownloadError, match="Request has expired"):
        download(tmp_path)


def test_unrequested_part_is_no_file(host, tmp_path, media):
    headers = {"Content-Type": "video/mp4", "Content-Range": "bytes 0-99/300000"}
    host.fetch = lambda seen: Reply(206, media[:100], headers)
    assert_nothing_is_stored(tmp_path)


def test_server_that_always_cuts_is_given_up(host, tmp_path, media):
    host.fetch = lambda seen: Reply(
        body=media[:200_000],
        headers={"Content-Length": str(len(media)), "Connection": "close", "Content-Type": "video/mp4"},
    )
    assert_nothing_is_stored(tmp_path, "no progress")
    assert len(host.fetches) == 1 + 3  # the first brought something


def test_cut_within_the_headers_is_retried(host, tmp_path, media):
    host.fetch = lambda seen: ranged(media, seen) if len(host.fetches) > 1 else Reply(drop=True)
    assert_whole(download(tmp_path), digest(media))


@pytest.mark.parametrize("length", ["-1", "many", "0x10", "5, 6"])
def test_invalid_content_length_stores_nothing(host, tmp_path, length):
    host.fetch = lambda seen: Reply(body=b"media", headers={"Content-Length": length, "Connection": "close"})
    assert_nothing_is_stored(tmp_path)


@pytest.mark.parametrize(
    ("coding", "code"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("x-gzip", gzip.compress)]
)
def test_content_encoding_is_decoded(host, tmp_path, media, coding, code):
    host.fetch = lambda seen: Reply(body=code(media), headers={"Content-Encoding": coding})
    (file,) = download(tmp_path)
    assert (file["bytes"], file["sha256"]) == (len(media), digest(media))
    assert all(seen.headers["accept-encoding"] == "identity" for seen in host.fetches)


@pytest.mark.parametrize("between", [b"", b"\0" * 5])
@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_each_member_of_a_gzip_body_is_decoded(host, tmp_path, media, between, pieces):
    members = [gzip.compress(media[:100_000]), gzip.compress(media[100_000:]), gzip.compress(b"")]
    body = between.join(members) + between
    cuts = [0, len(members[0]), *(len(body) * n // pieces for n in range(1, pieces)), len(body)]
    chunks = [body[start:end] for start, end in pairwise(sorted(cuts)) if end > start]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in [*chunks, b""])
    headers = {"Content-Length": None, "Transfer-Encoding": "chunked", "Content-Encoding": "gzip"}
    host.fetch = lambda seen: Reply(body=framed, headers=headers)
    assert_whole(download(tmp_path), digest(media))


@pytest.mark.parametrize("cut", [0, 50_000])
@pytest.mark.parametrize(
    "value", ["chunked ", "chunked\t", "gzip, chunked", "identity, chunked", "chunked;q=1", "xchunked"]
)
def test_unknown_transfer_encoding_stores_nothing(host, tmp_path, media, value, cut):
    framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(media), media)
    headers = {"Content-Length": None, "Transfer-Encoding": value, "Connection": "close"}
    host.fetch = lambda seen: Reply(body=framed[: len(framed) - cut], headers=headers)
    assert_nothing_is_stored(tmp_path, "Transfer-Encoding")


@pytest.mark.parametrize("coding", ["none", "identity, identity", "utf-8"])
def test_content_encoding_that_is_none_is_ignored(host, tmp_path, media, coding):
    host.fetch = lambda seen: Reply(body=media, headers={"Content-Encoding": coding})
    assert_whole(download(tmp_path), digest(media))


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "aws-chunked"])
def test_unknown_content_encoding_stores_nothing(host, tmp_path, media, coding):
    host.fetch = lambda seen: Reply(body=media, headers={"Content-Encoding": coding})
    assert_nothing_is_stored(tmp_path, "decoded")


@pytest.mark.parametrize(
    "broken",
    [
        lambda data: data[:-5],
        lambda data: data + b"more",
        lambda data: data + data[:-5],
        lambda data: data + data[:1],
        lambda data: b"x" + data,
    ],
)
def test_broken_content_encoding_stores_nothing(host, tmp_path, media, broken):
    body = broken(gzip.compress(media))
    host.fetch = lambda seen: Reply(body=body, headers={"Content-Encoding": "gzip"})
    assert_nothing_is_stored(tmp_path, "coded")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<!DOCTYPE html><p>Sign in", "video/mp4"),
        (b"\xef\xbb\xbf \n<html>", ""),
        (b"<?xml version='1.0'?><Error/>", "application/octet-stream"),
        (b'{"message": "no"}', "application/octet-stream"),
        (b"anything", "text/html; charset=utf-8"),
        (b"[]", "application/json"),
        (b"<h1>Bad gateway</h1>", "application/octet-stream"),
        (b"<!doctype html><p>Sign in", "image/svg+xml"),
        (b"upstream request timeout", "image/svg+xml"),
        (b"upstream request timeout", "text/plain"),
        (b"error code: 1015", "text/plain; charset=UTF-8"),
        (b"", "video/mp4"),
    ],
)
def test_error_page_is_not_stored_as_media(host, tmp_path, body, content_type):
    host.fetch = lambda seen: Reply(body=body, headers={"Content-Type": content_type})
    assert_nothing_is_stored(tmp_path)


def test_error_page_does_not_lose_the_part(host, tmp_path, media):
    page = Reply(body=b"<html>busy</html>", headers={"Content-Type": "text/html"})
    cut_once(host, media, lambda seen: page if len(host.fetches) == 2 else ranged(media, seen))
    assert_whole(download(tmp_path), digest(media))
    assert host.fetches[2].headers["range"] == "bytes=200000-"


@pytest.mark.parametrize("head", [b"\0\0\0 ftypisom", b"\xff\xfa\x90\x64", b"RIFF\x24\0\0\0AVI "])
def test_media_of_a_wrong_text_type_is_stored(host, tmp_path, head):
    body = head + b"\0" * 1000
    host.fetch = lambda seen: Reply(body=body, headers={"Content-Type": "text/plain"})
    assert_whole(download(tmp_path), digest(body))


@pytest.mark.timeout(60)
def test_comments_before_a_drawing_take_no_time(host, tmp_path):
    body = b"<?xml version='1.0'?>" + b"<!-- a -->\n" * 85 + b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    host.paths = ["/files/drawing.svg"]
    host.fetch = lambda seen: Reply(body=body, headers={"Content-Type": "image/svg+xml"})
    assert_whole(download(tmp_path), digest(body))


def test_expected_text_file_is_stored(host, tmp_path):
    host.paths = ["/files/captions.json"]
    host.fetch = lambda seen: Reply(body=b'{"a": 1}', headers={"Content-Type": "application/json"})
    (file,) = download(tmp_path)
    assert file["content_type"] == "application/json"


@pytest.mark.parametrize("announced", [True, False])
def test_too_large_file_is_not_stored(host, tmp_path, media, announced):
    headers = {"Content-Type": "video/mp4"} if announced else {"Content-Encoding": "gzip"}
    body = media if announced else gzip.compress(bytes(300_000))
    host.fetch = lambda seen: Reply(body=body, headers=headers)
    assert_nothing_is_stored(tmp_path, "max_bytes=299999", max_bytes=299_999)
    assert len(host.fetches) == 1
    assert download(tmp_path, max_bytes=300_000)


def test_progress_of_a_long_download_is_logged(host, tmp_path, media, monkeypatch, caplog):
    monkeypatch.setattr(fetch, "PROGRESS_INTERVAL", 0.0)
    host.fetch = lambda seen: ranged(media, seen)
    with caplog.at_level(logging.INFO):
        download(tmp_path)
    assert "100 %, 0.3 MB at" in caplog.text
    assert "time left 0 s" in caplog.text


class TestBodyWithoutLength:
    """A response without Content-Length and without chunks, whose connection ended."""

    @staticmethod
    def unannounced(body: bytes) -> Reply:
        headers = {"Content-Length": None, "Connection": "close", "Content-Type": "video/mp4"}
        return Reply(body=body, headers=headers)

    @pytest.mark.parametrize(
        "confirm",
        [
            lambda media, seen: Reply(416, b"", {"Content-Range": f"bytes */{len(media)}"}),
            lambda media, seen: Reply(200, media) if seen.method == "GET" else Reply(500),
            lambda media, seen: Reply(200, media) if seen.method == "HEAD" else Reply(403),
        ],
        ids=["416", "length of the whole file", "HEAD"],
    )
    def test_whole_file_is_stored_once_its_length_is_confirmed(self, host, tmp_path, media, confirm):
        host.fetch = lambda seen: self.unannounced(media) if len(host.fetches) == 1 else confirm(media, seen)
        assert_whole(download(tmp_path), digest(media))

    @pytest.mark.parametrize(
        "confirm",
        [
            lambda media, seen: Reply(416, b"", {"Content-Range": f"bytes */{len(media)}"}),
            lambda media, seen: Reply(206, media[-1:], {"Content-Range": f"bytes 1-2/{len(media)}"}),
            lambda media, seen: Reply(200, media) if seen.method == "HEAD" else Reply(403),
            lambda media, seen: Reply(403),
            lambda media, seen: Reply(416),
        ],
        ids=["416", "206", "HEAD", "refused", "416 without a length"],
    )
    def test_truncated_file_is_not_stored(self, host, tmp_path, media, confirm):
        def fetch_it(seen):
            whole_file = seen.method == "GET" and "range" not in seen.headers
            return self.unannounced(media[:200_000]) if whole_file else confirm(media, seen)

        host.fetch = fetch_it
        assert_nothing_is_stored(tmp_path, "could not be downloaded completely")

    def test_truncated_file_is_completed_where_a_later_response_is_whole(self, host, tmp_path, media):
        def fetch_it(seen):
            if "range" in seen.headers:
                return Reply(416, b"", {"Content-Range": f"bytes */{len(media)}"})
            return self.unannounced(media[:200_000] if len(host.fetches) == 1 else media)

        host.fetch = fetch_it
        assert_whole(download(tmp_path), digest(media))

"""Hostile hosts of downloads and uploads, and hostile local files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour._transfer import download
from airflow_provider_magichour.exceptions import (
    MagicHourArgumentError,
    MagicHourDownloadError,
    MagicHourError,
    MagicHourUploadError,
)
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.certificates import self_signed
from tests.support.dripping import DRIPS, dripping_server
from tests.support.scripted_server import Reply, scripted_server
from tests.transfer.conftest import Host

# --------------------------------------------------------------------------------------------- endless


@pytest.mark.timeout(150)
@pytest.mark.parametrize("drip", DRIPS)
def test_dripping_download_times_out(
    host: Host, connect: Callable[..., str], tmp_path: Path, drip: str
) -> None:
    connect(host.server.url, "mhk_test_key", timeout=1.5, max_attempts=2)
    with dripping_server(*DRIPS[drip]) as server:
        host.paths = [f"{server.url}/output.mp4"]
        with pytest.raises(MagicHourDownloadError, match="2 tries in a row"):
            MagicHourHook().download_project("video", "p1", str(tmp_path))
    assert list(tmp_path.rglob("*.mp4")) == []


@pytest.mark.timeout(150)
@pytest.mark.parametrize("drip", ["status line", "headers", "100 Continue"])
def test_dripping_upload_times_out(connect: Callable[..., str], tmp_path: Path, drip: str) -> None:
    face = tmp_path / "face.png"
    face.write_bytes(b"png")
    with dripping_server(*DRIPS[drip]) as storage, scripted_server() as server:
        server.respond = lambda _: upload_target(f"{storage.url}/put")
        connect(server.url, "mhk_test_key", timeout=1.5, max_attempts=2)
        with pytest.raises(MagicHourUploadError, match="failed"):
            MagicHourHook().upload_file(str(face))


def upload_target(url: str, file_path: str = "api-assets/id/1.png") -> Reply:
    return Reply(body={"items": [{"upload_url": url, "file_path": file_path}]})


def test_project_with_too_many_files_is_refused(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(download, "MAX_OUTPUTS", 3)
    host.paths = ["/same.png"] * 4
    with pytest.raises(MagicHourDownloadError, match="4 files, more than 3"):
        MagicHourHook().download_project("image", "p1", str(tmp_path))
    host.paths.pop()
    assert len(MagicHourHook().download_project("image", "p1", str(tmp_path))) == 3


@pytest.mark.parametrize("downloads", [7, {"url": "x"}, "http://x/y.png", [None], [[]], [{"url": 7}]])
def test_malformed_downloads_are_refused(connect: Callable[..., str], tmp_path: Path, downloads: Any) -> None:
    with scripted_server() as server:
        server.script(Reply(body={"id": "p1", "status": "complete", "downloads": downloads}))
        connect(server.url, "mhk_test_key")
        with pytest.raises(MagicHourDownloadError, match="names no download"):
            MagicHourHook().download_project("image", "p1", str(tmp_path))


# ------------------------------------------------------------------------------------------------ hosts


def test_https_download_does_not_redirect_to_http(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ssl

    certificate = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with scripted_server(context) as secure:
        secure.respond = lambda _: Reply(
            302, headers={"Location": f"{host.server.url}/output.mp4?sig=s3cret"}
        )
        host.paths = [f"{secure.url}/output.mp4"]
        with pytest.raises(MagicHourDownloadError, match="not encrypted") as caught:
            MagicHourHook().download_project("video", "p1", str(tmp_path / "out"))
    assert host.fetches == []
    assert "s3cret" not in str(caught.value)


def test_upload_to_a_private_host_is_refused_where_not_allowed(
    connect: Callable[..., str], tmp_path: Path
) -> None:
    face = tmp_path / "face.png"
    face.write_bytes(b"png")
    with scripted_server() as server:
        server.respond = lambda seen: (
            upload_target(f"{server.url}/metadata") if seen.method == "POST" else Reply()
        )
        connect(server.url, "mhk_test_key", allow_private_hosts=False)
        with pytest.raises(MagicHourUploadError, match="allow_private_hosts=false"):
            MagicHourHook().upload_file(str(face))
        assert [seen.method for seen in server.seen] == ["POST"]
        connect(server.url, "mhk_test_key")
        assert MagicHourHook().upload_file(str(face)) == "api-assets/id/1.png"


@pytest.mark.parametrize("file_path", ["api-assets/\n[INFO] all is well", "x" * 2000, "", "a b"])
def test_odd_file_name_can_be_uploaded(connect: Callable[..., str], tmp_path: Path, file_path: str) -> None:
    face = tmp_path / "face.png"
    face.write_bytes(b"png")
    with scripted_server() as server:
        server.respond = lambda _: upload_target(f"{server.url}/put", file_path)
        connect(server.url, "mhk_test_key")
        with pytest.raises(MagicHourUploadError, match="no name for the upload"):
            MagicHourHook().upload_file(str(face))
        assert len(server.seen) == 1


# ------------------------------------------------------------------------------------------- log lines


@pytest.mark.parametrize("status", [404, 500])
def test_url_cannot_forge_a_log_line(
    host: Host, tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    host.paths = [f"{host.server.url}/x.png\n[INFO] all is well\x1b[2K{'y' * 5000}"]
    host.fetch = lambda _: Reply(status)
    with caplog.at_level(logging.INFO, "airflow_provider_magichour"), pytest.raises(MagicHourError) as caught:
        MagicHourHook().download_project("image", "p1", str(tmp_path))
    lines = [record.getMessage() for record in caplog.records]
    assert lines
    assert all(line.isprintable() and len(line) < 2000 for line in [*lines, str(caught.value)])


def test_local_file_name_cannot_forge_a_log_line(
    connect: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    face = tmp_path / "a\n[INFO] all is well\x1b[2K.png"
    face.write_bytes(b"png")
    with scripted_server() as server:
        replies = [Reply(500), Reply()]
        server.respond = lambda seen: (
            upload_target(f"{server.url}/put") if seen.method == "POST" else replies.pop(0)
        )
        connect(server.url, "mhk_test_key")
        with caplog.at_level(logging.INFO, "airflow_provider_magichour"), face.open("rb") as file:
            MagicHourHook().upload_file(file)
    ours = [record for record in caplog.records if record.name.startswith("airflow_provider_magichour")]
    lines = [record.getMessage() for record in ours]
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


# ------------------------------------------------------------------------------------------ local files


@pytest.mark.timeout(150)
def test_source_that_is_no_file_is_refused(connect: Callable[..., str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    with scripted_server() as server:
        connect(server.url, "mhk_test_key")
        for name in ("pipe.png", "zero.png", "folder.png", "missing.png"):
            with pytest.raises(MagicHourArgumentError):
                MagicHourHook().upload_file(str(tmp_path / name))
        assert server.seen == []

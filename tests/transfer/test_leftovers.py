"""What killed writers leave in a project's folder, and what somebody else put there."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour._transfer import sinks
from airflow_provider_magichour._transfer.responses import Validator
from airflow_provider_magichour._transfer.sinks import LocalSink
from airflow_provider_magichour.exceptions import MagicHourDownloadError
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.scripted_server import Reply
from tests.transfer.conftest import Host


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def leave(folder: Path, *files: str) -> None:
    folder.mkdir(exist_ok=True)
    for file in files:
        (folder / file).write_bytes(b"half")


@pytest.mark.parametrize("there", [False, True], ids=["fetched", "there already"])
def test_download_removes_parts_of_killed_writers(host: Host, tmp_path: Path, there: bool) -> None:
    if there:
        MagicHourHook().download_project("video", "p1", str(tmp_path))
    own, gone = ".output.mp4.0123456789ab.part", ".older name.mp4.part"
    leave(tmp_path / "p1", own, gone, f"{gone}.json", f"{gone}.json.tmp")
    MagicHourHook().download_project("video", "p1", str(tmp_path))
    assert names(tmp_path / "p1") == {"output.mp4"}


def test_hidden_parts_of_other_tools_are_kept(host: Host, tmp_path: Path) -> None:
    others = (".film.mp4.part", ".part", ".output.mp4.part.crdownload")
    leave(tmp_path / "p1", *others)
    MagicHourHook().download_project("video", "p1", str(tmp_path))
    assert names(tmp_path / "p1") == {"output.mp4", *others}


def test_failed_download_removes_nothing(host: Host, tmp_path: Path) -> None:
    leave(tmp_path / "p1", ".output.mp4.0123456789ab.part")
    host.fetch = lambda _: Reply(500)
    with pytest.raises(MagicHourDownloadError):
        MagicHourHook().download_project("video", "p1", str(tmp_path))
    assert ".output.mp4.0123456789ab.part" in names(tmp_path / "p1")


def test_parts_of_running_writers_are_kept(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "p1"
    folder.mkdir()
    first = LocalSink(folder / "other.mp4")
    second = LocalSink(folder / "other.mp4")  # of its own, because the first has the lock
    writing = names(folder)
    assert len(writing) == 2
    MagicHourHook().download_project("video", "p1", str(tmp_path))
    assert names(folder) == writing | {"output.mp4"}
    for sink in (first, second):
        sink.restart(Validator())
        sink.write(b"whole")
        sink.publish()
    assert names(folder) == {"output.mp4", "other.mp4"}


def test_download_works_without_file_locks(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    leave(tmp_path / "p1", ".output.mp4.0123456789ab.part")
    monkeypatch.setattr(fcntl, "flock", refuse)
    MagicHourHook().download_project("video", "p1", str(tmp_path))
    # What it is cannot be told there, so it stays.
    assert names(tmp_path / "p1") >= {"output.mp4", ".output.mp4.0123456789ab.part"}


@pytest.mark.parametrize("name", [".output.mp4.part", ".output.mp4.part.json.tmp"])
def test_symlink_is_not_written_through(host: Host, tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "p1").mkdir()
    (tmp_path / "p1" / name).symlink_to(precious)
    host.fetch = lambda _: Reply(body=b"media", headers={"ETag": '"v1"'})
    with pytest.raises(MagicHourDownloadError, match="could not be stored"):
        MagicHourHook().download_project("video", "p1", str(tmp_path))
    assert precious.read_text() == "precious"


def test_symlink_is_not_followed_by_the_removal(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "p1").mkdir()
    (tmp_path / "p1" / ".x.part").symlink_to(precious)
    sinks.sweep(tmp_path / "p1", ["x"])
    assert precious.read_text() == "precious"

"""The end of a task ends its downloads and uploads at the next read or write."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour._transfer import download, upload
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.files import visible
from tests.support.scripted_server import Reply
from tests.support.stores import S3Store
from tests.transfer.conftest import Host


class TaskTimeout(BaseException):
    """What Airflow's execution_timeout raises in the main thread."""


@pytest.fixture
def end_task(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what raises an exception in the main thread, as a signal to the task does."""

    def raise_it(*_: object) -> None:
        raise TaskTimeout

    before = signal.signal(signal.SIGUSR1, raise_it)
    yield lambda: os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


class Hanging(Reply):
    """A response of which only the first bytes come, and then nothing more."""

    def __init__(self, sent: threading.Event, ends: threading.Event) -> None:
        super().__init__(headers={"Content-Length": "1000000", "Content-Type": "video/mp4"})
        self.sent, self.ends = sent, ends

    def content(self) -> bytes:
        return b"x" * 1000

    def finish(self) -> None:
        """Keep the connection open."""
        self.sent.set()
        self.ends.wait(200)


@pytest.mark.parametrize("where", ["local", "s3"])
def test_hanging_download_stops_at_once(
    connect: Any, host: Host, tmp_path: Path, s3_store: S3Store, end_task: Any, where: str
) -> None:
    connect(host.server.url, "mhk_test_key", timeout=300)
    seen, ends = threading.Event(), threading.Event()
    host.fetch = lambda _: Hanging(seen, ends)
    destination = str(tmp_path) if where == "local" else s3_store.url
    threading.Thread(target=lambda: (seen.wait(120), time.sleep(0.2), end_task()), daemon=True).start()
    started = time.monotonic()
    with pytest.raises(TaskTimeout):
        MagicHourHook().download_project("video", ["p1"], destination)
    assert time.monotonic() - started < download.STOP_TIMEOUT + 60
    ends.set()
    assert visible(tmp_path) == []
    for thread in [one for one in threading.enumerate() if one.name.startswith("magichour-file")]:
        thread.join(60)
        assert not thread.is_alive()


def test_hanging_uploads_stop_at_once(
    connect: Any, host: Host, tmp_path: Path, end_task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(host.server.url, "mhk_test_key", timeout=300)
    hanging = threading.Event()
    puts = itertools.count(1)

    def respond(seen: Any) -> Reply:
        if seen.method == "POST":
            target = {"upload_url": f"{host.server.url}/put", "file_path": "api-assets/1.png"}
            return Reply(body={"items": [target]})
        if next(puts) == upload.MAX_PARALLEL:
            hanging.set()
        return Reply(delay=200)

    host.server.respond = respond
    sources = [tmp_path / f"{number}.png" for number in range(6)]
    for source in sources:
        source.write_bytes(b"png")
    threading.Thread(target=lambda: (hanging.wait(120), time.sleep(0.2), end_task()), daemon=True).start()
    started = time.monotonic()
    with pytest.raises(TaskTimeout):
        MagicHourHook().upload_file(sources)
    assert time.monotonic() - started < upload.STOP_TIMEOUT + 60
    sent = len(host.server.seen)
    time.sleep(0.3)
    assert len(host.server.seen) == sent  # what waited was not begun

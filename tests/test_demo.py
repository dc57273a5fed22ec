"""``make demo`` leaves no process behind, whenever it is interrupted, and asks before it spends credits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_provider_magichour.simulator import Simulator
from scripts.local.client import wait_until
from tests.support.airflow import IS_AIRFLOW_3

pytestmark = [
    pytest.mark.xdist_group("real_airflow"),
    pytest.mark.skipif(not IS_AIRFLOW_3, reason="the demo runs on Airflow 3"),
]
ROOT = Path(__file__).resolve().parents[1]


def start_demo(folder: Path, **env: str) -> subprocess.Popen[str]:
    # a shell that runs the tests in the background passes on that it ignores this signal
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "scripts.demo", "--folder", str(folder)],
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, handler)


def processes_of(folder: Path) -> list[int]:
    """Return the living processes that know of this demo's folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in environment and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


@pytest.mark.real_airflow
@pytest.mark.parametrize("moment", ["local Magic Hour", "Airflow's database", "starting Airflow", ".make "])
def test_ctrl_c_leaves_no_process(tmp_path: Path, moment: str) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    with start_demo(folder) as demo:
        assert demo.stdout is not None
        shown = ""
        for line in demo.stdout:
            shown += line
            if moment in line:
                break
        else:
            pytest.fail(f"the demo never came to {moment!r}:\n{shown}")
        time.sleep(0.5)
        wait_until(lambda: bool(processes_of(folder)), 60, "the demo's processes")
        os.killpg(demo.pid, signal.SIGINT)  # what a terminal does: to the whole group
        rest = demo.stdout.read()
    assert demo.returncode == 130, shown + rest
    assert "Stopped." in rest
    assert processes_of(folder) == []


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    with start_demo(tmp_path) as first:
        assert first.stdout is not None
        assert "local Magic Hour" in first.stdout.readline()
        with start_demo(tmp_path) as second:
            said, _ = second.communicate(timeout=300)
        first.send_signal(signal.SIGTERM)
    assert second.returncode == 1
    assert "another demo is running" in said
    assert first.returncode == 128 + signal.SIGTERM
    assert processes_of(tmp_path) == []


def test_demo_asks_before_it_spends_credits(tmp_path: Path) -> None:
    with Simulator() as magic_hour:
        with start_demo(
            tmp_path, MAGIC_HOUR_API_KEY=magic_hour.api_key, MAGIC_HOUR_BASE_URL=magic_hour.url
        ) as demo:
            said, _ = demo.communicate(timeout=300)
        assert demo.returncode == 1
        assert "costs credits" in said
        assert "CONFIRM=yes" in said
        assert magic_hour.api_key not in said
        assert magic_hour.state()["projects"] == {}


def test_wrong_key_ends_the_demo_before_anything_starts(tmp_path: Path) -> None:
    with (
        Simulator() as magic_hour,
        start_demo(
            tmp_path, MAGIC_HOUR_API_KEY="mhk_live_wrong", MAGIC_HOUR_BASE_URL=magic_hour.url, CONFIRM="yes"
        ) as demo,
    ):
        said, _ = demo.communicate(timeout=300)
    assert demo.returncode == 1
    assert "401" in said
    assert "mhk_live_wrong" not in said

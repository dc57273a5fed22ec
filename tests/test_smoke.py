"""``make smoke`` does its steps, here against the simulator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_magichour.simulator import Simulator
from scripts.smoke import SmokeError, read_connection

ROOT = Path(__file__).resolve().parents[1]


def smoke(magic_hour: Simulator, **env: str) -> subprocess.CompletedProcess[str]:
    defaults = {"MAGIC_HOUR_API_KEY": magic_hour.api_key, "MAGIC_HOUR_BASE_URL": magic_hour.url}
    return subprocess.run(
        [sys.executable, "-m", "scripts.smoke"],
        cwd=ROOT,
        env={**os.environ, **defaults, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def test_one_image_is_made_saved_and_deleted() -> None:
    with Simulator(duration=0.2) as magic_hour:
        done = smoke(magic_hour, CONFIRM="yes")
        state = magic_hour.state()
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Everything worked.\n")
    assert magic_hour.api_key not in done.stdout + done.stderr
    [project] = state["projects"].values()
    assert (project["tool"], project["downloads"], project["enabled"]) == ("ai-image-generator", 1, False)
    assert project["credits_charged"] <= 10


def test_nothing_is_spent_without_a_yes() -> None:
    with Simulator() as magic_hour:
        done = smoke(magic_hour)
        assert magic_hour.state()["created"] == {}
    assert done.returncode == 1
    assert "CONFIRM=yes" in done.stderr


def test_account_without_credits_is_refused() -> None:
    with Simulator(credits=9) as magic_hour:
        done = smoke(magic_hour, CONFIRM="yes")
        assert magic_hour.state()["created"] == {}
    assert done.returncode == 1
    assert "the account has 9 credits" in done.stderr


def test_no_key_says_where_to_get_one() -> None:
    with pytest.raises(SmokeError, match="set MAGIC_HOUR_API_KEY"):
        read_connection({"MAGIC_HOUR_API_KEY": " "})


def test_failed_render_fails_with_the_reason() -> None:
    with Simulator(duration=0.2) as magic_hour:
        magic_hour.faults({"outcome": {"status": "error", "code": "unknown_error"}})
        done = smoke(magic_hour, CONFIRM="yes")
    assert done.returncode == 1
    assert "unknown_error" in done.stderr

"""Processes are killed with SIGKILL at each step, with records only in a folder, on any Airflow."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from airflow_provider_magichour.simulator import Simulator
from tests.operators.kill_table import STEPS

ROOT = Path(__file__).parents[2]
UNCERTAIN = "MagicHourUncertainSubmitError"
#: By step: what the retry and the Clear after it say, and how often Magic Hour was paid.
EXPECTED = {
    "before the intent": ("1 results", "1 results", 2),
    "intent": (UNCERTAIN, "1 results", 1),
    "answered": (UNCERTAIN, "1 results", 2),
    "persisted": ("1 results", "1 results", 2),
    "download": ("1 results", "1 results", 2),
    "returned": ("1 results", "1 results", 2),
}


def run(sim: Simulator, folder: Path, bodies: int, *steps: str) -> dict[tuple[str, int], str]:
    """Return the output of each try, by step and number. The first try of each step must have been killed."""
    arguments = [sim.url, sim.api_key, str(folder), str(bodies), *steps]
    done = subprocess.run(
        [sys.executable, "-m", "tests.operators.kill_table", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )
    found = re.findall(r"^(.+)=(\d)=(.+)$", done.stdout, re.MULTILINE)
    said = {(step, int(number)): each for step, number, each in found}
    assert said.keys() == {(step, n) for step in steps for n in (2, 3)}, done.stdout + done.stderr[-2000:]
    return said


def paid(sim: Simulator) -> Counter[str]:
    return Counter(str(project["name"]) for project in sim.state()["projects"].values())


def test_killed_tries_pay_once(sim: Simulator, tmp_path: Path) -> None:
    said, count = run(sim, tmp_path, 1, *STEPS), paid(sim)
    found = {step: (said[step, 2], said[step, 3], count[f"{step} 0"]) for step in STEPS}
    assert found == EXPECTED


def test_killed_list_pays_once_for_each(sim: Simulator, tmp_path: Path) -> None:
    said, count = run(sim, tmp_path, 9, "answered"), paid(sim)
    assert said["answered", 2].startswith("MagicHour")
    assert said["answered", 3] == "9 results"
    assert len(count) == 9
    assert max(count.values()) <= 2
    assert count.total() <= 9 + 4  # what was in progress as it died: a person decided to pay for that again

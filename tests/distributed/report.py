"""What the rounds say, as a table for the reader and for the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import machine
from tests.distributed.fires import FIRES
from tests.distributed.round import Report

PAGE = Path(__file__).resolve().parents[2] / "docs" / "under-fire.md"
#: What is below this line in the page is written by the program.
MARK = "<!-- written by make test-distributed -->"


def table(reports: Sequence[Report]) -> str:
    """Return the rounds as a Markdown table, with what was broken below it."""
    lines = ["| fires | projects | seconds | promise | found | kept |", "|---|---|---|---|---|---|"]
    broken = []
    for report in reports:
        fires = "all mixed" if len(report.fires) == len(FIRES) else ", ".join(report.fires)
        head = f"| {fires}, seed {report.seed} | {report.projects} | {report.seconds:.0f} "
        for promise in report.promises:
            kept = "yes" if promise.kept else "**no**"
            lines.append(f"{head}| {promise.name} | {promise.found} | {kept} |")
            head = "| | | "
            broken += [f"- {fires}: {promise.name}: {each}" for each in promise.broken]
        died = ", ".join(f"{name} {times} x" for name, times in Counter(report.restarts).items())
        lines.append(f"{head}| (processes that died by themselves) | {died or 'none'} | |")
    return "\n".join([*lines, *([""] if broken else []), *broken])


def write_page(reports: Sequence[Report]) -> None:
    """Put the table into the documentation."""
    above = PAGE.read_text().partition(MARK)[0]
    PAGE.write_text(f"{above}{MARK}\n\nMeasured on {machine()}.\n\n{table(reports)}\n")

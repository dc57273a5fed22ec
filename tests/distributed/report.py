"""The results of the runs, as a table for the reader and for the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import machine
from tests.distributed.faults import FAULTS
from tests.distributed.run import Report

PAGE = Path(__file__).resolve().parents[2] / "docs" / "chaos.md"
#: What is below this line in the page is written by the program.
MARK = "<!-- written by make test-distributed -->"


def table(reports: Sequence[Report]) -> str:
    """Return the runs as a Markdown table, with all violations below it."""
    lines = ["| faults | projects | seconds | invariant | found | holds |", "|---|---|---|---|---|---|"]
    violations = []
    for report in reports:
        faults = "all mixed" if len(report.faults) == len(FAULTS) else ", ".join(report.faults)
        head = f"| {faults}, seed {report.seed} | {report.projects} | {report.seconds:.0f} "
        for invariant in report.invariants:
            holds = "yes" if invariant.holds else "**no**"
            lines.append(f"{head}| {invariant.name} | {invariant.found} | {holds} |")
            head = "| | | "
            violations += [f"- {faults}: {invariant.name}: {each}" for each in invariant.violations]
        died = ", ".join(f"{name} {times} x" for name, times in Counter(report.restarts).items())
        lines.append(f"{head}| (processes that ended unexpectedly) | {died or 'none'} | |")
    return "\n".join([*lines, *([""] if violations else []), *violations])


def write_page(reports: Sequence[Report]) -> None:
    """Put the table into the documentation."""
    above = PAGE.read_text().partition(MARK)[0]
    PAGE.write_text(f"{above}{MARK}\n\nMeasured on {machine()}.\n\n{table(reports)}\n")

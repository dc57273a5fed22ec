"""Writes the sections of docs/benchmarks.md and docs/scale.md, each measured by a module of this package."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
HEAD = """\
# Benchmarks

`make bench` measures these figures and writes them into this page. None of them is estimated. If a figure
is a ratio, both sides were measured in the same run. The last column says whether the figure reaches the
goal that this project has set.
"""


class Figure(NamedTuple):
    """What was measured, its goal, and whether the goal is met."""

    name: str
    value: str
    goal: str
    met: bool


def at_most(name: str, value: float, goal: float, unit: str = "", digits: int = 2) -> Figure:
    """Return a figure that must not exceed its goal."""
    return Figure(name, f"{value:.{digits}f} {unit}".strip(), f"<= {goal:g} {unit}".strip(), value <= goal)


def at_least(name: str, value: float, goal: float, unit: str = "", digits: int = 2) -> Figure:
    """Return a figure that must reach its goal."""
    return Figure(name, f"{value:.{digits}f} {unit}".strip(), f">= {goal:g} {unit}".strip(), value >= goal)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def figures_table(figures: Sequence[Figure]) -> str:
    """Return figures as a Markdown table."""
    rows = [[one.name, one.value, one.goal, "yes" if one.met else "NO"] for one in figures]
    return table(["figure", "measured", "goal", "met"], rows)


def machine() -> str:
    """Return what the figures were measured on, in one line."""
    model = "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        model = found[1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores of {model}, {memory:.0f} GiB of memory, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"load average {os.getloadavg()[1]:.1f}"
    )


def write_section(title: str, text: str, page: Path = PAGE, source: str | None = None) -> None:
    """
    Put a section into a page, in place of the one of this title.

    :param source: where its figures come from; measured on this machine if None.
    """
    written = page.read_text() if page.exists() else HEAD
    section = f"## {title}\n\n{source or f'Measured on {machine()}.'}\n\n{text.strip()}\n"
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    if pattern.search(written):
        written = pattern.sub(lambda _: f"{section}\n", written)
    else:
        written = f"{written.rstrip()}\n\n{section}"
    page.write_text(f"{written.rstrip()}\n")

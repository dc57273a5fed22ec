"""The tables of docs/scale.md, from the figures beside this file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import table
from benchmarks.scale.model import Work, carries, needs, stored, two_digits

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
FIGURES = Path(__file__).with_name("figures.json")
SIZES = (1_000, 10_000, 100_000, 1_000_000)
EXAMPLES = (("ai-image-generator", 2.0), ("text-to-video", 10.0), ("video-to-video", 40.0))


def one_of_each(figures: dict[str, Any], works: Sequence[Work]) -> str:
    """Return the table of what one of each can handle."""
    found = [carries(figures, work) for work in works]
    head = ["projects a day", *(f"{work.tool}, {_way(work)}" for work in works)]
    return table(head, [[name, *(two_digits(one[name]) for one in found)] for name in found[0]])


def growth(figures: dict[str, Any], work: Work) -> str:
    """Return the table of what a growing number of projects a day needs."""
    found = [needs(figures, work, size) for size in SIZES]
    head = ["projects a day", *(f"{size:,}" for size in SIZES)]
    return table(head, [[name, *(one[name] for one in found)] for name in found[0]])


def _way(work: Work) -> str:
    return "mapped" if work.each == 1 else f"lists of {work.each}"


def sections(figures: dict[str, Any]) -> dict[str, str]:
    """Return the computed sections of the page, by title."""
    works = [Work(tool, megabytes, each) for tool, megabytes in EXAMPLES for each in (1, 100)]
    tool, megabytes = EXAMPLES[1]
    largest = {work: needs(figures, work, SIZES[-1]) for work in works if work.each > 1}
    rows = [[name, *(one[name] for one in largest.values())] for name in next(iter(largest.values()))]
    grown = [f"### {tool}, {_way(work)}\n\n{growth(figures, work)}" for work in works if work.tool == tool]
    files = ", ".join(f"{megabytes:g} MB for {tool}" for tool, megabytes in EXAMPLES)
    one = f"Files of a project (assumption): {files}.\n\n{one_of_each(figures, works)}"
    return {
        "What one of each can handle": one,
        "From a thousand to a million": "\n\n".join(
            [
                f"Projects of {tool}, {megabytes:g} MB each (assumption).",
                *grown,
                f"### A million a day by tool, {_way(next(iter(largest)))}",
                table(["needs", *(work.tool for work in largest)], rows),
            ]
        ),
    }


def read_figures() -> dict[str, Any]:
    """Return the figures that were measured last."""
    return dict(json.loads(FIGURES.read_text()))


def _milliseconds(name: str, part: str, seconds: float) -> str:
    if part == "scheduler" and name != "scale_nothing":  # mostly idle there, which cannot be told apart
        return ""
    return f"{max(seconds, 0) * 1e3:,.1f}"


def measured_table(figures: dict[str, Any]) -> str:
    """Return what was measured, for people."""
    process, airflow = figures["process"], figures["airflow"]
    by_process = {
        "status_check": ("a status check, in a busy poller", 1e6, "µs"),
        "submit_single": ("a submit by a task with one body, store in memory", 1e3, "ms"),
        "submit_in_list": ("a submit in a list of 100, store in memory", 1e3, "ms"),
        "download": ("a small file: project, file, receipt", 1e3, "ms"),
        "megabyte": ("a downloaded MB, local disk, with sha256", 1e3, "ms"),
        "megabyte_s3": ("a downloaded MB, S3, with sha256", 1e3, "ms"),
        "delete": ("a delete, in a list of 1,000", 1e3, "ms"),
        "clean_up": ("a project in a clean-up of 100", 1e3, "ms"),
    }
    rows = [
        [what, f"{process[name] * factor:.3g} {unit}"] for name, (what, factor, unit) in by_process.items()
    ]
    names = {
        "scale_nothing": "a task that does nothing",
        "scale_mapped": "a project as a mapped generate task",
        "scale_listed": "a project in a generate task of 100",
        "scale_steps": "a project in lists of 100: create, sensor, download",
    }
    parts = ("workers", "api-server", "scheduler", "triggerer", "postgresql")
    of_airflow = [
        [
            what,
            *(_milliseconds(name, part, airflow[name]["cpu"][part]) for part in parts),
            f"{stored(airflow[name]):,.0f}",
            f"{airflow[name]['database']['xcom']:,.0f}",
            f"{airflow[name]['database']['task_state_store']:,.0f}",
            f"{airflow[name]['logs']:,.0f}",
            f"{airflow[name]['starts_per_second']:.2f}",
        ]
        for name, what in names.items()
    ]
    head = ["CPU ms for each", "workers", "API server", "scheduler", "triggerer", "PostgreSQL"]
    head += ["database bytes", "of these, XCom", "task state", "log bytes", "task starts/s"]
    alone = "One process alone, `python -m benchmarks.scale.process`"
    airflow_run = "A real Airflow, `python -m benchmarks.scale.airflow`"
    memory = airflow["scale_mapped"]["memory_each"] / 2**20
    return "\n\n".join(
        [
            f"{alone}, load average {process['load_average']:.1f}:",
            table(["CPU", "measured"], rows),
            f"{airflow_run}, {airflow['rounds']} rounds, load average {airflow['load_average']:.1f}:",
            table(head, of_airflow),
            f"Memory of one running task (shared memory is counted once): {memory:,.0f} MiB.",
        ]
    )

"""
How many projects a day one triggerer, one worker slot and one API key carry: the tables of docs/scale.md.

    python -m benchmarks.scale --write                     measure, half an hour or more, and write
    python -m benchmarks.scale --keep --write              compute anew from the page's own figures
    python -m benchmarks.scale --keep --tool lip-sync --megabytes 30 --each 50     for your own projects

What is measured is in the page as JSON, below "Measured figures"; everything else is computed from it.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import random
import re
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_provider_magichour._client.settings import Settings
from airflow_provider_magichour.tools import TOOLS
from benchmarks.report import machine, write_section
from benchmarks.waiting_schedule import SIGMA, looks

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
DAY = 86_400
#: Assumptions: what a call to Magic Hour takes on its way, and what one connection carries.
CALL_SECONDS, MB_PER_SECOND = 0.2, 30.0
#: Calls for a project besides the looks: create, look after the wait, project before the download, delete.
OTHER_CALLS = 4
#: What a task with a list does side by side.
SIDE_BY_SIDE = 4
#: Airflow's own defaults: [triggerer] capacity, [core] parallelism.
CAPACITY, PARALLELISM = 1_000, 32
#: How many projects of a key render at once, by plan; the highest plan has no limit.
PLANS = (1, 3, 5)
SIZES = (1_000, 10_000, 100_000, 1_000_000)
RUNS = 2_000


@dataclass(frozen=True)
class Work:
    """
    What is made.

    :param tool: one whose usual duration is known.
    :param megabytes: the files of one project, an assumption.
    :param each: projects of one generate task; 1 is a mapped task each.
    """

    tool: str
    megabytes: float
    each: int

    @property
    def median(self) -> float:
        seconds = TOOLS[self.tool].typical_seconds
        if seconds is None:
            raise ValueError(f"the usual duration of {self.tool} is not known")
        return seconds

    @property
    def mean(self) -> float:
        """The mean of a log-normal distribution around the median."""
        return self.median * math.exp(SIGMA**2 / 2)

    @property
    def slowest(self) -> float:
        """How long one task waits: about as long as the slowest of its projects."""
        if self.each == 1:
            return self.mean
        return self.median * math.exp(SIGMA * statistics.NormalDist().inv_cdf(1 - 1 / self.each))

    @property
    def looks(self) -> float:
        """How often a project is looked at, by the schedule itself."""
        return _looks(TOOLS[self.tool].kind, self.median)


@functools.cache
def _looks(kind: str, median: float) -> float:
    source = random.Random(7)
    is_persistent = [median * math.exp(SIGMA * source.gauss(0, 1)) for _ in range(RUNS)]
    return statistics.mean(looks(kind, median, one, source)[0] for one in is_persistent)


EXAMPLES = (("ai-image-generator", 2.0), ("text-to-video", 10.0), ("video-to-video", 40.0))

# --------------------------------------------------------------------------------------------- arithmetic


def share(one: float, in_list: float, length: int, each: int) -> float:
    """
    Return a project's share of a task of ``each`` projects, where a task costs ``once + each * project``.

    :param one: what a task with one project was measured at.
    :param in_list: what a project of a task with ``length`` projects was measured at.
    """
    project = max((length * in_list - one) / (length - 1), 0.0)
    return (one - project) / each + project


def stored(run: dict[str, Any]) -> float:
    """Return by how much the database grew, or the rows alone where they fell into pages that it had."""
    grown = run["database"]
    return float(max(grown["all"], sum(grown.values()) - grown["all"]))


def cost(figures: dict[str, Any], work: Work) -> dict[str, float]:
    """Return what one project costs: CPU seconds by component, bytes, calls, task starts, slot seconds."""
    mapped, listed = figures["airflow"]["scale_mapped"], figures["airflow"]["scale_listed"]
    length = round(listed["projects"] * mapped["starts"] / mapped["projects"] / listed["starts"])

    def measured(*path: str) -> float:
        one, many = mapped, listed
        for name in path:
            one, many = one[name], many[name]
        return share(one, many, length, work.each)

    process, nothing = figures["process"], figures["airflow"]["scale_nothing"]
    starts = mapped["starts"] / mapped["projects"] / work.each
    workers = measured("cpu", "workers") + process["megabyte_s3"] * work.megabytes
    api_server = measured("cpu", "api-server")
    on_the_way = 4 * CALL_SECONDS + work.megabytes / MB_PER_SECOND  # create, look, project, file
    return {
        "starts": starts,
        "calls": work.looks + OTHER_CALLS,
        "looks": work.looks,
        "workers": workers,
        "api_server": api_server,
        "scheduler": nothing["cpu"]["scheduler"] * starts,
        "triggerer": measured("cpu", "triggerer") + process["look"] * work.looks,
        "postgresql": measured("cpu", "postgresql"),
        "database": share(stored(mapped), stored(listed), length, work.each),
        "logs": measured("logs"),
        "slot": workers + api_server + on_the_way / min(work.each, SIDE_BY_SIDE),
    }


def carries(figures: dict[str, Any], work: Work) -> dict[str, float]:
    """Return how many projects a day one of each carries."""
    one = cost(figures, work)
    keys = {f"API key, {limit} at once": limit * DAY / work.mean for limit in PLANS}
    rate = Settings(api_key="").requests_per_second
    return {
        **keys,
        f"triggerer, {rate:g} calls/s": rate * DAY / one["looks"],
        "triggerer, CPU": DAY / one["triggerer"],
        f"triggerer, {CAPACITY:,} triggers": CAPACITY * work.each * DAY / work.slowest,
        "worker slot": DAY / one["slot"],
        "worker slot, not deferring": work.each * DAY / (work.each * one["slot"] + work.slowest),
        "worker core": DAY / one["workers"],
        "API server process": DAY / one["api_server"],
        "scheduler": DAY / one["scheduler"],
        "PostgreSQL core": DAY / one["postgresql"],
    }


def first_to_give_way(figures: dict[str, Any], work: Work, per_day: float) -> str:
    """Name the two parts of an Airflow with one of each that are loaded most, keys aside."""
    found = carries(figures, work)
    loads = {
        "API server process": per_day / found["API server process"],
        "scheduler": per_day / found["scheduler"],
        f"{PARALLELISM} worker slots": per_day / found["worker slot"] / PARALLELISM,
        "4 worker cores": per_day / found["worker core"] / 4,
        "triggerer": max(per_day / value for name, value in found.items() if name.startswith("triggerer")),
    }
    most = sorted(loads, key=lambda name: -loads[name])[:2]
    return ", then ".join(f"{name} ({_number(100 * loads[name])} %)" for name in most)


def needs(figures: dict[str, Any], work: Work, per_day: float) -> dict[str, str]:
    """Return what so many projects a day need."""
    one, found = cost(figures, work), carries(figures, work)
    triggerers = max(per_day / value for name, value in found.items() if name.startswith("triggerer"))
    keys = math.ceil(per_day / found[f"API key, {PLANS[-1]} at once"])
    return {
        "renders at once, one key without limit": _number(per_day * work.mean / DAY),
        f"or keys with {PLANS[-1]} at once": f"{keys:,}",
        "calls to Magic Hour a second": _number(one["calls"] * per_day / DAY),
        "webhook events a second, if used": _number(2 * per_day / DAY),  # started, completed
        "task starts a second": _number(one["starts"] * per_day / DAY),
        "triggerers": f"{math.ceil(triggerers):,}",
        "worker slots": f"{math.ceil(per_day / found['worker slot']):,}",
        "worker cores": _number(per_day / found["worker core"]),
        "API server processes": _number(per_day / found["API server process"]),
        "schedulers": _number(per_day / found["scheduler"]),
        "PostgreSQL cores": _number(per_day / found["PostgreSQL core"]),
        "database, GB a day": _number(one["database"] * per_day / 1e9),
        "task logs, GB a day": _number(one["logs"] * per_day / 1e9),
        "files, GB a day": _number(work.megabytes * per_day / 1e3),
        "bandwidth, Mbit/s on average": _number(work.megabytes * 8 * per_day / DAY),
        "loaded most, with one of each": first_to_give_way(figures, work, per_day),
    }


# ------------------------------------------------------------------------------------------------- tables


def _number(value: float) -> str:
    """Round to two digits, as what is derived from a busy machine deserves."""
    if value <= 0:
        return "0"
    digits = 1 - math.floor(math.log10(value))
    rounded = round(value, digits)
    return f"{rounded:,.0f}" if digits <= 0 else f"{rounded:,.{digits}f}".rstrip("0").rstrip(".")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def one_of_each(figures: dict[str, Any], works: Sequence[Work]) -> str:
    """Return the table of what one of each carries."""
    found = [carries(figures, work) for work in works]
    head = ["projects a day", *(f"{work.tool}, {_way(work)}" for work in works)]
    return table(head, [[name, *(_number(one[name]) for one in found)] for name in found[0]])


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
        "What one of each carries": one,
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
    """Return the figures that the page holds."""
    found = re.search(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found, f"{PAGE} holds no figures"
    return dict(json.loads(found[1]))


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(figures), parse_float=lambda digits: float(f"{float(digits):.4g}")))


def _milliseconds(name: str, part: str, seconds: float) -> str:
    if part == "scheduler" and name != "scale_nothing":  # mostly idle there, which cannot be told apart
        return ""
    return f"{max(seconds, 0) * 1e3:,.1f}"


def measured_table(figures: dict[str, Any]) -> str:
    """Return what was measured, for people."""
    process, airflow = figures["process"], figures["airflow"]
    by_process = {
        "look": ("a look, in a busy poller", 1e6, "µs"),
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
    head = ["CPU ms of each", "workers", "API server", "scheduler", "triggerer", "PostgreSQL"]
    head += ["database bytes", "of that XCom", "task state", "log bytes", "task starts/s"]
    alone = "One process alone, `python -m benchmarks.scale_process`"
    airflow_run = "A real Airflow, `python -m benchmarks.scale_airflow`"
    memory = airflow["scale_mapped"]["memory_each"] / 2**20
    return "\n\n".join(
        [
            f"{alone}, load average {process['load_average']:.1f}:",
            table(["CPU", "measured"], rows),
            f"{airflow_run}, {airflow['rounds']} rounds, load average {airflow['load_average']:.1f}:",
            table(head, of_airflow),
            f"Memory of one running task, shared pages counted once: {memory:,.0f} MiB.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/scale.md")
    parser.add_argument("--keep", action="store_true", help="take the figures that the page holds")
    parser.add_argument("--tool", choices=[name for name, tool in TOOLS.items() if tool.typical_seconds])
    parser.add_argument("--megabytes", type=float, default=10.0, help="the files of one project")
    parser.add_argument("--each", type=int, default=100, help="projects of one task; 1 for mapped tasks")
    arguments = parser.parse_args()
    if arguments.keep:
        figures = read_figures()
    else:
        from benchmarks import scale_airflow, scale_process

        found = {"process": scale_process.measure(5), "airflow": scale_airflow.measure(3)}
        figures = {"machine": machine(), **_rounded(found)}
    if arguments.tool:
        work = Work(arguments.tool, arguments.megabytes, arguments.each)
        print(f"{one_of_each(figures, [work])}\n\n{growth(figures, work)}")
        return
    data = textwrap.indent(f"```json\n{json.dumps(figures, indent=1)}\n```", "    ")
    measured = f'{measured_table(figures)}\n\n??? note "What the tables are computed from"\n\n{data}'
    for title, text in sections(figures).items():
        print(f"## {title}\n\n{text}\n")
        if arguments.write:
            write_section(title, text, PAGE, "Computed from the [measured figures](#measured-figures).")
    print(measured_table(figures))
    if arguments.write:
        write_section("Measured figures", measured, PAGE, f"Measured on {figures['machine']}.")


if __name__ == "__main__":
    main()

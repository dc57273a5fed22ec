"""
The figures of waiting: a section of docs/benchmarks.md.

    python -m benchmarks.waiting --write                 all of them, about 40 minutes
    python -m benchmarks.waiting --only cpu schedule     some

The comparison with dbt Cloud needs its provider installed; without it its row is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import Figure, at_most, figures_table, write_section


def schedule() -> Any:
    from benchmarks.waiting.schedule import measure, plot

    plot()
    return {"known": measure(True), "kind": measure(False)}


def cpu() -> Any:
    from benchmarks.waiting.cpu import measure

    return measure()


def parse() -> Any:
    from benchmarks.waiting.parse import measure

    return measure()


def scale() -> Any:
    """Run each shape in its own process, so that its memory is its own."""
    return {
        f"{triggers}x{each}": _run("scale", str(triggers), str(each))
        for triggers, each in ((2000, 5), (10, 1000))
    }


def airflow() -> Any:
    return {name: _run("airflow", name) for name in ("many", "killed", "stopped", "two")}


def latency() -> Any:
    """Measure rounds of 10,000 waits at two latencies, and what hanging checks do to others."""
    return {
        **{f"{ms} ms": _run("latency", "--seconds", str(ms / 1000)) for ms in (200, 20)},
        "hanging": _run("latency", "--hanging", "40"),
    }


def bursts() -> Any:
    """Start short renders together, and one at a time, on a real Airflow."""
    mixed = ("ai-image-generator", "ai-voice-generator", "text-to-video")
    return {
        "bursts": _run("bursts", "--rounds", "7", "--tasks", "30", "--tools", *mixed),
        "celery": _run("bursts", "--celery", "--rounds", "7", "--tasks", "30", "--tools", *mixed),
        "single": _run("bursts", "--rounds", "5", "--tasks", "1", "--duration", "4", "--jitter", "0"),
    }


def soak() -> Any:
    return _run("soak", "--seconds", "300")


def _run(module: str, *arguments: str) -> Any:
    command = [sys.executable, "-m", f"benchmarks.waiting.{module}", *arguments]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(printed[printed.rindex("\n{\n") if "\n{\n" in printed else 0 :])


PARTS: dict[str, Callable[[], Any]] = {
    "schedule": schedule,
    "cpu": cpu,
    "parse": parse,
    "scale": scale,
    "latency": latency,
    "bursts": bursts,
    "soak": soak,
    "airflow": airflow,
}


def figures(found: dict[str, Any]) -> list[Figure]:
    """Return what was measured, each with its goal."""
    return [
        *_airflow_figures(found.get("airflow", {})),
        *_latency_figures(found),
        *_loop_figures(found),
        *_cost_figures(found),
    ]


def _airflow_figures(real: dict[str, Any]) -> list[Figure]:
    rows: list[Figure] = []
    if many := real.get("many"):
        rows += [
            Figure(
                "10,000 waits in one real triggerer (10 tasks of 1,000 ids): finished",
                f"{many['projects_complete']} of {many['projects']}",
                "all",
                many["projects_complete"] == many["projects"],
            ),
            at_most("the same: event loop lag p99", many["lag_p99_ms"], 100, "ms", 0),
            at_most("the same: sockets at the server", many["most_sockets"], 16, "", 0),
        ]
    for name, label in {
        "killed": "1,000 waits, their triggerer killed (SIGKILL) and started again",
        "stopped": "1,000 waits, their triggerer stopped (SIGTERM) and started again",
        "two": "600 waits on two triggerers, one of them stopped halfway",
    }.items():
        if one := real.get(name):
            once = one["tries"] == [1] and one["projects_complete"] == one["projects"]
            said = f"{one['projects_complete']} of {one['projects']} finished, tries {one['tries']}"
            rows.append(Figure(label, said, "all, in one try", once))
    return rows


def _latency_figures(found: dict[str, Any]) -> list[Figure]:
    rows: list[Figure] = []
    if one := found.get("latency"):
        rows += [
            at_most("10,000 waits, 200 ms a response: a round", one["200 ms"]["round_s"], 25, "s", 1),
            at_most("10,000 waits, 20 ms a response: a round", one["20 ms"]["round_s"], 25, "s", 1),
            at_most("the same: sockets at the server", one["20 ms"]["most_sockets"], 16, "", 0),
            at_most(
                "40 checks that hang: longest gap of another project, checked every 2 s",
                one["hanging"]["longest_gap_s"],
                5,
                "s",
                1,
            ),
        ]
    if one := found.get("bursts"):
        for where, name in (("SQLite", "bursts"), ("Celery and PostgreSQL", "celery")):
            if many := one.get(name):
                label = (
                    f"{many['rounds'] * many['tasks_each']} renders, {many['tasks_each']} at once, on {where}"
                )
                rows += [
                    at_most(f"{label}: failed tasks", many["states"].get("failed", 0), 0, "", 0),
                    at_most(
                        "the same: from a deferral until the scheduler has noticed it",
                        many["settle_seconds_max"],
                        20,
                        "s",
                        1,
                    ),
                ]
        rows += [
            at_most(
                "an image that takes 4 s: from its submit to the end of its task",
                one["single"]["submit_to_end_max"],
                10,
                "s",
                1,
            ),
        ]
    return rows


def _loop_figures(found: dict[str, Any]) -> list[Figure]:
    rows: list[Figure] = []
    for shape, one in found.get("scale", {}).items():
        rows += [
            at_most(f"{shape} ids in one event loop: lag p99", one["lag_p99_ms"], 100, "ms", 0),
            at_most(f"{shape} ids: memory per waiting project", one["kib_per_project"], 4, "KiB"),
            Figure(
                f"{shape} ids: requests in a pause that a 429 asked for, beyond those in flight",
                str(one["asked_later_than_100_ms_into_it"]),
                "0",
                one["asked_later_than_100_ms_into_it"] == 0,
            ),
        ]
    if one := found.get("soak"):
        rows += [
            Figure(
                f"{one['seconds']:.0f} s of waits with 10 % of the responses wrong: lost",
                f"{one['other']} of {one['complete'] + one['other']}",
                "0",
                one["other"] == 0,
            ),
            at_most("the same: growth of memory since warm", one["rss_growth_mib_since_warm"], 8, "MiB"),
            Figure(
                "the same: tasks left at the end",
                str(one["tasks_at_the_end"]),
                "0",
                one["tasks_at_the_end"] == 0,
            ),
        ]
    return rows


def _cost_figures(found: dict[str, Any]) -> list[Figure]:
    rows: list[Figure] = []
    if one := found.get("cpu"):
        rows += [
            at_most(
                "CPU per status check, against a new aiohttp session per poll",
                one["ratio_to_session_per_poll"],
                0.4,
                "x",
            ),
            at_most(
                "CPU per status check, against the official async SDK",
                one["ratio_to_official_sdk"],
                0.25,
                "x",
            ),
        ]
        if "ratio_to_dbt_cloud" in one:
            rows.append(
                at_most(
                    "CPU per status check, against the dbt Cloud provider's hook",
                    one["ratio_to_dbt_cloud"],
                    0.4,
                    "x",
                )
            )
    for which, bar in (("known", 0.7), ("kind", 0.9)):
        if one := found.get("schedule", {}).get(which):
            label = "typical duration known" if which == "known" else "only the kind known"
            rows += [
                at_most(f"requests per project, {label}, against every 5 s", one["ratio"], bar, "x"),
                at_most(
                    f"lateness p50, {label}, in shares of 4 % of the duration or 1 s",
                    one["late_p50_against_4_percent_or_1_s"],
                    1,
                    "",
                ),
                at_most(f"lateness p99, {label}", one["late_p99_s"], 10, "s"),
            ]
    if one := found.get("parse"):
        what = "operators and sensor, added to the parse of a DAG file (wall time, median)"
        rows += [
            at_most(what, one["added_ms"], 15, "ms", 0),
            at_most(
                "the same, where Python writes no bytecode", one["added_ms_without_bytecode"], 15, "ms", 0
            ),
        ]
    return rows


METHOD = """\
- **Server.** A small process (`benchmarks/load_server.py`) takes the place of Magic Hour. The simulator
  would use too much CPU for that. The server uses plain HTTP on loopback. This favours clients that open a
  connection for each poll, because they need no TLS handshakes.
- **Airflow.** A real Airflow has a SQLite database, and all its processes run on this machine. A trigger
  measures the lag of the triggerer's event loop every 20 ms.
- **One event loop.** In the rows that start with `2000x5 ids` (2,000 triggers with 5 ids each) and
  `10x1000 ids`, there is no triggerer. One event loop runs the `run()` methods of the triggers.
- **A round** is the time in which each waiting project is checked once.
- **CPU** is the user and system time of the process for one check. The sides are measured in turn, and the
  medians are compared. The goal of 0.4 leaves little room: a bare request over one session for all
  takes 0.34 of a request with a new session, without a schedule, a rate limit, time limits for each check, or
  checks of the response.
- **Requests and lateness** are computed from the schedule. The durations are log-normal (sigma 0.5) around
  the median of each tool, and each tool has the same number of projects. The first check is at once, also
  for the fixed interval of 5 s.
- **The goals for requests** were 0.5 and 0.65 with the medians of July 2026. Projects are now twice as
  fast. A check every 5 s therefore sends fewer requests for each project, and there is less to save.
"""


def text(found: dict[str, Any]) -> str:
    return f"{METHOD}\n{figures_table(figures(found))}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--keep", type=Path, help="gathers the figures of several runs")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    if arguments.keep and arguments.keep.exists():
        found = json.loads(arguments.keep.read_text())
    for name in arguments.only:
        found[name] = PARTS[name]()
        if arguments.keep:
            arguments.keep.write_text(json.dumps(found, indent=2))
    print(text(found))
    if arguments.write:
        write_section("Waiting", text(found))
    return 0 if all(one.met for one in figures(found)) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Requests and lateness of the schedule on durations like Magic Hour's, against every 5 s; and a plot."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path

from airflow_provider_magichour._polling.schedule import next_delay
from airflow_provider_magichour.tools import TOOLS

PLOT = Path(__file__).parents[2] / "docs" / "waiting-schedule.svg"
FIXED = 5.0
SIGMA = 0.5
RUNS = 3000


def checks(kind: str, typical: float | None, duration: float, source: random.Random) -> tuple[int, float]:
    """Return how many checks a project costs from its start, and how late its end is seen."""
    age, count = 0.0, 1  # the first check comes at once: nothing is known of the project before it
    while age < duration:
        age += next_delay(kind, typical, age, math.inf, source.random())
        count += 1
    return count, age - duration


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


def measure(known: bool) -> dict[str, float]:
    """Draw durations around each tool's median, log-normal, as many for each tool."""
    source = random.Random(7)
    ours = fixed = 0
    late: list[float] = []
    share: list[float] = []
    for tool in TOOLS.values():
        if tool.typical_seconds is None:
            continue
        for _ in range(RUNS):
            duration = tool.typical_seconds * math.exp(SIGMA * source.gauss(0, 1))
            count, lateness = checks(tool.kind, tool.typical_seconds if known else None, duration, source)
            ours += count
            fixed += 1 + math.ceil(duration / FIXED)
            late.append(lateness)
            share.append(lateness / max(0.04 * duration, 1.0))
    return {
        "projects": len(late),
        "requests_per_project": ours / len(late),
        "fixed_requests_per_project": fixed / len(late),
        "ratio": ours / fixed,
        "late_p50_s": statistics.median(late),
        "late_p99_s": percentile(late, 0.99),
        "late_p50_against_4_percent_or_1_s": statistics.median(share),
    }


# ---------------------------------------------------------------------------------------------- plot

WIDTH, HEIGHT, LEFT, TOP = 380, 250, 50, 30
LINES = {
    "fixed 5 s": ("#999999", None),
    "image, kind only": ("#0b7285", "image"),
    "video, kind only": ("#c2255c", "video"),
    "typical duration known": ("#5f3dc4", "known"),
}


def points(which: str | None) -> list[tuple[float, float, float]]:
    """Return duration, mean requests and mean lateness of one line."""
    found = []
    source = random.Random(5)
    for step in range(41):
        duration = 4 * (1000 / 4) ** (step / 40)
        if which is None:
            found.append((duration, 1 + duration / FIXED + 0.5, FIXED / 2))
            continue
        typical = duration if which == "known" else None
        kind = "video" if which == "known" else which
        runs = [checks(kind, typical, duration * source.uniform(0.95, 1.05), source) for _ in range(300)]
        found.append((duration, statistics.mean(r[0] for r in runs), statistics.mean(r[1] for r in runs)))
    return found


def panel(number: int, title: str, lines: dict[str, list[tuple[float, float]]], top: float, log: bool) -> str:
    """Draw one panel as SVG."""
    x0 = LEFT + number * (WIDTH + 70)

    def x(value: float) -> float:
        return x0 + WIDTH * math.log(value / 4) / math.log(250)

    def y(value: float) -> float:
        share = math.log10(max(value, 1)) / math.log10(top) if log else value / top
        return TOP + HEIGHT * (1 - share)

    parts = [f'<text x="{x0}" y="{TOP - 12}" font-weight="bold">{title}</text>']
    parts += [
        f'<text x="{x(tick):.0f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{tick} s</text>'
        for tick in (4, 10, 30, 100, 300, 1000)
    ]
    for tick in (1, 3, 10, 30, 100, 200) if log else (0, 2, 4, 6):
        parts.append(f'<text x="{x0 - 6}" y="{y(tick) + 4:.0f}" text-anchor="end">{tick}</text>')
        parts.append(f'<path d="M{x0} {y(tick):.1f}h{WIDTH}" stroke="#dddddd"/>')
    for name, line in lines.items():
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{LINES[name][0]}" stroke-width="2"/>')
    return "\n".join(parts)


def plot() -> None:
    """Write the plot of requests and lateness against how long a project takes."""
    drawn = {name: points(which) for name, (_, which) in LINES.items()}
    requests = {name: [(a, b) for a, b, _ in line] for name, line in drawn.items()}
    lateness = {name: [(a, c) for a, _, c in line] for name, line in drawn.items()}
    legend = "".join(
        f'<text x="{LEFT + 205 * n}" y="{TOP + HEIGHT + 44}" fill="{color}">{name}</text>'
        for n, (name, (color, _)) in enumerate(LINES.items())
    )
    PLOT.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {TOP + HEIGHT + 60}" '
        f'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="#ffffff"/>\n'
        f"{panel(0, 'Requests per project, against its duration', requests, 210, True)}\n"
        f"{panel(1, 'Mean lateness in seconds', lateness, 7, False)}\n{legend}\n</svg>\n"
    )

"""The arithmetic of docs/scale.md: what one project costs, and what so many projects a day need."""

from __future__ import annotations

import functools
import math
import random
import statistics
from dataclasses import dataclass
from typing import Any

from airflow_provider_magichour._client.settings import Settings
from airflow_provider_magichour.tools import TOOLS
from benchmarks.waiting.schedule import SIGMA, checks

DAY = 86_400
#: Assumptions: what a call to Magic Hour takes on its way, and what one connection carries.
CALL_SECONDS, MB_PER_SECOND = 0.2, 30.0
#: Calls for a project besides the checks: create, check after the wait, project before the download, delete.
OTHER_CALLS = 4
#: What a task with a list does in parallel.
SIDE_BY_SIDE = 4
#: Airflow's own defaults: [triggerer] capacity, [core] parallelism.
CAPACITY, PARALLELISM = 1_000, 32
#: How many projects of a key render at once, by plan; the highest plan has no limit.
PLANS = (1, 3, 5)
RUNS = 2_000


@dataclass(frozen=True)
class Work:
    """
    What is made.

    :param tool: one whose typical duration is known.
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
            raise ValueError(f"the typical duration of {self.tool} is not known")
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
    def checks(self) -> float:
        """How often a project is checked, by the schedule itself."""
        return _checks(TOOLS[self.tool].kind, self.median)


@functools.cache
def _checks(kind: str, median: float) -> float:
    source = random.Random(7)
    durations = [median * math.exp(SIGMA * source.gauss(0, 1)) for _ in range(RUNS)]
    return statistics.mean(checks(kind, median, one, source)[0] for one in durations)


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
    on_the_way = 4 * CALL_SECONDS + work.megabytes / MB_PER_SECOND  # create, check, project, file
    return {
        "starts": starts,
        "calls": work.checks + OTHER_CALLS,
        "checks": work.checks,
        "workers": workers,
        "api_server": api_server,
        "scheduler": nothing["cpu"]["scheduler"] * starts,
        "triggerer": measured("cpu", "triggerer") + process["status_check"] * work.checks,
        "postgresql": measured("cpu", "postgresql"),
        "database": share(stored(mapped), stored(listed), length, work.each),
        "logs": measured("logs"),
        "slot": workers + api_server + on_the_way / min(work.each, SIDE_BY_SIDE),
    }


def carries(figures: dict[str, Any], work: Work) -> dict[str, float]:
    """Return how many projects a day one of each carries."""
    one = cost(figures, work)
    keys = {f"API key, {limit} at once": limit * DAY / work.mean for limit in PLANS}
    settings = Settings(api_key="")
    rate = min(settings.requests_per_second, settings.max_connections / CALL_SECONDS)
    return {
        **keys,
        f"triggerer, {rate:g} calls/s": rate * DAY / one["checks"],
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
    return ", then ".join(f"{name} ({two_digits(100 * loads[name])} %)" for name in most)


def needs(figures: dict[str, Any], work: Work, per_day: float) -> dict[str, str]:
    """Return what so many projects a day need."""
    one, found = cost(figures, work), carries(figures, work)
    triggerers = max(per_day / value for name, value in found.items() if name.startswith("triggerer"))
    keys = math.ceil(per_day / found[f"API key, {PLANS[-1]} at once"])
    return {
        "projects in progress at once": two_digits(per_day * work.mean / DAY),
        f"API keys that render {PLANS[-1]} at once": f"{keys:,}",
        "calls to Magic Hour a second": two_digits(one["calls"] * per_day / DAY),
        "webhook events a second, if used": two_digits(2 * per_day / DAY),  # started, completed
        "task starts a second": two_digits(one["starts"] * per_day / DAY),
        "triggerers": f"{math.ceil(triggerers):,}",
        "worker slots": f"{math.ceil(per_day / found['worker slot']):,}",
        "worker cores": two_digits(per_day / found["worker core"]),
        "API server processes": two_digits(per_day / found["API server process"]),
        "schedulers": two_digits(per_day / found["scheduler"]),
        "PostgreSQL cores": two_digits(per_day / found["PostgreSQL core"]),
        "database, GB a day": two_digits(one["database"] * per_day / 1e9),
        "task logs, GB a day": two_digits(one["logs"] * per_day / 1e9),
        "files, GB a day": two_digits(work.megabytes * per_day / 1e3),
        "bandwidth, Mbit/s on average": two_digits(work.megabytes * 8 * per_day / DAY),
        "highest load, with one of each": first_to_give_way(figures, work, per_day),
    }


def two_digits(value: float) -> str:
    """Round to two digits, as what is derived from a busy machine deserves."""
    if value <= 0:
        return "0"
    digits = 1 - math.floor(math.log10(value))
    rounded = round(value, digits)
    return f"{rounded:,.0f}" if digits <= 0 else f"{rounded:,.{digits}f}".rstrip("0").rstrip(".")

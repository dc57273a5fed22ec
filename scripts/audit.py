"""
``make audit``: known vulnerabilities of what constraints.txt pins, as PyPI lists them.

Exit status 0: none. 1: some, each named. 3: it could not be checked, or not all of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PIP_AUDIT = "pip-audit>=2.9,<3"
NONE, SOME, UNKNOWN = 0, 1, 3
#: How many packages a message names.
MAX_NAMED = 5


@dataclass(frozen=True)
class Ignored:
    """
    A vulnerability that does not matter here, for now.

    :param id: as pip-audit names it, or one of its aliases.
    :param reason: why it does not matter here.
    :param until: the last day on which that is believed; it counts again after it.
    """

    id: str
    reason: str
    until: date


IGNORED: tuple[Ignored, ...] = ()


def summarize(
    report: Mapping[str, Any], today: date, ignored: Collection[Ignored] = IGNORED
) -> tuple[int, list[str]]:
    """
    Return what pip-audit's report means: the exit status and the lines to print.

    A package that was skipped was not checked, which pip-audit itself takes for clean.

    :param report: as ``pip-audit --format json`` prints it.
    """
    reasons = {each.id: each for each in ignored if today <= each.until}
    found, lines, unknown = 0, [], []
    for package in report["dependencies"]:
        if "skip_reason" in package:
            unknown.append(package["name"])
        for one in package.get("vulns", ()):
            names = [one["id"], *one.get("aliases", ())]
            fixed = (
                f"fixed in {', '.join(one['fix_versions'])}" if one.get("fix_versions") else "not fixed yet"
            )
            line = f"{package['name']} {package['version']}: {', '.join(names)} ({fixed})"
            reason = next((reasons[name] for name in names if name in reasons), None)
            found += reason is None
            lines.append(f"{line}; ignored until {reason.until}: {reason.reason}" if reason else line)
    total = len(report["dependencies"])
    if unknown:
        named = ", ".join(unknown[:MAX_NAMED]) + (", ..." if len(unknown) > MAX_NAMED else "")
        lines.append(f"{len(unknown)} of {total} packages could not be checked: {named}")
    if not found and not unknown:
        lines.append(f"{total} packages, no known vulnerability that counts")
    return (SOME if found else UNKNOWN if unknown or not total else NONE), lines


def main() -> int:
    """Ask, print what came of it, and return the exit status."""
    # uv keeps pip-audit apart from the packages that it checks at.
    command = [sys.executable, "-m", "uv", "tool", "run", "--quiet", "--from", PIP_AUDIT, "pip-audit"]
    options = ["--requirement", "constraints.txt", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    done = subprocess.run(  # noqa: S603  # our own arguments
        [*command, *options, "--format", "json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    try:
        status, lines = summarize(json.loads(done.stdout), datetime.now(UTC).date())
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        status, lines = UNKNOWN, [f"pip-audit did not work: {last[:300]}"]
    if status == UNKNOWN:
        lines.append("Could not be checked: PyPI's list of vulnerabilities is not reachable from here")
    print("\n".join(lines), file=sys.stdout if status == NONE else sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

"""``make constraints``: pin the newest versions that fit each other, and those of older Airflows' days."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """\
# Versions that `make install` takes, for Python 3.11 to 3.13. Written by `make constraints`; what users
# install with the package is open above the lower bounds in pyproject.toml.
"""
OLDER_HEAD = """\
# Versions for Airflow {airflow} in `make test-matrix`: the newest of {day}, soon after its release.
# Written by `make constraints`.
"""
EXTRAS = ("dev", "docs", "browser", "stores", "dist", "workflows")
# For systems and interpreters that Airflow does not run on.
ELSEWHERE = {"colorama", "pywin32", "pywin32-ctypes", "httpx2-jsfetch"}


@dataclass(frozen=True)
class Older:
    """An older Airflow, and a day soon after its release."""

    airflow: str
    day: str


# The newest patch of each, with the libraries of its days: later ones may not fit it any more.
OLDER = {
    "2.11": Older("2.11.2", "2026-03-15"),
    "3.1": Older("3.1.8", "2026-03-15"),
}
# Needed in a version newer than that: the day when the oldest that pyproject.toml takes was the newest.
NEWER = ("apache-airflow-providers-common-compat=2026-06-15", "moto=2026-10-28")


class CannotPinError(Exception):
    """There are no versions that fit each other."""


def main() -> int:
    """Write constraints.txt and the files in constraints/, and return the exit code."""
    extras = [f"--extra={extra}" for extra in EXTRAS]
    try:
        _write(ROOT / "constraints.txt", HEAD, pin(["--upgrade", *extras]))
        for name, older in OLDER.items():
            newer = [f"--exclude-newer-package={each}" for each in NEWER]
            options = [f"--exclude-newer={older.day}", *newer, "--extra=test"]
            head = OLDER_HEAD.format(airflow=older.airflow, day=older.day)
            pins = pin(options, f"apache-airflow=={older.airflow}")
            _write(ROOT / "constraints" / f"airflow-{name}.txt", head, pins)
    except CannotPinError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def pin(options: list[str], besides: str = "") -> list[str]:
    """
    Return one version of each package for all Pythons.

    :param options: for uv.
    :param besides: a requirement besides those of this package.
    """
    # One version for all, because a reader should not have to think about markers.
    options = [*options, "--universal", "--python-version=3.11", "--fork-strategy=fewest"]
    options += ["--no-annotate", "--no-header", "--quiet"]
    done = subprocess.run(  # noqa: S603  # our own arguments
        [sys.executable, "-m", "uv", "pip", "compile", *options, "pyproject.toml", "-"],
        cwd=ROOT,
        input=besides,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CannotPinError(done.stderr)
    pins = [line.partition(";")[0].strip() for line in done.stdout.splitlines() if "==" in line]
    names = [pin.partition("==")[0] for pin in pins]
    if twice := {name for name in names if names.count(name) > 1}:
        raise CannotPinError(f"no one version fits all Pythons: {', '.join(sorted(twice))}")
    return [pin for pin, name in zip(pins, names, strict=True) if name not in ELSEWHERE]


def _write(file: Path, head: str, pins: list[str]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(head + "\n".join(pins) + "\n")
    print(f"{file.relative_to(ROOT)}: {len(pins)} packages")


if __name__ == "__main__":
    sys.exit(main())

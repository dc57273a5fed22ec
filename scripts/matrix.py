"""
``make test-matrix``: run the tests on every Airflow and Python that this package supports.

Each environment lives in ``.matrix/NAME``, made by uv from its own pins, and is used again until its pins
change. A Python is taken from uv, then from pyenv's versions (``PYENV_ROOT`` or ``~/.pyenv``); if
there is none, uv is asked to fetch it. One that is not to be had ends the run with exit code 2 before any
test: no environment is ever passed over in silence.

``--quick`` is what ``.ci/run`` has time for.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = [sys.executable, "-m", "uv"]


@dataclass(frozen=True)
class Environment:
    """An Airflow, as ``2.11``, on a Python."""

    airflow: str
    python: str

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return f"{self.airflow}-py{self.python}"

    @property
    def pins(self) -> Path:
        """The versions it is made of; the newest Airflow's are those that this package is made with."""
        own = ROOT / "constraints" / f"airflow-{self.airflow}.txt"
        return own if own.exists() else ROOT / "constraints.txt"

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return ROOT / ".matrix" / self.name

    @property
    def interpreter(self) -> Path:
        """The Python in it."""
        return self.folder / "bin" / "python"


# 3.1 stands for the releases between, because most of it is old: it is the last that asks the hook for the
# connection form, and like 3.0 and 3.2 it keeps no task state and has no memory for webhooks.
ENVIRONMENTS = (
    Environment("2.11", "3.11"),
    Environment("2.11", "3.12"),
    Environment("3.1", "3.12"),
    Environment("3.3", "3.11"),
    Environment("3.3", "3.13"),
)

# These need what only `make install` brings, and do not depend on the version of Airflow.
LEFT_OUT = (
    "tests/operators/test_every_tool.py",  # against the official client
    "tests/simulator/test_sdk.py",
    "tests/test_against_sdk.py",
    "tests/test_comparison.py",
    "tests/test_packaging.py",  # the sdist and the wheel
    "tests/test_typing.py",  # mypy
    "tests/test_demo.py",  # our own tools
    "tests/test_local_airflow.py",
    "tests/test_processes.py",
    "tests/test_audit.py",
    "tests/test_matrix.py",
    "tests/distributed",  # Celery, on the newest Airflow
)

# The quick form leaves out Airflow 3.3, which `make test` runs on, the other Python of 2.11, and parts that
# depend little on Airflow: tools, transport, polling, receipts, throttle, simulator, local files.
QUICK = ("2.11-py3.12", "3.1-py3.12")
QUICK_TESTS = (
    "tests/test_airflow_versions.py",
    "tests/test_provider_info.py",
    "tests/real_airflow/test_waits.py",
    "tests/real_airflow/test_killed_on_2.py",
    "tests/test_feeding.py",
    "tests/operators",
    "tests/sensors",
    "tests/test_triggers.py",
    "tests/test_waiting.py",
    "tests/hooks",
    "tests/test_connections.py",
    "tests/test_task_logs.py",
    "tests/transfer/test_s3.py",
    "tests/webhooks/test_plugin.py",
)


class CannotRunError(Exception):
    """What this machine lacks to run the matrix."""


@dataclass(frozen=True)
class Result:
    """How the tests of an environment ended."""

    environment: Environment
    status: int
    passed: int = 0
    skipped: int = 0
    failed: int = 0
    install_seconds: float = 0
    test_seconds: float = 0


def main() -> int:
    """Run the chosen environments one after the other and return the exit code."""
    parser = argparse.ArgumentParser("python -m scripts.matrix", description="Run the tests on each Airflow.")
    names = [each.name for each in ENVIRONMENTS]
    parser.add_argument("--only", action="append", choices=names, help="one environment; may be repeated")
    parser.add_argument("--quick", action="store_true", help="two environments, fewer tests")
    parser.add_argument("--workers", default="4", help="test processes; default: 4")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the tests in progress end, too
    wanted = arguments.only or (QUICK if arguments.quick else names)
    chosen = [each for each in ENVIRONMENTS if each.name in wanted]
    try:
        pythons = {each.python: find_python(each.python) for each in chosen}
        results = []
        for each in chosen:
            print(f"\n=== {each.name}", flush=True)
            begun = time.monotonic()
            install(each, pythons[each.python])
            installed = time.monotonic() - begun
            results.append(run_tests(each, installed, quick=arguments.quick, workers=arguments.workers))
    except CannotRunError as error:
        print(f"make test-matrix: {error}", file=sys.stderr)
        return 2
    print(f"\n{report(results)}")
    return int(any(each.status != 0 for each in results))


def find_python(version: str) -> str:
    """
    Return the path of a Python.

    :raises CannotRunError: if there is none and uv cannot fetch one.
    """
    if found := _ask_uv("find", version):
        return found
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    of_pyenv = {path.parents[1].name: path for path in versions.glob(f"{version}.*/bin/python")}
    if releases := [name for name in of_pyenv if name.replace(".", "").isdigit()]:
        return str(of_pyenv[max(releases, key=lambda name: [int(number) for number in name.split(".")])])
    print(f"Python {version} is not here; asking uv to fetch it", flush=True)
    _ask_uv("install", version)
    if found := _ask_uv("find", version):
        return found
    raise CannotRunError(
        f"Python {version} was found neither by uv nor in {versions}, and uv could not fetch it. Install it "
        f"(uv python install {version}, pyenv install {version}, or your system's package), or choose other "
        "environments with --only."
    )


def _ask_uv(command: str, version: str) -> str:
    # What uv says of pyenv's shims for other versions is of no use here.
    system = ["--system"] if command == "find" else []
    done = subprocess.run(  # noqa: S603  # our own arguments
        [*UV, "python", command, *system, version], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def install(environment: Environment, python: str) -> None:
    """
    Make an environment, or leave it as it is where it was made from the same pins.

    :raises CannotRunError: if it cannot be made.
    """
    digest = hashlib.sha256(f"{ROOT} {python}".encode())
    for source in (environment.pins, ROOT / "pyproject.toml"):
        digest.update(source.read_bytes())
    stamp = environment.folder / ".made-from"
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    target = ["--python", str(environment.interpreter)]
    what = ["--constraint", str(environment.pins), "--editable", ".[test]"]
    for command in (
        [*UV, "venv", "--quiet", "--clear", "--python", python, str(environment.folder)],
        [*UV, "pip", "install", "--quiet", *target, *what],
    ):
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:  # noqa: S603  # our own arguments
            raise CannotRunError(f"the environment {environment.name} could not be made")
    stamp.write_text(digest.hexdigest())


def run_tests(environment: Environment, installed: float, *, quick: bool, workers: str) -> Result:
    """Run the tests in an environment."""
    report_file = environment.folder / "results.xml"
    report_file.unlink(missing_ok=True)
    chosen = (*(QUICK_TESTS if quick else ["tests"]), *(f"--ignore={path}" for path in LEFT_OUT))
    command = [
        *(str(environment.interpreter), "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("--numprocesses", workers, "-m", "not real_airflow", f"--junit-xml={report_file}", *chosen),
    ]
    begun = time.monotonic()
    status = subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603  # our own arguments
    seconds = time.monotonic() - begun
    if not report_file.exists():
        return Result(environment, status or 1, install_seconds=installed, test_seconds=seconds)
    (suite,) = ET.parse(report_file).getroot().iter("testsuite")  # noqa: S314  # pytest's own
    count = {name: int(suite.attrib[name]) for name in ("tests", "skipped", "failures", "errors")}
    failed = count["failures"] + count["errors"]
    passed = count["tests"] - count["skipped"] - failed
    return Result(environment, status, passed, count["skipped"], failed, installed, seconds)


def report(results: Sequence[Result]) -> str:
    """Return the results as a table."""
    lines = ["| environment | Airflow | Python | passed | skipped | failed | install | tests |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for each in results:
        versions = versions_of(each.environment)
        seconds = f"{each.install_seconds:.0f} s | {each.test_seconds:.0f} s"
        counts = f"{each.passed} | {each.skipped} | {each.failed}"
        lines.append(f"| {each.environment.name} | {versions} | {counts} | {seconds} |")
    return "\n".join(lines)


def versions_of(environment: Environment) -> str:
    """Return the Airflow and the Python that really ran, as two cells."""
    code = (
        "import platform; from importlib.metadata import version;"
        "print(version('apache-airflow'), platform.python_version(), sep=' | ')"
    )
    command = [str(environment.interpreter), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())

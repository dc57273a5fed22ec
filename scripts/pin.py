"""``make constraints``: pin the newest versions that fit each other on every supported Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """\
# Versions that `make install` takes, for Python 3.11 to 3.13. Written by `make constraints`; what users
# install with the package is open above the lower bounds in pyproject.toml.
"""
EXTRAS = ("dev", "docs", "browser")
# For systems and interpreters that Airflow does not run on.
ELSEWHERE = {"colorama", "pywin32", "pywin32-ctypes", "httpx2-jsfetch"}


def main() -> int:
    """Write constraints.txt and return the exit code."""
    uv = shutil.which("uv")
    if uv is None:
        print("`make constraints` needs uv on the PATH", file=sys.stderr)
        return 2
    # One version of each package for all Pythons, because a reader should not have to think about markers.
    options = ["--universal", "--python-version=3.11", "--fork-strategy=fewest", "--upgrade"]
    options += ["--no-annotate", "--no-header", "--quiet", *(f"--extra={extra}" for extra in EXTRAS)]
    done = subprocess.run(  # noqa: S603  # our own arguments
        [uv, "pip", "compile", *options, "pyproject.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        return 1
    pins = [line.partition(";")[0].strip() for line in done.stdout.splitlines() if "==" in line]
    names = [pin.partition("==")[0] for pin in pins]
    if twice := {name for name in names if names.count(name) > 1}:
        print(f"no one version fits all Pythons: {', '.join(sorted(twice))}", file=sys.stderr)
        return 1
    kept = [pin for pin, name in zip(pins, names, strict=True) if name not in ELSEWHERE]
    (ROOT / "constraints.txt").write_text(HEAD + "\n".join(kept) + "\n")
    print(f"pinned {len(kept)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())

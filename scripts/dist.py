"""Build the sdist and the wheel into ``dist/`` and check them as a package index would."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def build(folder: Path) -> list[Path]:
    """
    Build the sdist, and the wheel from the sdist, and return their files.

    Without build isolation: the backend is installed with ``make install``, so a build needs no network.
    """
    _run("build", "--no-isolation", "--outdir", str(folder), str(ROOT))
    return sorted(folder.glob("*.tar.gz")) + sorted(folder.glob("*.whl"))


def check(files: list[Path]) -> None:
    """Check the metadata and the readme of both, and the contents of the wheel."""
    _run("twine", "check", "--strict", *map(str, files))
    wheels = [str(file) for file in files if file.suffix == ".whl"]
    _run("check_wheel_contents", "--toplevel", "airflow_provider_magichour", *wheels)


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=True)  # noqa: S603  # our own


def main() -> int:
    """Make ``dist/`` anew."""
    folder = ROOT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    files = build(folder)
    check(files)
    for file in files:
        print(f"{file.relative_to(ROOT)}  {file.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

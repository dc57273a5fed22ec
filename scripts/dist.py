"""
Build the sdist and the wheel into ``dist/`` and check them as a package index would.

``dist/magichour-webhooks.pyz`` is the receiver of webhooks with all that it needs beside Python: it runs
where there is no Airflow. Beside both is what they consist of, as a bill of materials in CycloneDX.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipapp
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

from scripts import sbom

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "airflow_provider_magichour"
#: What the receiver consists of; a test runs it where nothing else can be imported.
RECEIVER = ("__init__.py", "webhooks/*.py", "_client/__init__.py", "_client/sanitize.py")


def build(folder: Path) -> list[Path]:
    """
    Build the sdist, and the wheel from the sdist, and return their files.

    Without build isolation: the backend is installed with ``make install``, so a build needs no network.
    """
    _run("build", "--no-isolation", "--outdir", str(folder), str(ROOT))
    return sorted(folder.glob("*.tar.gz")) + sorted(folder.glob("*.whl"))


def build_receiver(folder: Path) -> Path:
    """
    Pack the receiver and the installed libraries of the extra ``webhooks`` into one file that Python runs.

    :raises RuntimeError: if one of the libraries is not pure Python.
    """
    target = folder / "magichour-webhooks.pyz"
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        for file in [file for pattern in RECEIVER for file in (ROOT / PACKAGE).glob(pattern)]:
            _copy(file, tree / file.relative_to(ROOT))
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for library in _libraries(extras["webhooks"], set()):
            for path in library.files or []:
                if path.suffix in {".so", ".pyd"}:
                    raise RuntimeError(f"{library.name} is not pure Python: {path}")
                if path.parts[0] != ".." and "__pycache__" not in path.parts:
                    _copy(Path(str(path.locate())), tree / path)
        main = f"{PACKAGE}.webhooks.__main__:main"
        zipapp.create_archive(tree, target, "/usr/bin/env python3", main, compressed=True)
    return target


def build_bills(folder: Path, version: str) -> list[Path]:
    """
    Write the bills of materials of the wheel and of the receiver.

    :raises sbom.LicenceError: if a dependency has a licence that is not allowed.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [
        sbom.write(folder / f"{name}-{version}.cdx.json", name, version, requirements)
        for name, requirements in (
            (project["name"], project["dependencies"]),
            ("magichour-webhooks", project["optional-dependencies"]["webhooks"]),
        )
    ]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _libraries(requirements: Sequence[str], seen: set[str]) -> Iterator[Distribution]:
    """Yield what is required, and what that requires, on any Python that this package runs on."""
    for needed in map(Requirement, requirements):
        versions = [{"extra": "", "python_version": version} for version in ("3.11", "3.13")]
        if needed.name in seen or (needed.marker and not any(map(needed.marker.evaluate, versions))):
            continue
        seen.add(needed.name)
        library = distribution(needed.name)
        yield library
        yield from _libraries(library.requires or [], seen)


def check(files: list[Path]) -> None:
    """Check the metadata and the readme of both, and the contents of the wheel."""
    _run("twine", "check", "--strict", *map(str, files))
    wheels = [str(file) for file in files if file.suffix == ".whl"]
    _run("check_wheel_contents", "--toplevel", "airflow_provider_magichour", *wheels)


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=True)  # noqa: S603  # our own


def main() -> int:
    """Make ``dist/`` again."""
    folder = ROOT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    files = build(folder)
    check(files)
    version = files[0].name.removesuffix(".tar.gz").rpartition("-")[2]
    bills = build_bills(folder, version)
    for bill in bills:
        sbom.validate(bill)
    for file in [*files, build_receiver(folder), *bills]:
        print(f"{file.relative_to(ROOT)}  {file.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

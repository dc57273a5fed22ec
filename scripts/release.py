"""
``make release-check``: all of a release up to the upload: build, check, and try the wheel as a user would.

With a tag (``TAG=v1.2.3``) the version, the changelog and the tree have to fit it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from scripts import dist

ROOT = Path(__file__).resolve().parents[1]
PROVIDER = "airflow-provider-magichour"
TRIAL = """
import importlib
from airflow_provider_magichour import __version__, get_provider_info
info = get_provider_info()
parts = ("hooks", "operators", "sensors", "triggers")
for module in sorted({name for part in parts for each in info[part] for name in each["python-modules"]}):
    importlib.import_module(module)
print("imported", __version__)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what would be released, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.release", description=__doc__)
    parser.add_argument("--tag", default="", help="the tag of the release, such as v1.2.3")
    tag = parser.parse_args(arguments).tag
    if tag and (problems := [*find_problems(ROOT, tag)]):
        print("\n".join(problems), file=sys.stderr)
        return 1
    if dist.main():
        return 1
    [wheel] = (ROOT / "dist").glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        try_wheel(wheel, Path(folder))
    print(f"ready to upload: dist/{wheel.name}, and the sdist beside it; nothing was uploaded")
    return 0


def find_problems(root: Path, tag: str) -> Iterator[str]:
    """Find what does not fit the tag: the version, the changelog, the tree."""
    text = (root / "airflow_provider_magichour" / "__init__.py").read_text()
    [version] = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if tag != f"v{version}":
        yield f"the tag is {tag}, but the version in airflow_provider_magichour/__init__.py is {version}"
    changelog = (root / "CHANGELOG.md").read_text()
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        yield f"CHANGELOG.md has no dated entry for {version}"
    status = subprocess.run(
        ["git", "status", "--porcelain"],  # noqa: S607  # whichever git the maintainer has
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    if status.stdout:
        yield f"the tree has changes that are not committed:\n{status.stdout.rstrip()}"


def try_wheel(wheel: Path, folder: Path) -> None:
    """
    Install the wheel into an empty environment, import it, and let Airflow find it.

    :raises subprocess.CalledProcessError: if one of these fails.
    """
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(folder / "home"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    python = str(folder / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([sys.executable, "-m", "venv", str(folder / "venv")], folder, environment)
    _run([*pip, "--constraint", str(ROOT / "constraints.txt"), str(wheel)], folder, environment)
    _run([python, "-c", TRIAL], folder, environment)
    _run([python, "-m", "airflow", "providers", "get", PROVIDER], folder, environment)
    hooks = _run([python, "-m", "airflow", "providers", "hooks"], folder, environment)
    print(next(line for line in hooks.splitlines() if "magichour" in line))


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    """Run a command away from the checkout, so that nothing is imported from there."""
    done = subprocess.run(  # noqa: S603  # our own arguments
        command, cwd=folder, env=dict(environment), stdout=subprocess.PIPE, text=True, check=True
    )
    if "hooks" not in command:
        print(done.stdout, end="", flush=True)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())

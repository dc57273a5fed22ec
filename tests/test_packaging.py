"""The sdist and the wheel, built from this tree, have the right content."""

from __future__ import annotations

import itertools
import re
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import airflow_provider_magichour
from hatch_build import readme_of_index
from scripts import dist

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "airflow_provider_magichour"
VERSION = airflow_provider_magichour.__version__


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return dist.build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def sdist(built: list[Path]) -> list[str]:
    with tarfile.open(built[0]) as archive:
        return [name.partition("/")[2] for name in archive.getnames()]


@pytest.fixture(scope="module")
def wheel(built: list[Path]) -> list[str]:
    with zipfile.ZipFile(built[1]) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def metadata(built: list[Path]) -> Message:
    with zipfile.ZipFile(built[1]) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def tracked(folder: str) -> set[str]:
    """Return the files that belong to a folder, as git sees them, new ones included."""
    listing: Sequence[str] = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return {name for name in listing if (ROOT / name).exists()}


def test_metadata_of_sdist_and_wheel_is_valid(built: list[Path]) -> None:
    assert [path.suffix for path in built] == [".gz", ".whl"]
    dist.check(built)


def test_wheel_holds_the_package_and_nothing_else(wheel: list[str]) -> None:
    files = {name for name in wheel if ".dist-info/" not in name}
    if not (ROOT / ".git").exists():
        pytest.skip("the list of files comes from git")
    assert files == tracked("airflow_provider_magichour")
    assert "airflow_provider_magichour/py.typed" in files
    assert any(name.startswith("airflow_provider_magichour/simulator/") for name in files)


def test_sdist_holds_sources_and_tests_and_no_junk(sdist: list[str]) -> None:
    for needed in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "constraints.txt"):
        assert needed in sdist
    assert "tests/conftest.py" in sdist
    junk = re.compile(
        r"(^|/)(\.venv|\.airflow|\.git/|\.mypy_cache|\.ruff_cache|\.pytest_cache|\.coverage|__pycache__|site/|dist/)"
        r"|\.(pyc|db|log)$"
    )
    assert [name for name in sdist if junk.search(name)] == []


def test_version_is_in_one_place_and_in_the_changelog(metadata: Message) -> None:
    assert metadata["Version"] == VERSION
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", changelog, re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == VERSION, "the changelog's newest entry is of another version"
    assert headings[1][1], "a released version has a date"


def test_dependencies_have_no_upper_bound(metadata: Message) -> None:
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    users = [
        each
        for each in requirements
        if each.marker is None or not re.search("dev|test|docs|browser", str(each.marker))
    ]
    for requirement in users:
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == {">="}, f"{requirement} has no lower bound, or an upper one"
    extras = set(metadata.get_all("Provides-Extra", []))
    assert {"simulator", "amazon", "google", "azure", "openlineage"} <= extras


def test_every_dependency_has_a_reason() -> None:
    """A bound without its reason is never lowered or raised again."""
    text = (ROOT / "pyproject.toml").read_text()
    block = text.partition("dependencies = [")[2].partition("\n]")[0]
    lines = [line.strip() for line in block.splitlines() if line.strip()]
    for before, line in itertools.pairwise(lines):
        if line.startswith('"'):
            assert before.startswith("#"), f"{line} has no reason above it"


def test_readme_renders_on_an_index(metadata: Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).startswith("# Magic Hour for Apache Airflow\n\nThis provider makes")


def test_readme_on_an_index_has_no_links_into_a_repository(metadata: Message) -> None:
    readme = str(metadata.get_payload())
    assert re.findall(r"\]\((?!https://)[^)]*\)", readme) == []
    assert "| [the retry sends the call again](https://airflow.apache.org/" in readme
    assert "Tutorial**: your first media in ten minutes\n" in readme


def test_readme_links_to_the_repository_if_it_is_known() -> None:
    readme = readme_of_index("![A](docs/a.png) [b](b.md#c) [d](https://d.org)", "https://github.com/x/y")
    assert readme == (
        "![A](https://github.com/x/y/raw/HEAD/docs/a.png) "
        "[b](https://github.com/x/y/blob/HEAD/b.md#c) [d](https://d.org)"
    )

"""A release is refused where the tag, the version, the changelog and the tree do not fit each other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.release import find_problems


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    package = tmp_path / "airflow_provider_magichour"
    package.mkdir()
    (package / "__init__.py").write_text('__version__ = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.0] - 2026-11-28\n")
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, "commit", "-qm", "first"], cwd=tmp_path, check=True)
    return tmp_path


def test_release_that_fits_has_no_problems(checkout: Path) -> None:
    assert [*find_problems(checkout, "v1.2.0")] == []


def test_tag_of_another_version_is_refused(checkout: Path) -> None:
    [problem] = find_problems(checkout, "v1.3.0")
    assert "the version in airflow_provider_magichour/__init__.py is 1.2.0" in problem


@pytest.mark.parametrize("entry", ["", "## [1.2.0]\n", "## [1.2.0rc1] - 2026-11-28\n"])
def test_entry_without_a_date_is_refused(checkout: Path, entry: str) -> None:
    (checkout / "CHANGELOG.md").write_text(entry)
    assert any("no dated entry for 1.2.0" in problem for problem in find_problems(checkout, "v1.2.0"))


def test_changes_that_are_not_committed_are_refused(checkout: Path) -> None:
    (checkout / "new.py").touch()
    [problem] = find_problems(checkout, "v1.2.0")
    assert "new.py" in problem

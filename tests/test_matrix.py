"""``make test-matrix``: its environments are pinned, made once, and never passed over in silence."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from scripts import matrix

DOCS = (matrix.ROOT / "docs" / "compatibility.md").read_text()


def pins(environment: matrix.Environment) -> dict[str, str]:
    lines = [line for line in environment.pins.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[\w.+-]+", line) for line in lines)  # no URL, no index
    return dict(line.split("==") for line in lines)


@pytest.mark.parametrize("environment", matrix.ENVIRONMENTS, ids=lambda each: each.name)
def test_pins_match_the_airflow_that_the_docs_name(environment: matrix.Environment) -> None:
    exact = pins(environment)["apache-airflow"]
    assert exact.startswith(f"{environment.airflow}.")
    assert re.search(rf"^\| {re.escape(exact)} \| .*\b{re.escape(environment.python)}\b", DOCS, re.MULTILINE)


def test_named_environments_and_tests_exist() -> None:
    assert set(matrix.QUICK) <= {each.name for each in matrix.ENVIRONMENTS}
    assert all((matrix.ROOT / path).exists() for path in (*matrix.QUICK_TESTS, *matrix.LEFT_OUT))


def test_missing_python_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(matrix, "_ask_uv", lambda command, version: "")
    monkeypatch.setattr(matrix, "run_tests", None)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["matrix"])
    assert matrix.main() == 2
    assert "Python 3.11 was found neither by uv nor in" in capsys.readouterr().err


def test_pyenv_pythons_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its programs on the PATH work only for the versions that it was told to use."""
    monkeypatch.setattr(matrix, "_ask_uv", lambda command, version: "")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    for name in ("3.12.9", "3.12.10", "3.12.11-debug", "3.1.99"):
        (tmp_path / "versions" / name / "bin").mkdir(parents=True)
        (tmp_path / "versions" / name / "bin" / "python").touch()
    assert matrix.find_python("3.12") == str(tmp_path / "versions" / "3.12.10" / "bin" / "python")


def test_environment_is_rebuilt_when_its_pins_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    uv = f"import sys; open({str(calls)!r}, 'a').write(sys.argv[1] + ' ')"
    monkeypatch.setattr(matrix, "UV", [sys.executable, "-S", "-c", uv])
    monkeypatch.setattr(matrix, "ROOT", tmp_path)
    environment = matrix.Environment("9.9", "3.12")
    environment.folder.mkdir(parents=True)
    for name in ("constraints.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    matrix.install(environment, "python")
    matrix.install(environment, "python")
    assert calls.read_text() == "venv pip "
    (tmp_path / "constraints.txt").write_text("apache-airflow==9.9.1\n")
    matrix.install(environment, "python")
    assert calls.read_text() == "venv pip venv pip "
    monkeypatch.setattr(matrix, "UV", [sys.executable, "-S", "-c", "raise SystemExit(1)"])
    (tmp_path / "constraints.txt").write_text("apache-airflow==9.9.2\n")
    with pytest.raises(matrix.CannotRunError, match="could not be made"):
        matrix.install(environment, "python")


@pytest.mark.parametrize(("statuses", "code"), [([0, 0], 0), ([1, 0], 1)])
def test_failed_tests_fail_the_run_after_all_environments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], statuses: list[int], code: int
) -> None:
    left = list(statuses)
    monkeypatch.setattr(matrix, "find_python", lambda version: "python")
    monkeypatch.setattr(matrix, "install", lambda environment, python: None)
    monkeypatch.setattr(matrix, "versions_of", lambda environment: "9.9.9 | 3.12.0")
    monkeypatch.setattr(
        matrix, "run_tests", lambda environment, *_, **__: matrix.Result(environment, left.pop(0), passed=7)
    )
    monkeypatch.setattr(sys, "argv", ["matrix", "--quick"])
    assert matrix.main() == code
    assert capsys.readouterr().out.count("| 9.9.9 | 3.12.0 | 7 | 0 | 0 |") == 2


def test_summary_counts_tests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests that could not even start count as failed, too."""
    environment = matrix.Environment("9.9", "3.12")
    monkeypatch.setattr(matrix, "ROOT", tmp_path)
    environment.interpreter.parent.mkdir(parents=True)
    environment.interpreter.write_text(
        "#!/bin/sh\n"
        'echo \'<testsuites><testsuite tests="9" skipped="2" failures="1" errors="1"/></testsuites>\''
        " > .matrix/9.9-py3.12/results.xml\nexit 1\n"
    )
    environment.interpreter.chmod(0o755)
    result = matrix.run_tests(environment, 3.0, quick=False, workers="2")
    assert (result.status, result.passed, result.skipped, result.failed) == (1, 5, 2, 2)
    environment.interpreter.write_text("#!/bin/sh\nexit 0\n")
    assert matrix.run_tests(environment, 3.0, quick=False, workers="2").status == 1


def imported_at_once(file: Path) -> set[str]:
    """Return the packages that a file imports as soon as it is read."""
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            names.update(each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_tests_that_need_more_than_the_environments_have_are_left_out() -> None:
    left_out = tuple(str(matrix.ROOT / path) for path in matrix.LEFT_OUT)
    there = set.intersection(*(set(pins(each)) for each in matrix.ENVIRONMENTS))
    packages = packages_distributions()
    for file in (matrix.ROOT / "tests").rglob("test_*.py"):
        if not str(file).startswith(left_out):
            for name in imported_at_once(file):
                made_by = {each.lower().replace("_", "-") for each in packages.get(name, [])}
                assert not made_by or made_by & {*there, "airflow-provider-magichour"}, f"{file}: {name}"

"""The README's example and commands work as they are printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from airflow_provider_magichour.simulator import Simulator
from tests.support.airflow import load_dag, use_dags_of

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
(DAG,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_readme_dag_works(
    airflow_db: Path, magichour_simulator: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "dags" / "lighthouse.py"
    file.parent.mkdir()
    folder = re.findall(r"destination=\"(.*?)\"", DAG)[0]
    file.write_text(DAG.replace(folder, str(tmp_path / "media")))
    use_dags_of(monkeypatch, file.parent)
    assert load_dag(file, "lighthouse").test().state == "success"
    assert magichour_simulator.state()["created"] == {"ai-image-generator": 1}
    (picture,) = (tmp_path / "media").glob("*/output.png")
    assert picture.stat().st_size > 1000


def test_readme_dag_takes_ten_lines() -> None:
    assert sum(bool(line.strip()) for line in DAG.splitlines()) <= 10


def test_every_cell_of_the_comparison_has_a_link() -> None:
    rows = [line.split("|")[2:-1] for line in README.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 4
    assert [cell for row in rows for cell in row if not re.fullmatch(r" \[.+\]\(\S+\) ", cell)] == []


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_readme_links_lead_to_files(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`?make ([a-z-]+)", README))))
def test_readme_commands_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)

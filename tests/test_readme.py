"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour.simulator import Simulator
from tests.support.airflow import load_dag, use_dags_of

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DAG, TEST = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_readme_dag_and_its_test_work(
    airflow_db: Path, magichour_simulator: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "dags" / "lighthouse.py"
    file.parent.mkdir()
    assert "s3://my-bucket/media" in DAG
    file.write_text(DAG.replace("s3://my-bucket/media", str(tmp_path / "media")))
    use_dags_of(monkeypatch, file.parent)
    names: dict[str, Any] = {"my_dag": load_dag(file, "lighthouse")}
    exec(TEST, names)  # noqa: S102  # our own README
    names["test_my_dag"](magichour_simulator)
    (project,) = magichour_simulator.state()["projects"].values()
    assert not project["enabled"]
    (video,) = (tmp_path / "media").glob("*/*.mp4")
    assert video.stat().st_size > 1000


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_readme_links_lead_to_files(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`?make ([a-z-]+)", README))))
def test_readme_commands_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)

"""The bill of materials lists what the wheel needs, and the licences are checked."""

from __future__ import annotations

import email
import json
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import sbom

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


def made_up(*lines: str) -> Distribution:
    text = "\n".join(["Metadata-Version: 2.4", "Name: one", "Version: 1", *lines])
    return SimpleNamespace(name="one", version="1", metadata=email.message_from_string(text))  # type: ignore[return-value]


def test_bill_lists_dependencies_of_dependencies(tmp_path: Path) -> None:
    bill = json.loads(sbom.write(tmp_path / "bill.json", "name", "1.0", REQUIREMENTS).read_text())
    components = {each["name"]: each for each in bill["components"]}
    assert components["aiohttp"]["version"] == distribution("aiohttp").version
    assert components["yarl"]["purl"] == f"pkg:pypi/yarl@{distribution('yarl').version}"
    assert "pytest" not in components
    edges = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
    assert components["aiohttp"]["bom-ref"] in edges["pkg:pypi/name@1.0"]
    assert components["yarl"]["bom-ref"] in edges[components["aiohttp"]["bom-ref"]]
    assert edges.keys() == {each["bom-ref"] for each in components.values()} | {"pkg:pypi/name@1.0"}


def test_bill_fits_the_schema(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx", reason="make dist installs it")
    path = sbom.write(tmp_path / "bill.json", "name", "1.0", REQUIREMENTS)
    sbom.validate(path)
    path.write_text(path.read_text().replace('"library"', '"no such type"', 1))
    with pytest.raises(ValueError, match="no such type"):
        sbom.validate(path)


@pytest.mark.parametrize(
    "line",
    [
        "License-Expression: MIT",
        "License-Expression: Apache-2.0 OR GPL-3.0-only",
        "Classifier: License :: OSI Approved :: BSD License",
        "License: ISC",
    ],
)
def test_licence_that_fits_is_accepted(line: str) -> None:
    sbom.check_licences([made_up(line)])


@pytest.mark.parametrize(
    "line",
    [
        "License-Expression: AGPL-3.0-only",
        "Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)",
        "License: proprietary, submit a form",
        "Summary: MIT",
    ],
)
def test_other_licence_or_none_is_refused(line: str) -> None:
    with pytest.raises(sbom.LicenceError, match="one 1: "):
        sbom.check_licences([made_up(line)])

"""The stability page names each public name once, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from tests.test_exports import PUBLIC

ROOT = Path(__file__).resolve().parents[1]
ROWS = re.findall(r"^\| `([\w.]+)` \| (\w+) \|$", (ROOT / "docs" / "stability.md").read_text(), re.MULTILINE)


def test_each_public_name_is_listed_once() -> None:
    public = [".".join(filter(None, (module, name))) for module, names in PUBLIC.items() for name in names]
    assert sorted(name for name, _ in ROWS) == sorted(public)


def test_each_name_is_stable_or_experimental() -> None:
    assert {status for _, status in ROWS} == {"stable", "experimental"}

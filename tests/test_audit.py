"""What an audit of the dependencies says; it asks nobody here."""

from __future__ import annotations

import json
import subprocess
from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest

from scripts import audit
from scripts.audit import NONE, SOME, UNKNOWN, Ignored, summarize

TODAY = date(2026, 11, 21)
CLEAN: dict[str, Any] = {"name": "yarl", "version": "1.0", "vulns": []}
HOLE: dict[str, Any] = {
    "name": "aiohttp",
    "version": "3.9.1",
    "vulns": [{"id": "PYSEC-2024-24", "fix_versions": ["3.9.2"], "aliases": ["CVE-2024-23334"]}],
}
SKIPPED: dict[str, Any] = {"name": "vine", "skip_reason": "Dependency not found on PyPI"}


def report(*packages: dict[str, Any]) -> dict[str, Any]:
    return {"dependencies": list(packages), "fixes": []}


def test_clean_report_exits_with_0() -> None:
    assert summarize(report(CLEAN), TODAY) == (NONE, ["1 packages, no known vulnerability that counts"])


def test_vulnerability_is_named() -> None:
    assert summarize(report(CLEAN, HOLE), TODAY) == (
        SOME,
        ["aiohttp 3.9.1: PYSEC-2024-24, CVE-2024-23334 (fixed in 3.9.2)"],
    )


@pytest.mark.parametrize("name", ["PYSEC-2024-24", "CVE-2024-23334"])
def test_ignored_vulnerability_counts_again_after_its_day(name: str) -> None:
    ignored = [Ignored(name, "no static files are served here", TODAY)]
    status, (line, _) = summarize(report(HOLE), TODAY, ignored)
    assert status == NONE
    assert line.endswith("ignored until 2026-11-21: no static files are served here")
    assert summarize(report(HOLE), date(2026, 11, 22), ignored)[0] == SOME


def test_skipped_package_is_not_clean() -> None:
    status, lines = summarize(report(CLEAN, *[SKIPPED] * 6), TODAY)
    assert status == UNKNOWN
    assert lines == ["6 of 7 packages could not be checked: vine, vine, vine, vine, vine, ..."]
    assert summarize(report(SKIPPED, HOLE), TODAY)[0] == SOME
    assert summarize(report(), TODAY)[0] == UNKNOWN


@pytest.mark.parametrize(("out", "status"), [("", UNKNOWN), (json.dumps(report(CLEAN)), NONE)])
def test_command_asks_for_all_pins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str, status: int
) -> None:
    done = SimpleNamespace(stdout=out, stderr="Traceback\nno route to the index\n")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: done)
    assert audit.main() == status
    said = "".join(capsys.readouterr())
    assert ("no route to the index" in said) == ("Could not be checked" in said) == (status == UNKNOWN)

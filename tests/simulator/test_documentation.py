"""The page "Testing your DAGs" is run as it is printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from airflow_provider_magichour.simulator.faults import Fault
from tests.support.airflow import as_this_airflow_writes_it

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r'^```\w+ title="(?P<title>[^"]+)"\n(?P<code>.*?)^```$', re.MULTILINE | re.DOTALL)
ONLY_FOR_OWN_TESTS = {
    "hang_up", "drop_after_bytes", "merge", "remove", "gzip", "chunked", "shorten_to_bytes",
    "drip_bytes", "drip_seconds", "version", "range",
}  # fmt: skip


def test_the_example_passes_as_printed(tmp_path: Path, _migrated_database: Path) -> None:  # noqa: PT019
    blocks = {found["title"]: found["code"] for found in BLOCK.finditer((DOCS / "testing.md").read_text())}
    commands = blocks.pop("Run the tests")
    assert set(blocks) == {
        "conftest.py", "dags/lighthouse.py", "tests/test_lighthouse.py", "tests/test_hook.py"
    }  # fmt: skip
    for name, code in blocks.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(as_this_airflow_writes_it(code))
    # `airflow db migrate` finds a database that is up to date: making one takes half a minute. This copies
    # the template: to read the file of a database that this process has open would take its locks away.
    (tmp_path / ".airflow").mkdir()
    shutil.copyfile(_migrated_database, tmp_path / ".airflow" / "airflow.db")
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", commands],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert "3 passed" in done.stdout


def test_each_fault_is_documented() -> None:
    page = (DOCS / "reference" / "simulator.md").read_text()
    assert {field for field in Fault.model_fields if f"`{field}`" not in page} == ONLY_FOR_OWN_TESTS

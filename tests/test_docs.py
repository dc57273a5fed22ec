"""The documentation is correct: its code runs, it has all errors, and its links work."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout

from airflow_provider_magichour import exceptions
from scripts import tools_table
from tests.support.airflow import as_this_airflow_writes_it

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])

_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


# In three lines: what fits one line is an expression in Python, which ruff would format.
_SNIPPET = re.compile(r"^--8<--\n(?P<file>[^:\n]+):(?P<section>\w+)\n--8<--$", re.MULTILINE)


def with_snippets(code: str) -> str:
    """Put in the sections of other files that a block includes."""

    def section(found: re.Match[str]) -> str:
        text = (ROOT / found["file"]).read_text()
        start, end = (f"# --8<-- [{word}:{found['section']}]\n" for word in ("start", "end"))
        assert start in text, found[0]
        assert end in text, found[0]
        return text.partition(start)[2].partition(end)[0]

    return _SNIPPET.sub(section, code)


def blocks(language: str) -> Iterator[Block]:
    """Find the code blocks of all pages."""
    for page in PAGES:
        text = page.read_text()
        for found in _BLOCK.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            # tests/simulator/test_documentation.py runs the tests that stand on a page.
            if found["language"] == language and 'title="tests/' not in found[0]:
                code = with_snippets(textwrap.dedent(found["code"]))
                # A part of an example is run by tests/test_example_dags.py, with the rest of its file.
                if 'title="Part of' not in found[0]:
                    yield Block(page, line, language, code)


@pytest.mark.parametrize("block", [*blocks("python")], ids=str)
def test_python_blocks_run(block: Block, tmp_path: Path) -> None:
    """This creates DAGs, defines functions, and runs the code outside of both."""
    if "providers.common.messaging" in block.code:
        pytest.importorskip(
            "airflow.providers.common.messaging", reason="Airflow 3 and `make install` have it"
        )
    if "operators.hitl" in block.code:
        pytest.importorskip(
            "airflow.providers.standard.operators.hitl", reason="Airflow 3.1 and newer have it"
        )
    tree = compile(as_this_airflow_writes_it(block.code), str(block), "exec")
    exec(tree, {"__name__": "documentation", "__doc__": "A page."})  # noqa: S102  # our own pages


@pytest.mark.parametrize("block", [*blocks("bash"), *blocks("sh"), *blocks("shell")], ids=str)
def test_shell_blocks_parse(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.code, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    for target in re.findall(r"^(?:\w+=\S+ )?make ([a-z-]+)", block.code, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"no make {target}"


@pytest.mark.parametrize(
    "block", [*blocks("json"), *blocks("yaml"), *blocks("toml"), *blocks("ini")], ids=str
)
def test_data_blocks_parse(block: Block) -> None:
    if block.language == "json":
        json.loads(block.code)
    elif block.language == "yaml":
        yaml.safe_load(block.code)
    elif block.language == "ini":
        configparser.ConfigParser().read_string(block.code)


def test_every_block_language_is_checked() -> None:
    checked = {"python", "bash", "sh", "shell", "json", "yaml", "toml", "ini", "text", "dockerfile", "nginx"}
    checked |= {"sql"}  # test_catalogue_queries.py runs them
    found = {match["language"] for page in PAGES for match in _BLOCK.finditer(page.read_text())}
    assert found <= checked


def test_every_error_has_a_cure() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    entries = dict(re.findall(r"^### (\w+)\n\*retry: (yes|no)\.\* ", page, re.MULTILINE))
    assert sorted(entries) == sorted(exceptions.__all__)
    for name, retry in entries.items():
        final = issubclass(getattr(exceptions, name), AirflowFailException | AirflowSensorTimeout)
        assert retry == ("no" if final else "yes"), f"{name}: {retry}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not re.match(r"https?:|mailto:", target):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_in_the_table_of_contents() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in text


def test_tools_are_listed_with_what_they_need() -> None:
    assert tools_table.table() in tools_table.PAGE.read_text(), "run: python -m scripts.tools_table"
    assert "`style.prompt`" in tools_table.table()


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 150_000


SECURITY = (ROOT / "docs" / "security.md").read_text()
REFERENCES = sorted(set(re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", SECURITY)))


@pytest.mark.parametrize(("path", "name"), REFERENCES)
def test_security_page_names_code_and_tests_that_exist(path: str, name: str) -> None:
    found = [folder / path for folder in (ROOT / "tests", ROOT / "airflow_provider_magichour")]
    text = "".join(file.read_text() for file in found if file.exists())
    assert text, f"no {path} in tests or the package"
    assert not name or re.search(rf"^ *(async )?(def|class) {name}\b", text, re.MULTILINE), f"no {name}"


def test_security_page_names_a_test_for_most_threats() -> None:
    assert sum(path.rpartition("/")[2].startswith("test_") for path, _ in REFERENCES) > 30
    assert "`::" not in SECURITY

"""The layout of the package: dependencies point one way, and importing it loads little."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import airflow_provider_magichour

PACKAGE = Path(airflow_provider_magichour.__file__).parent
NAME = PACKAGE.name
FILES = sorted(PACKAGE.rglob("*.py"))

#: What a part imports is in an earlier layer, never in its own or a later one.
LAYERS = (
    {"__init__"},
    {"exceptions"},
    {"tools"},
    {"types", "links", "_validation"},
    {"_client"},
    {"_polling", "_transfer", "simulator", "webhooks"},
    {"hooks", "ui"},
    {"triggers"},
    {"operators", "sensors"},
)
LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts}
#: What an optional part may import besides the data and checks below `_client`.
OPTIONAL_PARTS = {"simulator": {"_client"}, "webhooks": {"_client"}, "ui": {"_transfer"}}

MOST_ENTRIES, MOST_LINES, MOST_LINES_OF_FUNCTION = 16, 400, 50
#: What a DAG file loads besides its operators and sensors: checks of its arguments. Errors, tools and checks
#: of ids are loaded where a file needs them: without bytecode each costs about a millisecond.
LIGHT = {"_transfer", "_transfer.locations", "_validation", "_validation.at_parse", "links"}
HEAVY_LIBRARIES = {"requests", "aiohttp", "tenacity", "fastapi", "jsonschema", "sqlalchemy"}


class Import(NamedTuple):
    """An import of one module of the package by another, wherever it stands in the file."""

    importer: str
    imported: str
    line: int


def module_name(path: Path) -> str:
    """Return the dotted name within the package; ``__init__`` is the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts if parts == ("__init__",) or parts[-1] != "__init__" else parts[:-1])


MODULES = {module_name(path) for path in FILES}


def part_of(module: str) -> str:
    return module.partition(".")[0]


def resolve(module: str) -> str:
    """Return the module of the package that a dotted path within it leads to; the rest are names in it."""
    while module and module not in MODULES:
        module = module.rpartition(".")[0]
    return module or "__init__"


def imported_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Find what is imported, as dotted paths, with the line; also within functions and TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def imports_of(path: Path) -> Iterator[Import]:
    """Find what a module imports of the package."""
    importer = module_name(path)
    for name, line in imported_names(ast.parse(path.read_text())):
        if name.partition(".")[0] == NAME:
            imported = resolve(name.partition(".")[2])
            if imported != importer:
                yield Import(importer, imported, line)


IMPORTS = [found for path in FILES for found in imports_of(path)]


def test_import_graph_is_drawn_from_the_code() -> None:
    assert any(found[:2] == ("operators._generate", "triggers") for found in IMPORTS)
    assert len(IMPORTS) > 100
    assert {part_of(module) for module in MODULES} <= LAYER.keys(), "a new part belongs into LAYERS"


@pytest.mark.parametrize("part", sorted({part_of(module) for module in MODULES}))
def test_imports_point_to_lower_layers(part: str) -> None:
    upward = [
        found
        for found in IMPORTS
        if part_of(found.importer) == part
        and part_of(found.imported) != part
        and LAYER[part_of(found.imported)] >= LAYER[part]
    ]
    assert upward == []


def test_optional_parts_import_the_client_at_most() -> None:
    data_and_checks = {part for part, layer in LAYER.items() if layer < LAYER["_client"]}
    for part, allowed in OPTIONAL_PARTS.items():
        beyond = [
            found
            for found in IMPORTS
            if part_of(found.importer) == part
            and part_of(found.imported) not in {part, *allowed, *data_and_checks}
        ]
        assert beyond == []


def test_no_module_imports_itself_through_others() -> None:
    graph: dict[str, set[str]] = {}
    for found in IMPORTS:
        graph.setdefault(found.importer, set()).add(found.imported)
    graphlib.TopologicalSorter(graph).prepare()


def test_top_of_the_package_is_small() -> None:
    entries = {path.name for path in PACKAGE.iterdir()} - {"py.typed", "__pycache__"}
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


def test_files_are_short() -> None:
    others = [
        path
        for folder in ("tests", "benchmarks", "scripts")
        for path in (PACKAGE.parent / folder).rglob("*.py")
    ]
    lines = {str(path): len(path.read_text().splitlines()) for path in (*FILES, *others)}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_functions_are_short() -> None:
    found = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MOST_LINES_OF_FUNCTION:
                    found[f"{module_name(path)}.{node.name}"] = lines
    assert found == {}


SCRIPT = """
import sys
from airflow.providers.common.compat.sdk import BaseHook, BaseOperator, BaseSensorOperator
for name in list(sys.modules):
    if name.partition(".")[0] in {heavy}:
        del sys.modules[name]  # what Airflow has loaded is seen again where the package loads it, too
before = set(sys.modules)
{code}
print(*(set(sys.modules) - before))
"""


def loaded_by(code: str) -> set[str]:
    """Return the modules that code loads in a fresh process with Airflow's base classes."""
    script = SCRIPT.format(heavy=HEAVY_LIBRARIES, code=code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def heavy(modules: set[str]) -> set[str]:
    """Return the heavy libraries among modules, and the module of the package that sends with them."""
    libraries = {module.partition(".")[0] for module in modules} & HEAVY_LIBRARIES
    return libraries | ({f"{NAME}._client.transport"} & modules)


def test_reading_a_connection_loads_no_http_library() -> None:
    assert heavy(loaded_by(f"import {NAME}.hooks.connection, {NAME}._client.settings")) == set()


def test_dag_file_loads_no_heavy_library() -> None:
    loaded = loaded_by(f"from {NAME}.operators import *\nfrom {NAME}.sensors import *")
    assert f"{NAME}.operators.generate" in loaded
    assert heavy(loaded) == set()
    of_package = {module.removeprefix(f"{NAME}.") for module in loaded if module.startswith(f"{NAME}.")}
    assert {module for module in of_package if part_of(module) not in {"operators", "sensors"}} == LIGHT
    assert not [module for module in of_package if module.startswith("operators._")]


def test_dag_file_loads_only_the_operators_that_it_uses() -> None:
    loaded = loaded_by(f"from {NAME}.operators import MagicHourDownloadOperator\nimport {NAME}.sensors")
    assert f"{NAME}.operators.download" in loaded
    assert f"{NAME}.operators.generate" not in loaded


def test_contributing_names_functions_that_exist() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    rows = [
        line for line in text.partition("## Where is it decided?")[2].splitlines() if line.startswith("| ")
    ]
    assert len(rows) > 5
    for row in rows[1:]:
        names = set(re.findall(r"`(\w+)`", row))
        modules = [ast.parse((PACKAGE / path).read_text()) for path in re.findall(r"`([\w/]+\.py)`", row)]
        assert modules, row
        defined = {getattr(node, "name", None) for module in modules for node in ast.walk(module)}
        assert names <= defined, row

"""Write the table of docs/reference/tools.md: each tool with its kind, and the fields that its body needs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from airflow_provider_magichour.simulator.schemas import schemas
from airflow_provider_magichour.tools import TOOLS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "tools.md"
TABLE = re.compile(r"^\| tool \|.*?(?=\n\n)", re.MULTILINE | re.DOTALL)


def required_fields(schema: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the fields that a body must have, with dots between the levels."""
    for name in schema.get("required", []):
        field: Mapping[str, Any] = schema.get("properties", {}).get(name, {})
        below = [*required_fields(field, f"{above}{name}.")]
        yield from below or [f"{above}{name}"]


def table() -> str:
    """Return the table in Markdown."""
    lines = ["| tool | kind | required fields of `body` | typical time |", "|---|---|---|---|"]
    for name, tool in TOOLS.items():
        fields = ", ".join(f"`{field}`" for field in required_fields(schemas()[name]["body"])) or "none"
        seconds = f"{tool.typical_seconds:g} s" if tool.typical_seconds else "not known"
        lines.append(f"| `{name}` | {tool.kind} | {fields} | {seconds} |")
    return "\n".join(lines)


def main() -> int:
    """Write the table into the page."""
    PAGE.write_text(TABLE.sub(lambda _: table(), PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

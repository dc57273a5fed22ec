"""
How many projects a day one triggerer, one worker slot and one API key carry: the tables of docs/scale.md.

    python -m benchmarks.scale --write                     measure, half an hour or more, and write
    python -m benchmarks.scale --keep --write              compute again from the page's own figures
    python -m benchmarks.scale --keep --tool lip-sync --megabytes 30 --each 50     for your own projects

What is measured is in the page as JSON, below "Measured figures"; everything else is computed from it.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from airflow_provider_magichour.tools import TOOLS
from benchmarks.report import machine, write_section
from benchmarks.scale.model import Work
from benchmarks.scale.page import FIGURES, PAGE, growth, measured_table, one_of_each, read_figures, sections


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(figures), parse_float=lambda digits: float(f"{float(digits):.4g}")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/scale.md")
    parser.add_argument("--keep", action="store_true", help="take the figures that were measured last")
    parser.add_argument("--tool", choices=[name for name, tool in TOOLS.items() if tool.typical_seconds])
    parser.add_argument("--megabytes", type=float, default=10.0, help="the files of one project")
    parser.add_argument("--each", type=int, default=100, help="projects of one task; 1 for mapped tasks")
    arguments = parser.parse_args()
    if arguments.keep:
        figures = read_figures()
    else:
        from benchmarks.scale import airflow, process

        found = {"process": process.measure(5), "airflow": airflow.measure(3)}
        figures = {"machine": machine(), **_rounded(found)}
    if arguments.tool:
        work = Work(arguments.tool, arguments.megabytes, arguments.each)
        print(f"{one_of_each(figures, [work])}\n\n{growth(figures, work)}")
        return
    measured = f"{measured_table(figures)}\n\nAll figures are in `benchmarks/scale/figures.json`."
    for title, text in sections(figures).items():
        print(f"## {title}\n\n{text}\n")
        if arguments.write:
            write_section(title, text, PAGE, "Computed from the [measured figures](#measured-figures).")
    print(measured_table(figures))
    if arguments.write:
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        write_section("Measured figures", measured, PAGE, f"Measured on {figures['machine']}.")


if __name__ == "__main__":
    main()

"""Draws the documentation's SVG pictures; the waiting schedule from the very function that waits."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from airflow_provider_magichour._polling.schedule import next_delay
from airflow_provider_magichour.tools import TOOLS

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"

PURPLE, GREEN, GREY, INK, PAPER = "#6d4aff", "#178a58", "#666c76", "#24292f", "#ffffff"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def main() -> int:
    """Draw all of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, picture in (("pipeline", pipeline()), ("file-life", file_life()), ("waiting", waiting())):
        (FOLDER / f"{name}.svg").write_text(picture)
    return 0


def pipeline() -> str:
    """Draw what happens to a prompt, and who works on it."""
    steps = [
        ("submit", "Create operator", "a moment on a worker", PURPLE),
        ("wait", "Sensor", "in the triggerer, no worker", GREY),
        ("download", "Download operator", "on a worker, while it streams", PURPLE),
        ("delete", "Delete or clean-up", "a moment, or days later", PURPLE),
    ]
    parts = [_text(20, 34, "MagicHourGenerateOperator does the first three in one task", GREY, 13)]
    parts.append(_path("M 20 52 v -6 H 570 v 6", GREY))
    for number, (name, by, where, colour) in enumerate(steps):
        x = 20 + number * 190
        parts.append(_box(x, 62, 170, 78, colour))
        parts.append(_text(x + 85, 88, name, INK, 17, middle=True, bold=True))
        parts.append(_text(x + 85, 108, by, INK, 13, middle=True))
        parts.append(_text(x + 85, 127, where, GREY, 11, middle=True))
        if number:
            parts.append(_arrow(x - 20, 101, x - 2))
    ends = [
        (105, "project, credits"),
        (295, "complete"),
        (485, "files in your bucket, receipt"),
        (675, "nothing left behind"),
    ]
    for x, label in ends:
        parts.append(_path(f"M {x} 140 v 16", GREY, dash=True))
        parts.append(_text(x, 172, label, GREEN, 12, middle=True))
    return _svg(780, 190, "submit, wait, download, delete", parts)


def file_life() -> str:
    """Draw how a file comes to its final name."""
    steps = [
        ("signed URL", "requested again", "when it expires"),
        ("partial file", "resumes where", "it was cut off"),
        ("verified", "length, sha256,", "no error page"),
        ("final name", "appears at once,", "whole or not at all"),
        ("receipt", "who, when, which", "bytes and sha256"),
        ("deleted", "at Magic Hour, if", "still in your bucket"),
    ]
    parts: list[str] = []
    for number, (name, first, second) in enumerate(steps):
        x = 16 + number * 150
        parts.append(_box(x, 20, 130, 84, GREEN if number in {3, 4} else PURPLE))
        parts.append(_text(x + 65, 46, name, INK, 15, middle=True, bold=True))
        parts.append(_text(x + 65, 68, first, GREY, 12, middle=True))
        parts.append(_text(x + 65, 86, second, GREY, 12, middle=True))
        if number:
            parts.append(_arrow(x - 20, 62, x - 2))
    return _svg(916, 124, "the life of a file", parts)


def waiting() -> str:
    """Draw when the status of a project is checked, by tool, against a fixed interval of five seconds."""
    span, left, width = 180.0, 190, 640
    rows: list[tuple[str, float | None, list[float]]] = [
        ("every 5 s", None, [second * 5.0 for second in range(1, 37)]),
        ("a new video tool", None, list(_checks("video", None, span))),
    ]
    for tool in ("text-to-video", "face-swap", "ai-image-generator"):
        known = TOOLS[tool]
        rows.append((tool, known.typical_seconds, list(_checks(known.kind, known.typical_seconds, span))))
    parts = [
        _text(
            left, 24, "each tick is one request; the bar shows when such a project is usually done", GREY, 12
        )
    ]
    for number, (label, typical, checks) in enumerate(rows):
        y = 58 + number * 38
        parts.append(_text(left - 14, y + 5, label, INK, 13, end=True))
        parts.append(_path(f"M {left} {y} H {left + width}", "#d8dbe0"))
        if typical:
            start, stop = left + width * typical * 0.6 / span, left + width * min(typical * 1.65, span) / span
            parts.append(
                f'<rect x="{start:.0f}" y="{y - 11}" width="{stop - start:.0f}" height="22" rx="4" '
                f'fill="{GREEN}" opacity=".22"/>'
            )
        colour = PURPLE if number else GREY
        for check in checks:
            x = left + width * check / span
            parts.append(_path(f"M {x:.1f} {y - 9} v 18", colour, width=2))
        parts.append(_text(left + width + 14, y + 5, str(len(checks)), INK, 13))
    bottom = 58 + len(rows) * 38
    parts += [
        _text(left + width * second / span, bottom + 6, f"{second} s", GREY, 12, middle=True)
        for second in range(0, 181, 30)
    ]
    parts.append(_text(left + width + 14, 24, "requests", GREY, 12))
    return _svg(left + width + 80, bottom + 22, "when the status of a project is checked", parts)


def _checks(kind: str, typical: float | None, span: float) -> Iterator[float]:
    """Yield the seconds at which a project that is never finished is checked."""
    age = 0.0
    while (age := age + next_delay(kind, typical, age, 3600.0, 0.5)) <= span:
        yield age


# ---------------------------------------------------------------------------------------------- shapes


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="{FONT}">\n<title>{escape(title)}</title>\n'
        f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>\n{body}\n</svg>\n'
    )


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{colour}" fill-opacity=".08" '
        f'stroke="{colour}" stroke-width="1.5"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    colour: str,
    size: int,
    *,
    middle: bool = False,
    end: bool = False,
    bold: bool = False,
) -> str:
    anchor = ' text-anchor="middle"' if middle else ' text-anchor="end"' if end else ""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"{anchor}{weight}>{escape(text)}</text>'
    )


def _path(data: str, colour: str, *, width: float = 1.5, dash: bool = False) -> str:
    dashes = ' stroke-dasharray="3 3"' if dash else ""
    return f'<path d="{data}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>'


def _arrow(x: float, y: float, end: float) -> str:
    return _path(f"M {x} {y} H {end}", INK) + _path(
        f"M {end - 6} {y - 5} L {end} {y} L {end - 6} {y + 5}", INK
    )


if __name__ == "__main__":
    sys.exit(main())

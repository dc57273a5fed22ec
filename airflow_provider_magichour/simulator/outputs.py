"""The output files of a project, and their properties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_provider_magichour.simulator.media import Media
from airflow_provider_magichour.tools import TOOLS

_IMAGE_SIZES = {"16:9": (512, 288), "9:16": (288, 512), "4:3": (512, 384), "3:4": (384, 512)}
_VIDEO_SIZES = {"16:9": (320, 180), "9:16": (180, 320), "1:1": (240, 240)}
_LONGEST_VIDEO_SECONDS = 600.0
_LONGEST_SIDE = 8192


def video_details(tool: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the size, times and frame rate of a video project."""
    width, height = _VIDEO_SIZES.get(str(body.get("aspect_ratio")), _VIDEO_SIZES["16:9"])
    if tool == "animation":
        # The requested aspect ratio, at a small size.
        sides = min(body["width"], _LONGEST_SIDE), min(body["height"], _LONGEST_SIDE)
        width, height = (max(int(320 * side / max(sides)) // 2 * 2, 16) for side in sides)
    return {
        "width": width,
        "height": height,
        "start_seconds": body.get("start_seconds") or 0,
        "end_seconds": body["end_seconds"],
        "fps": min(body.get("fps") or body.get("max_fps_limit") or 24, 60),
    }


def outputs_of(
    tool: str, project_id: str, body: Mapping[str, Any], details: Mapping[str, Any], pad_to: int | None
) -> tuple[list[str], list[Media]]:
    """Return the names of a project's outputs and the outputs."""
    kind = TOOLS[tool].kind
    text = _text(body)
    if kind == "audio":
        seconds = float(body.get("duration") or min(max(len(text) / 15, 1.0), 60.0))
        one = Media(project_id, "wav", text, seconds=seconds, pad_to=pad_to)
    elif kind == "video":
        one = Media(
            project_id,
            "mp4",
            text,
            details["width"],
            details["height"],
            min(max(details["end_seconds"] - details["start_seconds"], 0.1), _LONGEST_VIDEO_SECONDS),
            pad_to,
        )
    elif tool == "ai-gif-generator":
        one = Media(project_id, _gif_extension(body), text, 240, 240, 1.0, pad_to=pad_to)
    else:
        width, height = _IMAGE_SIZES.get(str(body.get("aspect_ratio")), (512, 512))
        one = Media(project_id, "png", text, width, height, pad_to=pad_to)
    count = int(body.get("image_count") or 1) if kind == "image" else 1
    if count == 1:
        return [f"output.{one.extension}"], [one]
    names = [f"output-{number}.{one.extension}" for number in range(count)]
    return names, [replace(one, seed=f"{project_id}-{number}") for number in range(count)]


def _gif_extension(body: Mapping[str, Any]) -> str:
    # WebM needs an encoder, so a request for WebM gets an MP4.
    return "gif" if body.get("output_format", "gif") == "gif" else "mp4"


def _text(body: Mapping[str, Any]) -> str:
    style = body.get("style")
    style = style if isinstance(style, dict) else {}
    for found in (style.get("prompt"), style.get("topic"), body.get("script"), body.get("content")):
        if found:
            return _printable(str(found))
    return _printable(str(body.get("name") or ""))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:1000])

"""The outputs are real media: other programs decode them."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import time
import wave
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import pytest
from PIL import Image

from airflow_provider_magichour.simulator.media import Content, Media, MediaCache
from airflow_provider_magichour.simulator.outputs import outputs_of, video_details
from airflow_provider_magichour.tools import TOOLS
from tests.simulator.support import EXAMPLE_BODIES

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
VIDEO = Media("one", "mp4", "a dog running", 320, 180, 2.0)


def _bytes(media: Media) -> bytes:
    content = Content(media)
    data = b"".join(content.read(0, content.size))
    assert len(data) == content.size
    return data


def _decode(media: Media, folder: Path) -> str:
    """Decode every frame, and return what ffmpeg says of the file."""
    path = folder / f"file.{media.extension}"
    path.write_bytes(_bytes(media))
    command = [
        FFMPEG,
        "-hide_banner",
        "-xerror",
        "-err_detect",
        "explode",
        "-i",
        str(path),
        "-f",
        "null",
        "-",
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert not re.search("error|invalid|corrupt|truncat", done.stderr, re.IGNORECASE), done.stderr
    return done.stderr


def _kind_of_file(folder: Path, extension: str) -> str:
    if shutil.which("file") is None:
        pytest.skip("there is no file command here")
    command = ["file", "--brief", str(folder / f"file.{extension}")]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tools_output_can_be_decoded(tool: str, tmp_path: Path) -> None:
    body = EXAMPLE_BODIES[tool]
    details = video_details(tool, body) if TOOLS[tool].kind == "video" else {}
    (name,), (media,) = outputs_of(tool, "cm1", body, details, None)
    assert name == f"output.{media.extension}"
    said = _decode(media, tmp_path)
    if details:
        assert f"{details['width']}x{details['height']}" in said
        seconds = details["end_seconds"] - details["start_seconds"]
        assert f"Duration: 00:00:{seconds:05.2f}" in said


def test_a_picture_is_a_png_with_its_prompt(tmp_path: Path) -> None:
    media = Media("one", "png", "a cat in the snow", 512, 288)
    _decode(media, tmp_path)
    assert "PNG image data, 512 x 288" in _kind_of_file(tmp_path, "png")
    picture = Image.open(io.BytesIO(_bytes(media)))
    picture.load()
    assert picture.text["Title"] == "one a cat in the snow"
    assert len(picture.convert("RGB").getcolors(1_000_000) or []) > 100


@pytest.mark.parametrize(("width", "height"), [(320, 180), (180, 320), (16, 16), (2, 50)])
def test_a_video_is_an_mp4_of_its_size_and_length(width: int, height: int, tmp_path: Path) -> None:
    media = replace(VIDEO, width=width, height=height)
    said = _decode(media, tmp_path)
    assert "Video: av1" in said
    assert f"{width}x{height}" in said
    assert "Duration: 00:00:02.00" in said
    assert "MP4" in _kind_of_file(tmp_path, "mp4")


def test_the_frames_of_a_video_are_its_pictures(tmp_path: Path) -> None:
    _decode(VIDEO, tmp_path)
    command = [
        FFMPEG,
        "-v",
        "error",
        "-i",
        str(tmp_path / "file.mp4"),
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    frames = subprocess.run(command, capture_output=True, timeout=300, check=True).stdout
    size = 320 * 180 * 3
    parts = [frames[at : at + size] for at in range(0, len(frames), size)]
    assert len(parts) == len(set(parts)) == 4
    still = Image.open(io.BytesIO(_bytes(replace(VIDEO, extension="png"))))
    shown = Image.frombytes("RGB", (320, 180), parts[0])
    different = sum(
        max(abs(a - b) for a, b in zip(still.getpixel((x, 10)), shown.getpixel((x, 10)), strict=True)) > 40
        for x in range(200, 320)
    )
    assert different < 6


def test_a_long_video_is_small(tmp_path: Path) -> None:
    media = replace(VIDEO, seconds=60.0)
    assert len(_bytes(media)) < 20_000
    assert "Duration: 00:01:00.00" in _decode(media, tmp_path)


def test_a_sound_is_a_wav_of_its_length() -> None:
    with wave.open(io.BytesIO(_bytes(Media("one", "wav", "hello", seconds=1.5)))) as file:
        assert file.getnframes() / file.getframerate() == 1.5
        assert len(set(file.readframes(16_000))) > 50


@pytest.mark.parametrize("extension", ["png", "mp4", "wav"])
def test_padded_files_play_as_well(extension: str, tmp_path: Path) -> None:
    plain = Media("one", extension, "text", 320, 180, 1.0)
    padded = replace(plain, pad_to=2_000_001)
    assert len(_bytes(padded)) == 2_000_001
    _decode(padded, tmp_path)
    _kind_of_file(tmp_path, extension)
    assert len(_bytes(replace(plain, pad_to=10))) == len(_bytes(plain))


def test_padding_needs_no_memory() -> None:
    content = Content(replace(VIDEO, pad_to=50_000_000_000))
    assert content.size == 50_000_000_000
    assert len(content.head) < 1_000_000
    last = b"".join(content.read(content.size - 100_000, content.size))
    assert len(last) == 100_000


@pytest.mark.parametrize("extension", ["png", "mp4", "wav", "gif"])
def test_each_project_has_files_of_its_own_always_the_same(extension: str) -> None:
    media = Media("one", extension, "text", 320, 180, 1.0)
    assert _bytes(media) == _bytes(media)
    assert _bytes(media) != _bytes(replace(media, seed="two"))
    assert Content(media).etag != Content(replace(media, seed="two")).etag


@pytest.mark.parametrize(
    "text", ["", "ü" * 300, "猫が走る 🎬", "a\x00b\nc", "x" * 100_000, " ".join("abc" * 900)]
)
def test_odd_prompts_are_drawn(text: str, tmp_path: Path) -> None:
    for tool in ("ai-image-generator", "text-to-video"):
        body = EXAMPLE_BODIES[tool] | {"style": {"prompt": text}}
        details = video_details(tool, body) if tool == "text-to-video" else {}
        _decode(outputs_of(tool, "cm1", body, details, None)[1][0], tmp_path)


def test_a_video_is_the_same_a_second_later() -> None:
    first, second = _bytes(VIDEO), int(time.time())
    while int(time.time()) == second:
        time.sleep(0.02)
    assert _bytes(VIDEO) == first


async def test_the_cache_is_bounded() -> None:
    size = len(_bytes(VIDEO))
    cache = MediaCache(limit=size * 2 + 100)
    contents = [await cache.get(replace(VIDEO, text=str(number))) for number in range(4)]
    assert await cache.get(replace(VIDEO, text="3")) is contents[3]
    assert await cache.get(replace(VIDEO, text="0")) is not contents[0]

"""What a media file says about itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
from PIL import Image, UnidentifiedImageError


class NotMediaError(ValueError):
    """A file holds neither an image nor a video nor a sound."""


def describe(path: Path) -> str:
    """
    Return an image's size in pixels, or the duration of a video or a sound, read from the file itself.

    :raises NotMediaError: if it is none of them.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return f"{image.width} x {image.height}"
    except UnidentifiedImageError:
        return _describe_stream(path)


def _describe_stream(path: Path) -> str:
    # Decoding all of it to nowhere finds a file that is cut off, which its header alone would hide.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-xerror", "-i", str(path)]
    done = subprocess.run(  # noqa: S603  # our own program, on a path that is one argument
        [*command, "-f", "null", "-"], capture_output=True, text=True, errors="replace", check=False
    )
    duration = re.search(r"Duration: (\d+):(\d+):([\d.]+)", done.stderr)
    if done.returncode != 0 or duration is None:
        raise NotMediaError(f"{path} cannot be played: {done.stderr.strip().splitlines()[-1:]}")
    hours, minutes, seconds = duration.groups()
    text = f"{int(hours) * 3600 + int(minutes) * 60 + float(seconds):.1f} s"
    frame = re.search(r"Video: .*?[ ,](\d{2,5})x(\d{2,5})[ ,]", done.stderr)
    return f"{text}, {frame[1]} x {frame[2]}" if frame else text

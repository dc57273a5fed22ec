"""The simulator's outputs: small real pictures, videos and sounds, drawn from a project's prompt."""

from __future__ import annotations

import asyncio
import hashlib
import io
import math
import random
import re
import struct
import wave
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

CONTENT_TYPES = {
    "png": "image/png",
    "gif": "image/gif",
    "mp4": "video/mp4",
    "wav": "audio/wav",
}

_FILL_BLOCK = 64 * 1024
_CACHE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Media:
    """
    The description of one output.

    :param seed: makes it different from all other outputs.
    :param extension: ``png``, ``gif``, ``mp4`` or ``wav``.
    :param text: the text on it.
    :param width: in pixels, even.
    :param height: in pixels, even.
    :param seconds: its duration.
    :param pad_to: its size in bytes, with padding. None for no padding.
    """

    seed: str
    extension: str
    text: str = ""
    width: int = 512
    height: int = 512
    seconds: float = 1.0
    pad_to: int | None = None

    @property
    def content_type(self) -> str:
        """Return the MIME type."""
        return CONTENT_TYPES[self.extension]


class Content:
    """The bytes of an output, from any position. The padding is computed while it is read."""

    def __init__(self, media: Media) -> None:
        self.head, self._tail = _draw(media), b""
        self._filler = random.Random(media.seed).randbytes(_FILL_BLOCK)
        self.size = len(self.head)
        if media.pad_to is not None and media.pad_to > self.size + 64:
            self._pad(media.extension, media.pad_to)
        self.etag = f'"{hashlib.sha256(f"{media}|{self.size}".encode()).hexdigest()[:32]}"'

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to before ``end``, in pieces of at most 64 KiB."""
        while start < end:
            if start < len(self.head):
                piece = self.head[start : min(end, start + _FILL_BLOCK)]
            elif start >= self.size - len(self._tail):
                piece = self._tail[start - self.size + len(self._tail) :][: end - start]
            else:
                number, offset = divmod(start, _FILL_BLOCK)
                # Each block contains its number, so that tests notice bytes in the wrong place.
                block = struct.pack(">Q", number) + self._filler[8:]
                piece = block[offset : offset + min(end, self.size - len(self._tail)) - start]
            yield piece
            start += len(piece)

    def _pad(self, extension: str, size: int) -> None:
        """Put the padding into a part of the file that players ignore, if the format has such a part."""
        padding = size - len(self.head)
        self.size = size
        if extension == "mp4":
            # Size 1 says that the real, 64 bit size follows the name.
            self.head += struct.pack(">I4sQ", 1, b"free", padding)
        elif extension == "wav" and size < 2**32:
            riff = struct.pack("<4sI", b"RIFF", size - 8)
            self.head = riff + self.head[8:] + struct.pack("<4sI", b"JUNK", padding - 8)
        elif extension == "png" and padding < 2**31:
            end = self.head[-12:]
            self.head = self.head[:-12] + struct.pack(">I4s", padding - 12, b"fiLl")
            self._tail = bytes(4) + end
            checksum = zlib.crc32(b"fiLl")
            for piece in self.read(len(self.head), size - len(self._tail)):
                checksum = zlib.crc32(piece, checksum)
            self._tail = struct.pack(">I", checksum) + end


def digest(media: Media) -> str:
    """Return the sha256 of an output's bytes."""
    content, found = Content(media), hashlib.sha256()
    for piece in content.read(0, content.size):
        found.update(piece)
    return found.hexdigest()


class MediaCache:
    """Draws an output at its first request, and caches the latest ones. It belongs to one event loop."""

    def __init__(self, limit: int = _CACHE_BYTES) -> None:
        self._limit = limit
        self._held = 0
        self._contents: OrderedDict[Media, Content] = OrderedDict()

    async def get(self, media: Media) -> Content:
        """Return the output's bytes."""
        content = self._contents.get(media)
        if content is not None:
            self._contents.move_to_end(media)
            return content
        content = await asyncio.to_thread(Content, media)
        if media not in self._contents:
            self._contents[media] = content
            self._held += len(content.head)
        while self._held > self._limit and len(self._contents) > 1:
            self._held -= len(self._contents.popitem(last=False)[1].head)
        return content


def _draw(media: Media) -> bytes:
    if media.extension == "wav":
        return _sound(media)
    if media.extension == "mp4":
        return _video(media)
    out = io.BytesIO()
    if media.extension == "gif":
        first, *others = (_picture(media, number / 4) for number in range(4))
        first.save(out, "GIF", save_all=True, append_images=others, duration=250, loop=0)
    else:
        info = PngInfo()
        info.add_itxt("Title", _title(media))
        _picture(media, 0).save(out, "PNG", compress_level=1, pnginfo=info)
    return out.getvalue()


def _title(media: Media) -> str:
    return f"{media.seed} {media.text}"[:500]


def _video(media: Media) -> bytes:
    """
    Return an MP4 file with AV1 video, which browsers and ffmpeg can play.

    It is an animated AVIF picture with three changes: the brand, the still picture for programs that show
    no animation, and the handler of the track.
    """
    first, *others = (_picture(media, number / 4) for number in range(4))
    out = io.BytesIO()
    # One thread is faster for pictures as small as these, and the result does not depend on the machine.
    first.save(
        out,
        "AVIF",
        save_all=True,
        append_images=others,
        duration=max(round(media.seconds * 250), 1),
        quality=50,
        speed=10,
        codec="aom",
        max_threads=1,
    )
    head, mdat, frames = out.getvalue().partition(b"mdat")
    for name, instead in ((b"ftypavis", b"ftypisom"), (b"meta", b"free"), (b"pict", b"vide")):
        head = head.replace(name, instead)
    # No times of creation and change, so the same project always has the same bytes.
    head = re.sub(rb"((?:mv|tk|md)hd\x01.{3}).{16}", rb"\1" + bytes(16), head, flags=re.DOTALL)
    title = _title(media).encode()
    return head + mdat + frames + struct.pack(">I4s", len(title) + 8, b"free") + title


def _picture(media: Media, progress: float) -> Image.Image:
    draw_from = hashlib.sha256(media.seed.encode()).digest()
    dark = (draw_from[0] // 3, draw_from[1] // 3, draw_from[2] // 3)
    light = (128 + draw_from[3] // 2, 128 + draw_from[4] // 2, 128 + draw_from[5] // 2)
    shade = Image.linear_gradient("L").rotate(90 * (draw_from[6] % 4))
    picture = ImageOps.colorize(shade, dark, light).resize((media.width, media.height))
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(media.height // 14, 10))
    words = [word[:24] for word in (media.text or "Magic Hour").split()][:40]
    lines = [" ".join(words[at : at + 4]) for at in range(0, len(words), 4)]
    pen.multiline_text(
        (12, 12), "\n".join(lines), fill="white", font=font, stroke_width=2, stroke_fill="black"
    )
    radius = media.height // 8
    x = round(radius + progress * (media.width - 2 * radius))
    y = round(media.height * 0.72)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=light, outline="black", width=2)
    return picture


def _sound(media: Media) -> bytes:
    rate = 16_000
    notes = random.Random(media.seed).choices((0, 2, 4, 7, 9, 12), k=8)
    tune = array("h")
    for note in notes:
        step = 2 * math.pi * 220 * 2 ** (note / 12) / rate
        length = rate // 4
        # Each note fades in and out, so that it starts and ends without a click.
        tune.extend(int(9000 * math.sin(math.pi * at / length) * math.sin(step * at)) for at in range(length))
    samples = max(round(media.seconds * rate), 1)
    data = tune.tobytes() * (samples // len(tune) + 1)
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(data[: samples * 2])
    return out.getvalue()

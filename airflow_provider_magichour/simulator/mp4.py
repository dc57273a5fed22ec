"""
Writes small playable MP4 files (H.264, baseline profile) without an encoder.

Each picture is stored as raw samples (``I_PCM`` macroblocks), which every H.264 decoder can show; the
frames between two pictures say "as before" in ten bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

from PIL import Image

_TIMESCALE = 90_000
#: The header of an ``I_PCM`` macroblock that starts on a byte boundary: ue(25), then zeros to the next one.
_PCM_HEADER = b"\x0d\x00"
#: From the full range of 0-255 to the video range of 16-235 (luma) or 16-240 (chroma): no sample is 0.
_LUMA = [16 + round(value * 219 / 255) for value in range(256)]
_CHROMA = [16 + round(value * 224 / 255) for value in range(256)]
_UNITY_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


class _Bits:
    def __init__(self) -> None:
        self._bits: list[str] = []

    def u(self, value: int, width: int) -> _Bits:
        """Append an unsigned number of fixed width."""
        self._bits.append(format(value, f"0{width}b"))
        return self

    def ue(self, *values: int) -> _Bits:
        """Append unsigned numbers in Exp-Golomb code."""
        for value in values:
            digits = format(value + 1, "b")
            self._bits.append("0" * (len(digits) - 1) + digits)
        return self

    def end(self, first: str = "1") -> bytes:
        """Return the bytes, filled up with zeros after ``first``."""
        text = "".join(self._bits) + first
        text += "0" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big")


def _nal(header: int, payload: bytes) -> bytes:
    escaped = re.sub(rb"\x00\x00(?=[\x00-\x03])", b"\x00\x00\x03", payload)
    return bytes([header]) + escaped


def _sequence_parameters(width: int, height: int) -> bytes:
    columns, rows = -(-width // 16), -(-height // 16)
    bits = _Bits().ue(0, 4, 2, 1).u(0, 1).ue(columns - 1, rows - 1).u(0b11, 2)
    bits.u(1, 1).ue(0, (columns * 16 - width) // 2, 0, (rows * 16 - height) // 2).u(0, 1)
    return _nal(0x67, bytes([66, 0xC0, 30]) + bits.end())


def _picture_parameters() -> bytes:
    return _nal(0x68, _Bits().ue(0, 0).u(0, 2).ue(0, 0, 0).u(0, 3).ue(0, 0, 0).u(0b100, 3).end())


def _key_frame(picture: Image.Image, number: int) -> bytes:
    columns, rows = -(-picture.width // 16), -(-picture.height // 16)
    canvas = Image.new("RGB", (columns * 16, rows * 16))
    canvas.paste(picture)
    luma, blue, red = canvas.convert("YCbCr").split()
    half = (columns * 8, rows * 8)
    planes = (
        (luma.point(_LUMA).tobytes(), 16),
        (blue.resize(half).point(_CHROMA).tobytes(), 8),
        (red.resize(half).point(_CHROMA).tobytes(), 8),
    )
    header = _Bits().ue(0, 7, 0).u(0, 8).ue(number % 2).u(0, 2).ue(0, 1)
    parts = [header.ue(25).end(first="")]
    for row in range(rows):
        for column in range(columns):
            for plane, size in planes:
                stride = columns * size
                start = row * size * stride + column * size
                parts += [plane[at : at + size] for at in range(start, start + size * stride, stride)]
            parts.append(_PCM_HEADER)
    # After the last macroblock comes the end of the slice instead of another one.
    parts[-1] = b"\x80"
    return _nal(0x65, b"".join(parts))


def _repeat_frame(macroblocks: int, number: int) -> bytes:
    bits = _Bits().ue(0, 5, 0).u(number % 256, 8).u(0, 3).ue(0, 1).ue(macroblocks)
    return _nal(0x41, bits.end())


def _box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", len(body) + 8, name) + body


def _full_box(name: bytes, flags: int, *parts: bytes) -> bytes:
    return _box(name, struct.pack(">I", flags), *parts)


def write_mp4(pictures: Sequence[Image.Image], fps: float, frames: int, note: str) -> bytes:
    """
    Return an MP4 file that shows each picture for an equal part of its frames.

    :param pictures: RGB pictures of one size, with an even width and height.
    :param fps: frames per second.
    :param frames: how many frames, at least one for each picture.
    :param note: text for the file's comment.
    """
    width, height = pictures[0].size
    macroblocks = -(-width // 16) * -(-height // 16)
    starts = {round(i * frames / len(pictures)): picture for i, picture in enumerate(pictures)}
    samples: list[bytes] = []
    since_key = 0
    for frame in range(frames):
        since_key = 0 if frame in starts else since_key + 1
        picture = starts.get(frame)
        unit = _key_frame(picture, len(samples)) if picture else _repeat_frame(macroblocks, since_key)
        samples.append(struct.pack(">I", len(unit)) + unit)
    tick = round(_TIMESCALE / fps)
    head = _box(b"ftyp", b"isom", struct.pack(">I", 0x200), b"isomiso2avc1mp41")
    media = b"".join(samples)

    def movie(offset: int) -> bytes:
        sizes = struct.pack(f">{frames}I", *map(len, samples))
        keys = [number + 1 for number in sorted(starts)]
        table = _box(
            b"stbl",
            _full_box(b"stsd", 0, struct.pack(">I", 1), _avc1(width, height)),
            _full_box(b"stts", 0, struct.pack(">III", 1, frames, tick)),
            _full_box(b"stss", 0, struct.pack(f">I{len(keys)}I", len(keys), *keys)),
            _full_box(b"stsc", 0, struct.pack(">IIII", 1, 1, frames, 1)),
            _full_box(b"stsz", 0, struct.pack(">II", 0, frames), sizes),
            _full_box(b"stco", 0, struct.pack(">II", 1, offset)),
        )
        return _movie(table, width, height, frames * tick, note)

    offset = len(head) + len(movie(0)) + 8
    return head + movie(offset) + _box(b"mdat", media)


def _avc1(width: int, height: int) -> bytes:
    sps, pps = _sequence_parameters(width, height), _picture_parameters()
    config = bytes([1, *sps[1:4], 0xFF, 0xE1])
    config += struct.pack(">H", len(sps)) + sps + b"\x01" + struct.pack(">H", len(pps)) + pps
    entry = bytes(6) + struct.pack(">H", 1) + bytes(16) + struct.pack(">HH", width, height)
    entry += struct.pack(">IIIH", 0x480000, 0x480000, 0, 1) + bytes(32) + struct.pack(">Hh", 24, -1)
    return _box(b"avc1", entry, _box(b"avcC", config))


def _movie(table: bytes, width: int, height: int, duration: int, note: str) -> bytes:
    header = struct.pack(">IIIIIH", 0, 0, _TIMESCALE, duration, 0x10000, 0x100)
    reference = _box(b"dinf", _full_box(b"dref", 0, struct.pack(">I", 1), _full_box(b"url ", 1)))
    text = note.encode("utf-8")
    return _box(
        b"moov",
        _full_box(b"mvhd", 0, header, bytes(10), _UNITY_MATRIX, bytes(24), struct.pack(">I", 2)),
        _box(
            b"trak",
            _full_box(
                b"tkhd",
                3,
                struct.pack(">IIIII", 0, 0, 1, 0, duration),
                bytes(16),
                _UNITY_MATRIX,
                struct.pack(">II", width << 16, height << 16),
            ),
            _box(
                b"mdia",
                _full_box(b"mdhd", 0, struct.pack(">IIIIHH", 0, 0, _TIMESCALE, duration, 0x55C4, 0)),
                _full_box(b"hdlr", 0, bytes(4), b"vide", bytes(12), b"video\x00"),
                _box(b"minf", _full_box(b"vmhd", 1, bytes(8)), reference, table),
            ),
        ),
        _box(b"udta", _box(b"\xa9cmt", struct.pack(">HH", len(text), 0x55C4), text)),
    )

"""The kinds of project and the tools of Magic Hour."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias, get_args

__all__ = ["KINDS", "TOOLS", "UPLOAD_EXTENSIONS", "Kind", "KindName", "KnownTool", "Tool", "ToolName"]

Kind: TypeAlias = Literal["image", "video", "audio"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: The tools of :data:`TOOLS`, for editors. A test compares both.
KnownTool: TypeAlias = Literal[
    "ai-clothes-changer",
    "ai-face-editor",
    "ai-gif-generator",
    "ai-headshot-generator",
    "ai-image-editor",
    "ai-image-generator",
    "ai-image-upscaler",
    "ai-meme-generator",
    "ai-qr-code-generator",
    "body-swap",
    "face-swap-photo",
    "head-swap",
    "image-background-remover",
    "photo-colorizer",
    "ai-talking-photo",
    "ai-ugc-ad",
    "ai-video-editor",
    "ai-video-translator",
    "ai-video-upscaler",
    "animation",
    "audio-to-video",
    "auto-subtitle-generator",
    "character-replace",
    "face-swap",
    "image-to-video",
    "lip-sync",
    "text-to-video",
    "video-to-video",
    "ai-music-generator",
    "ai-voice-cloner",
    "ai-voice-generator",
]

#: The type of an argument: editors complete the known values, and type checkers accept any other text.
KindName: TypeAlias = Kind | str
ToolName: TypeAlias = KnownTool | str


class Tool(NamedTuple):
    """
    The data of a tool.

    :param kind: the kind of project that it creates.
    :param project_type: the ``type`` of that project in the API; None if it is not known.
    :param typical_seconds: the median time from submit to complete, as Magic Hour published it in September
        2026 (for a few tools in July); None if it is not known.
    """

    kind: Kind
    project_type: str | None = None
    typical_seconds: float | None = None


#: Every tool by the path segment of its create call. A new tool needs one line here, or ``kind=`` in a call.
TOOLS: Mapping[str, Tool] = {
    "ai-clothes-changer": Tool("image", "CLOTHES_CHANGER", 10),
    "ai-face-editor": Tool("image", "FACE_EDITOR", 2),
    "ai-gif-generator": Tool("image", "AI_GIF", 26),
    "ai-headshot-generator": Tool("image", "AI_HEADSHOT", 16),
    "ai-image-editor": Tool("image", "AI_IMAGE_EDITOR", 9),
    "ai-image-generator": Tool("image", "AI_IMAGE", 4),
    "ai-image-upscaler": Tool("image", "IMAGE_UPSCALER", 27),
    "ai-meme-generator": Tool("image", "AI_MEME", 6),
    "ai-qr-code-generator": Tool("image", "QR_CODE", 7),
    "body-swap": Tool("image", "BODY_SWAP", 27),
    "face-swap-photo": Tool("image", "FACE_SWAP", 4),
    "head-swap": Tool("image", "HEAD_SWAP", 18),
    "image-background-remover": Tool("image", "BACKGROUND_REMOVER", 4),
    "photo-colorizer": Tool("image", "PHOTO_COLORIZER", 10),
    "ai-talking-photo": Tool("video", "TALKING_PHOTO", 41),
    "ai-ugc-ad": Tool("video", "UGC_AD"),
    "ai-video-editor": Tool("video", "VIDEO_EDITOR", 71),
    "ai-video-translator": Tool("video", "VIDEO_TRANSLATOR"),
    "ai-video-upscaler": Tool("video", "VIDEO_UPSCALER"),
    "animation": Tool("video", "ANIMATION", 166),
    "audio-to-video": Tool("video", "AUDIO_TO_VIDEO", 71),
    "auto-subtitle-generator": Tool("video", "AUTO_SUBTITLE", 52),
    "character-replace": Tool("video", "CHARACTER_REPLACE", 690),
    "face-swap": Tool("video", "FACE_SWAP", 71),
    "image-to-video": Tool("video", "IMAGE_TO_VIDEO", 33),
    "lip-sync": Tool("video", "LIP_SYNC", 90),
    "text-to-video": Tool("video", "TEXT_TO_VIDEO", 25),
    "video-to-video": Tool("video", "VIDEO_TO_VIDEO", 386),
    "ai-music-generator": Tool("audio", "MUSIC_GENERATOR", 21),
    "ai-voice-cloner": Tool("audio", "VOICE_CLONER", 71),
    "ai-voice-generator": Tool("audio", "VOICE_GENERATOR", 19),
}

#: Tools of which it is not known whether their bodies take a ``name``.
_NEWER = frozenset({"ai-music-generator", "ai-ugc-ad", "ai-video-translator", "ai-video-upscaler"})

#: File extensions that the upload call takes, by the asset's type.
UPLOAD_EXTENSIONS: Mapping[Kind, tuple[str, ...]] = {
    "video": ("mp4", "m4v", "mov", "webm", "gif"),
    "audio": ("mp3", "wav", "aac", "flac", "webm", "weba", "m4a", "opus", "ogg", "oga", "aiff", "amr"),
    "image": ("png", "jpg", "jpeg", "jfif", "heic", "heif", "webp", "avif", "jp2", "tiff", "tif", "bmp"),
}

_TOOL_NAME = "[a-z0-9]+(-[a-z0-9]+)*"


def check_kind(value: object, name: str = "kind") -> Kind:
    """
    Check and return a kind.

    :raises MagicHourArgumentError: if it is not ``image``, ``video`` or ``audio``.
    """
    if value not in KINDS:
        from airflow_provider_magichour.exceptions import MagicHourArgumentError

        shown = repr(value[:50]) if isinstance(value, str) else type(value).__name__  # not a whole project
        raise MagicHourArgumentError(f"{name} must be one of {', '.join(KINDS)}, not {shown}")
    return value


def tool_kind(tool: object, kind: object = None) -> Kind:
    """
    Return the kind of project that a tool makes.

    :param tool: the path segment of the create call, such as ``text-to-video``.
    :param kind: needed for a tool that this version does not know.
    :raises MagicHourArgumentError: if the kind is unknown, or contradicts what is known of the tool.
    """
    from airflow_provider_magichour.exceptions import MagicHourArgumentError

    if not isinstance(tool, str) or not re.fullmatch(_TOOL_NAME, tool, re.ASCII):
        raise MagicHourArgumentError(
            f"tool must be the last segment of a create call's path, such as 'text-to-video', not {tool!r}"
            + (_did_you_mean(tool.lower().replace("_", "-")) if isinstance(tool, str) else "")
        )
    known = TOOLS.get(tool)
    if known is None:
        if kind is None:
            raise MagicHourArgumentError(
                f"tool {tool!r} is not known to this version{_did_you_mean(tool)} To use it all the same, "
                f"pass kind='image', 'video' or 'audio'. Known tools: {', '.join(TOOLS)}"
            )
        return check_kind(kind)
    if kind is not None and check_kind(kind) != known.kind:
        raise MagicHourArgumentError(
            f"kind={kind!r} contradicts tool {tool!r}, which makes {known.kind} projects"
        )
    return known.kind


def _did_you_mean(tool: str) -> str:
    import difflib

    near = difflib.get_close_matches(tool, TOOLS, 1)
    return f"; did you mean {near[0]!r}?" if near else "."


def tool_of(kind: str, project_type: object) -> str | None:
    """Return the tool that makes projects of this kind and ``type``, None if it is not known."""
    found = (name for name, tool in TOOLS.items() if (tool.kind, tool.project_type) == (kind, project_type))
    return next(found, None)


#: The duration of a deferral in seconds: the scheduler notices the task, and the task starts again.
DEFERRAL_SECONDS = 15.0


def seconds_before_deferral(typical_seconds: float | None) -> float:
    """
    Return how long a task waits on its worker before it defers, in seconds; 0 to defer at once.

    Projects that typically take less time than a deferral costs are waited for on the worker, long enough
    for nearly all of them.

    :param typical_seconds: the median duration of such projects, None if it is not known.
    """
    if typical_seconds is None or typical_seconds > DEFERRAL_SECONDS:
        return 0.0
    return max(DEFERRAL_SECONDS, 2 * typical_seconds)


def typical_seconds_of(tool: str | None) -> float | None:
    """Return the median duration of a tool's projects, None if it is not known."""
    known = TOOLS.get(tool or "")
    return known.typical_seconds if known else None


def takes_name(tool: str) -> bool:
    """Return whether a tool's body is known to take a ``name``."""
    return tool in TOOLS and tool not in _NEWER

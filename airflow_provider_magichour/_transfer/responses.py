"""What a download host's response means: pure functions over its status, headers and first bytes."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: Statuses of a URL that has expired or is not known any more; signed URLs are refused in all these ways.
REFUSED = frozenset({400, 401, 403, 404, 410})

#: Values of Content-Encoding that say nothing of the bytes. SDKs and proxies leave them on objects.
_NO_ENCODINGS = frozenset({"", "identity", "none", "binary", "utf-8"})

_TEXT_TYPES = re.compile(
    r"(text/html|application/xhtml\+xml|application/(problem\+)?json|(text|application)/xml)$"
)
_HTML_NAMES = re.compile(r"(?i)\.(html?|xhtml)$")
_TEXT_NAMES = re.compile(r"(?i)\.(html?|xhtml|json|xml|svg|txt|srt|vtt|ass|csv|md|lottie)$")
#: How a text in angle brackets or a JSON value begins; no image, video or sound does.
_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*(<[!?a-zA-Z]|\{\s*[\"}]|\[\s*[\[{\"\]])")
_SVG = re.compile(rb"(?i)<(svg|\?xml|!doctype svg|!--)")
#: How a web page or a store's XML error begins, which is no text that a project has as its output.
_HTML = re.compile(
    rb"(?i)(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(?>(?><!--.*?-->)\s*)*+"  # atomic: never read in two ways
    rb"<(!doctype\s+html|html|head|body|error)\b",
    re.DOTALL,
)
#: First bytes that tell what a file really is.
HEAD = 64
_SIGNATURES = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"RIFF.{4}WAVE", re.DOTALL), "audio/wav"),
    (re.compile(rb".{4}ftypavi[fs]", re.DOTALL), "image/avif"),
    (re.compile(rb".{4}ftyp(hei[cx]|mif1)", re.DOTALL), "image/heic"),
    (re.compile(rb".{4}ftypM4A", re.DOTALL), "audio/mp4"),
    (re.compile(rb".{4}ftypqt", re.DOTALL), "video/quicktime"),
    (re.compile(rb".{4}ftyp", re.DOTALL), "video/mp4"),
    (re.compile(rb"\x1aE\xdf\xa3"), "video/webm"),
    (re.compile(rb"ID3|\xff[\xfb\xf3\xf2]"), "audio/mpeg"),
    (re.compile(rb"fLaC"), "audio/flac"),
    (re.compile(rb"OggS"), "audio/ogg"),
)


class InterruptedDownloadError(Exception):
    """The download broke off; it may go on from where it is."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RefusedDownloadError(Exception):
    """The URL is of no use any more; a fresh one may be."""


@dataclass(frozen=True)
class Validator:
    """
    Identifies a version of a file.

    :param etag: the ETag.
    """

    etag: str | None = None
    last_modified: str | None = None
    length: int | None = None

    @property
    def condition(self) -> str | None:
        """Return the value of ``If-Range``, or None if a changed file could not be noticed."""
        is_strong = self.etag and not self.etag.startswith(
            "W/"
        )  # a weak one does not guarantee the same bytes
        return self.etag if is_strong else self.last_modified

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> Validator:
        """
        Return a validator from its JSON.

        :raises ValueError: if it is not valid.
        """
        if not isinstance(data, Mapping):
            raise ValueError("not a JSON object")  # noqa: TRY004 - all that is wrong with it is one error
        etag, last_modified, length = (data.get(name) for name in ("etag", "last_modified", "length"))
        if not (isinstance(etag, str | None) and isinstance(last_modified, str | None)):
            raise ValueError("not a validator")  # noqa: TRY004
        if not (length is None or (type(length) is int and length >= 0)):
            raise ValueError("not a length")
        if any(not value.isprintable() or not value.isascii() for value in (etag, last_modified) if value):
            raise ValueError("not a header")
        return cls(etag, last_modified, length)


def validator(headers: Mapping[str, str], length: int | None) -> Validator:
    """Return the validator of a response's file."""
    etag = headers.get("etag", "").strip()
    valid = re.fullmatch(r'(W/)?"[\x21\x23-\x7e]*"', etag)
    return Validator(etag if valid else None, headers.get("last-modified", "").strip() or None, length)


def content_length(headers: Mapping[str, str]) -> int | None:
    """
    Return the length of the body in bytes from the headers, or None if it is missing.

    :raises InterruptedDownloadError: if it is not a number.
    """
    value = headers.get("content-length")
    if value is None or "chunked" in headers.get("transfer-encoding", "").lower():
        return None
    numbers = {part.strip() for part in value.split(",")}  # a repeated header is joined to a list
    if len(numbers) != 1 or not re.fullmatch(r"[0-9]{1,18}", next(iter(numbers))):
        raise InterruptedDownloadError(f"Content-Length is {value[:50]!r}")
    return int(numbers.pop())


def content_encoding(headers: Mapping[str, str]) -> str:
    """Return the encoding of the body, or an empty text."""
    encodings = [one.strip() for one in headers.get("content-encoding", "").lower().split(",")]
    return ", ".join(one for one in encodings if one not in _NO_ENCODINGS)


def check_framing(headers: Mapping[str, str]) -> None:
    """
    Check that the body is decoded as it was sent. ``http.client`` decodes no other value than ``chunked``.

    :raises InterruptedDownloadError: if it is not.
    """
    value = headers.get("transfer-encoding", "")
    if value.lower() not in {"", "identity", "chunked"}:
        raise InterruptedDownloadError(f"unexpected Transfer-Encoding {value[:50]!r}")


def marks_its_end(headers: Mapping[str, str]) -> bool:
    """Return whether a body without a length has an end mark, so that no part can be missing."""
    return headers.get("transfer-encoding", "").lower() == "chunked" or bool(content_encoding(headers))


def total_length(status: int, headers: Mapping[str, str]) -> int | None:
    """Return the length of a file from the response to a HEAD or a GET of a range, or None."""
    if status in {206, 416}:
        total = headers.get("content-range", "").rpartition("/")[2].strip()
        if re.fullmatch(r"[0-9]{1,18}", total):
            return int(total)
        return None
    return content_length(headers) if status == 200 and not content_encoding(headers) else None


def lower_names(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers by their names in lower case."""
    return {name.lower(): value for name, value in headers.items()}


def fits(headers: Mapping[str, str], offset: int, known: Validator) -> bool:
    """Return whether a 206 has the requested range of the same version of the file."""
    match = re.fullmatch(
        r"bytes\s+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", headers.get("content-range", "").strip()
    )
    if not match or int(match[1]) != offset or int(match[2]) < offset:
        return False
    end = int(match[2]) + 1
    total = None if match[3] == "*" else int(match[3])
    length = known.length if total is None else total
    if length is None or end > length or known.length not in (None, length):  # None: unknown
        return False
    if content_length(headers) not in (None, end - offset):
        return False
    return _is_same_version(headers, known)


def _is_same_version(headers: Mapping[str, str], known: Validator) -> bool:
    """
    Return whether ETag or modification time show that a part is of a version, and neither denies it.

    Two strong ETags decide alone: they are of the bytes, and each node of a host may have its own time.
    """
    strong = [tag for tag in (headers.get("etag", "").strip(), known.etag or "") if tag.startswith('"')]
    if len(strong) == 2:
        return strong[0] == strong[1]
    etag = headers.get("etag", "").strip().removeprefix("W/")  # a weak ETag shows a change, too
    last_modified = headers.get("last-modified", "").strip()
    given = {"etag": etag, "last_modified": last_modified}
    expected = {"etag": (known.etag or "").removeprefix("W/"), "last_modified": known.last_modified or ""}
    compared = [value == expected[name] for name, value in given.items() if value and expected[name]]
    return bool(compared) and all(compared)


def error_page(name: str, content_type: str, first: bytes) -> str | None:
    """
    Return why a response is an error page instead of the file, or None for a file.

    :param name: the file's name. A name such as ``captions.json`` means that text is expected.
    :param content_type: the content type in the headers, without parameters.
    """
    if _HTML_NAMES.search(name):
        return None
    if _TEXT_NAMES.search(name):
        is_page = content_type in {"text/html", "application/xhtml+xml"} or _HTML.match(first[:1024])
        return "a web page or an error message instead of the file" if is_page else None
    is_text = content_type.startswith("text/") and not found_type(first) and b"\0" not in first
    if is_text or _TEXT_TYPES.match(content_type):
        return f"a response of type {content_type} instead of the file"
    is_text = _PAGE.match(first[:1024]) is not None
    if content_type == "image/svg+xml":
        is_text = _HTML.match(first[:1024]) is not None or not (_SVG.search(first) or found_type(first))
    return "a web page or an error message instead of the file" if is_text else None


def found_type(head: bytes) -> str:
    """Return the content type that a file's first bytes tell; empty where they tell none."""
    return next((kind for signature, kind in _SIGNATURES if signature.match(head)), "")


def media_type(headers: Mapping[str, str]) -> str:
    """Return the content type in the headers, without parameters, in lower case; empty if missing."""
    value = headers.get("content-type", "").partition(";")[0].strip().lower()
    return value if re.fullmatch(r"[a-z0-9!#$&^_.+-]{1,80}/[a-z0-9!#$&^_.+-]{1,80}", value) else ""


def stored_type(announced: str, name: str, head: bytes) -> str:
    """
    Return the content type of a stored file: from the headers, or from its first bytes if they differ.

    :param announced: the content type in the headers; empty if it is missing.
    """
    found = found_type(head)
    if not announced or announced in {"application/octet-stream", "binary/octet-stream"}:
        return found or mimetypes.guess_type(name)[0] or "application/octet-stream"
    wrong_image = found != announced and "image" in {found.partition("/")[0], announced.partition("/")[0]}
    return found if found and wrong_image else announced

"""Downloads one file. All downloads use this module."""

from __future__ import annotations

import logging
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import requests
import urllib3

from airflow_provider_magichour._client import api, retry
from airflow_provider_magichour._client.sanitize import without_query
from airflow_provider_magichour._transfer import responses
from airflow_provider_magichour._transfer.file_names import extension_of, missing_extension
from airflow_provider_magichour._transfer.responses import (
    InterruptedDownloadError,
    RefusedDownloadError,
    Validator,
)
from airflow_provider_magichour._transfer.session import DownloadSession, quoted
from airflow_provider_magichour._transfer.sinks import Sink
from airflow_provider_magichour.exceptions import MagicHourDownloadError

log = logging.getLogger(__name__)

#: The largest piece that is read at once, in bytes.
CHUNK = 1024 * 1024
#: How many fresh presigned URLs are requested in a row without progress.
MAX_REFRESHES = 3
#: How many more bytes count as progress, unless they complete the file.
MIN_PROGRESS = 64 * 1024
#: A connection counts as broken below this speed, in bytes per second over the whole read timeout.
MIN_SPEED = 512
#: Seconds between two log lines about the progress of a file.
PROGRESS_INTERVAL = 10.0


_BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, InterruptedDownloadError)


@dataclass(frozen=True)
class Fetched:
    """
    A stored file.

    :param suffix: the extension that was added to the file's name; empty if it had one.
    """

    bytes: int
    sha256: str
    content_type: str
    suffix: str


@dataclass
class Fetch:
    """
    Download one file into a sink, until it is complete.

    :param fresh_url: requests a fresh presigned URL of the same file from Magic Hour.
    :param name: the name of the file, without what :attr:`Fetched.suffix` adds.
    :param original_name: the name that Magic Hour gave it, which tells its type.
    :param shown: the final path of the file, for messages.
    :param timeout: seconds without enough bytes after which a connection counts as broken.
    :param max_attempts: tries without progress.
    :param max_bytes: the largest allowed file, None for no limit.
    :param stop: set when the whole task ends.
    """

    session: DownloadSession
    url: str
    fresh_url: Callable[[], str]
    name: str
    original_name: str
    shown: str
    timeout: float
    max_attempts: int
    max_bytes: int | None
    stop: threading.Event
    _farthest: int = 0
    _failures: int = 0
    _refreshes: int = 0
    _range_refused: bool = False
    _progress: _Progress = field(init=False)

    def into(self, sink: Sink) -> Fetched:
        """
        Fill the sink and publish the file.

        :raises MagicHourDownloadError: if the file cannot be fetched completely.
        """
        self._progress = _Progress(self.shown)
        self._farthest = sink.offset
        if sink.offset:
            log.info("%s: continuing at %d bytes, where an earlier try stopped", self.shown, sink.offset)
        while True:
            try:
                if not self._is_whole(sink):
                    self._try(sink)
                return self._publish(sink)
            except _BROKEN as error:
                self._failures = 0 if self._made_progress(sink) else self._failures + 1
                self._wait_after(error)
            except RefusedDownloadError as error:
                self._refreshes = 1 if self._made_progress(sink) else self._refreshes + 1
                self._refresh_after(error)

    def _is_whole(self, sink: Sink) -> bool:
        """Return whether an earlier try has stored all bytes, and only the final name is missing."""
        return 0 < sink.offset == sink.validator.length

    def _publish(self, sink: Sink) -> Fetched:
        if not sink.content_type:  # all bytes are from an earlier try
            self._describe(sink, "", sink.head())
        length = sink.offset
        return Fetched(length, sink.publish(), sink.content_type, sink.suffix)

    def _describe(self, sink: Sink, announced: str, head: bytes) -> None:
        """Set the content type and the suffix of the file before its first byte is written."""
        sink.content_type = responses.stored_type(announced, self.original_name, head)
        if missing_extension(self.name):
            _, dot, extension = self.original_name.rpartition(".")
            own = "" if missing_extension(self.original_name) else dot + extension
            sink.suffix = extension_of(sink.content_type) or own

    # ---------------------------------------------------------------------------------------- one try

    def _try(self, sink: Sink) -> None:
        """Send one request and read the response; return when the file is complete."""
        condition = None if self._range_refused else sink.validator.condition
        headers = {}
        if sink.offset and condition:
            headers = {"Range": f"bytes={sink.offset}-", "If-Range": condition}
        with self.session.open(self.url, headers) as response:
            known = responses.lower_names(response.headers)
            self._check_status(response, known)
            announced = self._begin(response.status_code, known, sink, bool(headers))
            self._check_size(announced)
            self._copy(response, known, sink, from_start=response.status_code == 200)
        if announced is None and not responses.marks_its_end(known):
            announced = self._length_at_host(sink)
        if announced is not None and sink.offset != announced:
            raise InterruptedDownloadError(f"{sink.offset} of {announced} bytes arrived")

    def _length_at_host(self, sink: Sink) -> int:
        """
        Return the length of a file whose response had no length, so that the end proves nothing.

        :raises InterruptedDownloadError: if the host does not return a length.
        """
        for method, headers in (("GET", {"Range": f"bytes={sink.offset}-"}), ("HEAD", {})):
            with self.session.open(self.url, headers, method) as response:
                known = responses.lower_names(response.headers)
                length = responses.total_length(response.status_code, known)
            if length is not None:
                return length
        raise InterruptedDownloadError(
            f"the connection ended after {sink.offset} bytes, and the host does not say how long the file is"
        )

    def _check_status(self, response: requests.Response, headers: Mapping[str, str]) -> None:
        status = response.status_code
        if status in {200, 206}:
            return
        said = f"{without_query(self.url)} responded with {status}"
        if status == 416:
            self._range_refused = True
        elif status in responses.REFUSED:
            raise RefusedDownloadError(f"{said}: {without_query(quoted(response))}")
        response_read = api.Response(status, headers, b"")
        raise InterruptedDownloadError(said, api.retry_after_seconds(response_read, datetime.now(UTC)))

    def _begin(self, status: int, headers: Mapping[str, str], sink: Sink, asked_range: bool) -> int | None:
        """Return the announced length of the file, and check that the body continues where the sink stops."""
        responses.check_framing(headers)
        if status == 206:
            if (
                not asked_range
                or not responses.fits(headers, sink.offset, sink.validator)
                or responses.content_encoding(headers)
            ):
                self._range_refused = True
                raise InterruptedDownloadError("Content-Range does not match the requested Range")
            total = headers["content-range"].rpartition("/")[2]
            return int(total) if total != "*" else sink.validator.length
        length = responses.content_length(headers)
        if length == 0:
            raise InterruptedDownloadError("the file is announced as empty")
        return None if responses.content_encoding(headers) else length

    def _check_size(self, size: int | None) -> None:
        if self.max_bytes is not None and size is not None and size > self.max_bytes:
            raise MagicHourDownloadError(
                f"{self.shown}: the file is larger than max_bytes={self.max_bytes} ({size} bytes or more); "
                "raise it to store the file"
            )

    def _copy(
        self, response: requests.Response, headers: Mapping[str, str], sink: Sink, *, from_start: bool
    ) -> None:
        announced_type = responses.media_type(headers)
        total = sink.validator.length
        for chunk in self._chunks(response, headers, from_start=from_start, kind=announced_type):
            if from_start:
                encoded = bool(responses.content_encoding(headers))
                total = None if encoded else responses.content_length(headers)
                sink.restart(Validator() if encoded else responses.validator(headers, total))
                self._describe(sink, announced_type, chunk[: responses.HEAD])
                self._range_refused, from_start = False, False
            self._check_size(sink.offset + len(chunk))
            sink.write(chunk)
            self._progress.report(sink.offset, total)
            if self.stop.is_set():
                raise self._stopped()
        if from_start:  # the bytes in the sink are from an earlier try, not from this response
            raise InterruptedDownloadError("the response was empty")
        if not sink.content_type:
            self._describe(sink, announced_type, sink.head())

    def _chunks(
        self, response: requests.Response, headers: Mapping[str, str], *, from_start: bool, kind: str
    ) -> Iterator[bytes]:
        """Yield the body in pieces. The first one is large enough to recognise an error page."""
        pieces = _decoded(self._read(response), responses.content_encoding(headers))
        if from_start:
            first = b""
            for piece in pieces:
                first += piece
                if len(first) >= 512:
                    break
            reason = responses.error_page(self.original_name, kind, first)
            if reason:
                said = without_query(api.quoted_message(api.Response(200, {}, first)))
                raise RefusedDownloadError(f"{without_query(self.url)} gave {reason}: {said}")
            if first:
                yield first
        yield from pieces

    def _read(self, response: requests.Response) -> Iterator[bytes]:
        """Yield the bytes as they arrive. A connection that is too slow counts as broken."""
        since, read = time.monotonic(), 0
        while chunk := response.raw.read1(CHUNK, decode_content=False):
            yield chunk
            read += len(chunk)
            now = time.monotonic()
            if now - since > self.timeout:
                if read < MIN_SPEED * (now - since):
                    raise InterruptedDownloadError(f"only {read} bytes came in {now - since:.0f} s")
                since, read = now, 0
        missing = response.raw.length_remaining
        if missing:
            raise InterruptedDownloadError(f"the connection ended {missing} bytes too early")

    # ----------------------------------------------------------------------------------- between tries

    def _made_progress(self, sink: Sink) -> bool:
        """Return whether the last try made progress compared with all tries before."""
        made_progress = sink.offset >= self._farthest + MIN_PROGRESS
        self._farthest = max(self._farthest, sink.offset)
        return made_progress

    def _wait_after(self, error: Exception) -> None:
        if self.stop.is_set():
            raise self._stopped()
        what = without_query(str(error))
        if self._failures >= self.max_attempts:
            raise MagicHourDownloadError(
                f"{self.shown} could not be downloaded completely: {what} - {self._failures} tries in a row "
                "made no progress; a retry of the task continues from here"
            ) from None
        asked = getattr(error, "retry_after", None)
        seconds = min(retry.retry_wait(max(self._failures, 1), asked, random.random()), retry.MAX_RETRY_AFTER)
        log.warning("%s: %s; trying again in %.1f s", self.shown, what, seconds)
        self._pause(seconds)

    def _refresh_after(self, error: RefusedDownloadError) -> None:
        if self._refreshes > MAX_REFRESHES:
            raise MagicHourDownloadError(
                f"{self.shown} could not be fetched: {error} - {MAX_REFRESHES} fresh presigned "
                "URLs failed, too; check that the project still opens in the Magic Hour library, and that no "
                "proxy refuses it"
            ) from None
        log.warning("%s: %s; asking Magic Hour for a fresh presigned URL", self.shown, error)
        if self._refreshes > 1:
            self._pause(retry.retry_wait(self._refreshes, None, random.random()))
        self.url = self.fresh_url()

    def _pause(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise self._stopped()

    def _stopped(self) -> MagicHourDownloadError:
        return MagicHourDownloadError(f"{self.shown}: stopped, because the task ends")


def _decoded(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """
    Decode a body that a server encoded although no encoding was accepted.

    :raises MagicHourDownloadError: if it is not gzip or deflate.
    :raises InterruptedDownloadError: if the encoded bytes are broken or incomplete.
    """
    if not encoding:
        yield from pieces
        return
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        raise MagicHourDownloadError(
            f"unexpected Content-Encoding {encoding[:50]!r}: it was not asked for and cannot be decoded; "
            "check what a proxy in between does"
        )
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        for piece in pieces:
            rest = piece
            while rest:
                if decoder.eof:  # a gzip body may have several members, and zeros between them
                    if not (rest := rest.lstrip(b"\0")):
                        break
                    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
                if chunk := decoder.decompress(rest, CHUNK):
                    yield chunk
                rest = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
    except zlib.error as error:
        raise InterruptedDownloadError(f"the encoded file is broken: {error}") from None
    if not decoder.eof:
        raise InterruptedDownloadError("the encoded file is incomplete")


class _Progress:
    """Logs the progress of a download that takes longer."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._reported_at = time.monotonic()
        self._reported: int | None = None

    def report(self, done: int, total: int | None) -> None:
        """Log the progress, if the last line is old enough."""
        now = time.monotonic()
        if self._reported is None or done < self._reported:
            self._reported = done
        if now - self._reported_at < PROGRESS_INTERVAL:
            return
        speed = (done - self._reported) / (now - self._reported_at)
        line = f"{done / 1e6:.1f} MB at {speed / 1e6:.1f} MB/s"
        if total:
            left = f"{(total - done) / speed:.0f} s" if speed else "unknown"
            line = f"{100 * done / total:.0f} %, {line}, time left {left}"
        log.info("%s: %s", self._shown, line)
        self._reported, self._reported_at = done, now

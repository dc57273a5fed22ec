"""Downloads projects: all files in parallel, then the receipt."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from airflow_provider_magichour._client import api, stats
from airflow_provider_magichour._client.settings import Settings
from airflow_provider_magichour._transfer import receipts
from airflow_provider_magichour._transfer.absent import Absent
from airflow_provider_magichour._transfer.catalogue import Catalogue
from airflow_provider_magichour._transfer.fetch import Fetch, Fetched
from airflow_provider_magichour._transfer.file_names import (
    distinct,
    is_name_of,
    rendered_name,
    safe_name,
)
from airflow_provider_magichour._transfer.object_sink import ObjectSink
from airflow_provider_magichour._transfer.receipts import NewerReceiptError, Receipt, ReceiptError, Writer
from airflow_provider_magichour._transfer.responses import Validator
from airflow_provider_magichour._transfer.s3 import open_s3
from airflow_provider_magichour._transfer.session import DownloadSession
from airflow_provider_magichour._transfer.sinks import LocalSink, Sink, sweep
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour._transfer.storage_errors import storage_error
from airflow_provider_magichour.exceptions import (
    MagicHourDownloadError,
    MagicHourError,
    MagicHourNotFoundError,
)
from airflow_provider_magichour.tools import Kind

log = logging.getLogger(__name__)

#: How many projects are read or recorded at the same time, so that downloads do not wait for them.
AROUND = 16
#: Seconds that a task waits at its end for its threads to close their files.
STOP_TIMEOUT = 5.0
#: The most files of one project. Magic Hour's projects have only a few.
MAX_OUTPUTS = 1000

File = dict[str, Any]


class Output(NamedTuple):
    """One file of a project: its position in the outputs, its name, and its current presigned URL."""

    position: int
    name: str
    url: str


@dataclass
class Downloads:
    """
    Download projects into one destination.

    :param catalogue: the destination, and where to find and write receipts.
    :param get_project: reads a project from Magic Hour, with fresh presigned URLs.
    :param made: projects that this try of the task has created, so that they cannot be stored.
    :param overwrite: whether to download stored files again.
    :param max_bytes: the largest allowed file, None for no limit.
    :param parallel: how many files are downloaded at once.
    :param file_name: the template of the files' names, see :func:`file_names.check_file_name`; None for the
        names that Magic Hour gives.
    :param open_args: further arguments of the store's fsspec ``open``, such as ``ServerSideEncryption``.
    """

    catalogue: Catalogue
    writer: Writer
    settings: Settings
    get_project: Callable[[str], Mapping[str, Any]]
    kind: Kind
    write_receipts: bool = True
    made: Set[str] = frozenset()
    overwrite: bool = False
    max_bytes: int | None = None
    parallel: int = 8
    file_name: str | None = None
    open_args: Mapping[str, Any] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)

    @property
    def storage(self) -> Storage:
        """Return the destination."""
        return self.catalogue.destination

    def run(self, project_ids: Sequence[str]) -> list[list[File] | MagicHourError]:
        """Return, in the same order, the files of each project, or the error."""
        unique = list(dict.fromkeys(project_ids))
        self._s3 = open_s3(self.storage, self.open_args)
        if self._s3:
            self._s3.serve(self.storage, self.catalogue.root)
        self._slots = threading.Semaphore(self.parallel)
        self._files = ThreadPoolExecutor(self.parallel, "magichour-file")
        projects = ThreadPoolExecutor(self.parallel + AROUND, "magichour-project")
        with DownloadSession(
            self.settings.timeout, self.settings.allow_private_hosts, self.parallel
        ) as self._session:
            find = partial(self._s3.absent, self.storage.full("")) if self._s3 else None
            self._absent = Absent(self.made, unique, find)
            running = [projects.submit(self._project_or_error, one) for one in unique]
            try:
                results = {one: future.result() for one, future in zip(unique, running, strict=True)}
            except BaseException:
                self._end(running)
                raise
            finally:
                for pool in (projects, self._files):
                    pool.shutdown(wait=False, cancel_futures=True)
                if self._s3:
                    self._s3.close()
        return [results[project_id] for project_id in project_ids]

    def _end(self, running: Sequence[Future[Any]]) -> None:
        """Stop the threads at their next read or write, because the task ends."""
        self._stop.set()
        self._session.stop()
        for one in running:
            one.cancel()
        wait(running, STOP_TIMEOUT)

    def _project_or_error(self, project_id: str) -> list[File] | MagicHourError:
        if self._stop.is_set():
            return self._stopped(project_id)
        try:
            return self._project(project_id)
        except MagicHourError as error:
            if isinstance(error, MagicHourDownloadError) and error.project_id is None:
                return MagicHourDownloadError(str(error), project_id)
            return error
        except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
            return storage_error(error, self.storage.shown(project_id), project_id)

    # ------------------------------------------------------------------------------------- one project

    def _project(self, project_id: str) -> list[File]:
        project = self._get_if_there(project_id)
        is_gone = isinstance(project, MagicHourNotFoundError) or project.get("enabled") is False
        # another task may have stored the deleted project after the list was made
        is_new = not is_gone and self._absent.includes(project_id)
        sizes = {} if is_new else self.storage.sizes(project_id)
        receipt = self._trusted_receipt(project_id, project, sizes) if sizes else None
        if receipt and not self.overwrite and self._is_whole(receipt, sizes, project):
            log.info("Project %s is already stored completely: nothing to download", project_id)
            self._sweep(project_id)
            return receipts.saved_files(self.storage, receipt.files)
        if isinstance(project, MagicHourNotFoundError):
            raise project
        outputs = self._outputs(project, project_id)
        fetched = self._fetch_all(project_id, outputs, receipt, sizes)
        if self.write_receipts:
            self.catalogue.add_download(
                project, project_id, self.kind, self.writer, files=fetched, replaced=receipt
            )
        self._sweep(project_id)
        return receipts.saved_files(self.storage, fetched)

    def _is_whole(
        self,
        receipt: Receipt,
        sizes: Mapping[str, int],
        project: Mapping[str, Any] | MagicHourNotFoundError,
    ) -> bool:
        """Return whether all files are stored, and the project names no further ones since its download."""
        named = project.get("downloads") if isinstance(project, Mapping) else None
        has_more = isinstance(named, list) and len(named) > len(receipt.files)
        return receipts.is_whole(receipt, sizes) and not has_more

    def _get_if_there(self, project_id: str) -> Mapping[str, Any] | MagicHourNotFoundError:
        """Return a project, or the error if it is deleted. Its files may be stored anyway."""
        try:
            return self.get_project(project_id)
        except MagicHourNotFoundError as error:
            return error

    def _sweep(self, project_id: str) -> None:
        """Remove the partial files of killed tasks, now that the files are complete."""
        if self.storage.is_local:
            sweep(self.storage.local(project_id), self.storage.names(project_id))

    def _trusted_receipt(
        self,
        project_id: str,
        project: Mapping[str, Any] | MagicHourNotFoundError,
        sizes: Mapping[str, int],
    ) -> Receipt | None:
        try:
            receipt = self.catalogue.find_here(project_id, project, sizes)
        except NewerReceiptError as error:
            raise MagicHourDownloadError(
                f"{self.storage.shown(project_id)} and its receipt are left as they are: {error}, or use "
                "another destination",
                project_id,
            ) from None
        except ReceiptError as error:
            log.warning("Project %s is fetched again: %s", project_id, error)
            return None
        if receipt and receipt.kind != self.kind:
            raise MagicHourDownloadError(
                f"{self.storage.shown(project_id)} holds the {receipt.kind} project of this id: store "
                f"{self.kind} projects under another destination, or correct the kind",
                project_id,
            )
        return receipt

    def _fetch_all(
        self,
        project_id: str,
        outputs: Sequence[Output],
        receipt: Receipt | None,
        sizes: Mapping[str, int],
    ) -> list[File]:
        """Download the missing and incomplete files in parallel. All end before an error is raised."""
        can_keep = not self.overwrite and self._are_names_certain(outputs)
        known = {file["path"]: file for file in receipt.files} if receipt and can_keep else {}

        def fetch(output: Output) -> File:
            stored = [
                file
                for path, file in known.items()
                if is_name_of(_name(path), output.name) and sizes.get(_name(path)) == file["bytes"]
            ]
            return dict(stored[0]) if stored else self._fetch(project_id, output, can_resume=can_keep)

        if len(outputs) == 1:
            return [fetch(outputs[0])]
        futures = [self._files.submit(fetch, output) for output in outputs]
        errors = [error for error in (future.exception() for future in futures) if error is not None]
        if errors:
            for other in errors[1:]:
                errors[0].add_note(f"also: {other}")
            raise errors[0]
        return [future.result() for future in futures]

    def _are_names_certain(self, outputs: Sequence[Output]) -> bool:
        """Return whether a name belongs to one output, whatever the order of the API's list is."""
        names = [safe_name(output.url) for output in outputs]
        return len(outputs) == 1 or (self.file_name is None and distinct(names) == names)

    def _fetch(self, project_id: str, output: Output, *, can_resume: bool) -> File:
        with self._slots:
            if self._stop.is_set():
                raise self._stopped(project_id)
            return self._fetch_now(project_id, output, can_resume=can_resume)

    def _stopped(self, project_id: str) -> MagicHourDownloadError:
        return MagicHourDownloadError("stopped, because the task ends", project_id)

    def _fetch_now(self, project_id: str, output: Output, *, can_resume: bool) -> File:
        path = f"{project_id}/{output.name}"
        shown = self.storage.shown(path)
        sink = self._open_sink(project_id, path, can_resume=can_resume)
        started = time.monotonic()
        try:
            fetched = Fetch(
                session=self._session,
                url=output.url,
                fresh_url=lambda: self._fresh_url(project_id, output),
                name=output.name,
                original_name=safe_name(output.url),
                shown=shown,
                timeout=self.settings.timeout,
                max_attempts=self.settings.max_attempts,
                max_bytes=self.max_bytes,
                stop=self._stop,
            ).into(sink)
        except MagicHourError:
            sink.close()
            raise
        except Exception as error:
            sink.discard()
            raise storage_error(error, shown, project_id) from error
        except BaseException:
            sink.close()
            raise
        path += fetched.suffix
        shown = self.storage.shown(path)
        seconds = max(time.monotonic() - started, 0.001)
        log.info(
            "Stored %s: %d bytes in %.1f s (%.1f MB/s), sha256 %s",
            shown,
            fetched.bytes,
            seconds,
            fetched.bytes / seconds / 1e6,
            fetched.sha256,
        )
        tool = self.writer.facts.get(project_id, {}).get("tool")
        stats.count("download_bytes", fetched.bytes, kind=self.kind, tool=tool)
        return _file(path, fetched)

    def _open_sink(self, project_id: str, path: str, *, can_resume: bool) -> Sink:
        if not self.storage.is_local:
            return ObjectSink(self.storage, path, self.open_args, self._s3, project_id)
        self.storage.make_folder(project_id)
        sink = LocalSink(self.storage.local(path))
        if not can_resume:
            sink.restart(Validator())
        return sink

    def _outputs(self, project: Mapping[str, Any], project_id: str) -> list[Output]:
        """Return the files of a complete project, with their names from the template."""
        outputs = outputs_of(project, project_id)
        if self.file_name is None:
            return outputs
        facts = {
            "name": project.get("name"),
            **self.writer.facts.get(project_id, {}),
            "project_id": project_id,
            "kind": self.kind,
        }
        names = distinct(rendered_name(self.file_name, one.name, one.position + 1, facts) for one in outputs)
        return [one._replace(name=name) for one, name in zip(outputs, names, strict=True)]

    def _fresh_url(self, project_id: str, output: Output) -> str:
        outputs = outputs_of(self.get_project(project_id), project_id)
        for what in (_path, safe_name):  # the order may be another one now
            same = [other for other in outputs if what(other.url) == what(output.url)]
            if len(same) == 1:
                return same[0].url
        if len(outputs) == 1 and output.position == 0:
            return outputs[0].url
        raise MagicHourDownloadError(
            f"The project's presigned URLs do not show which file is {output.name}; a retry reads all again",
            project_id,
        )


def outputs_of(project: Mapping[str, Any], project_id: str) -> list[Output]:
    """
    Return the files of a complete project, each with its own safe name.

    :raises MagicHourError: if the project failed, is not complete, or has no files.
    """
    if error := api.project_error(project):
        raise error
    status = project.get("status")
    if status != "complete":
        raise MagicHourDownloadError(
            f"Project {project_id} is not complete but {status!r}: wait for it first, with "
            "MagicHourProjectSensor or hook.wait_for_project",
            project_id,
        )
    downloads = project.get("downloads")
    downloads = downloads if isinstance(downloads, list) else []
    urls: list[Any] = [one.get("url") if isinstance(one, Mapping) else None for one in downloads]
    if not urls or not all(isinstance(url, str) and url for url in urls):
        raise MagicHourDownloadError(
            f"Project {project_id} is complete, but Magic Hour names no download for it: "
            "check it in the library, https://magichour.ai/my-library",
            project_id,
        )
    if len(urls) > MAX_OUTPUTS:
        raise MagicHourDownloadError(
            f"Project {project_id} has {len(urls)} files, more than {MAX_OUTPUTS}: Magic Hour makes no such",
            project_id,
        )
    made = project.get("image_count")
    if type(made) is int and made > len(urls):
        log.warning("Magic Hour made %d images of project %s and names %d", made, project_id, len(urls))
    names = distinct(safe_name(url) for url in urls)
    return [Output(position, name, url) for position, (name, url) in enumerate(zip(names, urls, strict=True))]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _path(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return url


def _file(path: str, fetched: Fetched) -> File:
    return {
        "path": path,
        "bytes": fetched.bytes,
        "sha256": fetched.sha256,
        "content_type": fetched.content_type,
    }

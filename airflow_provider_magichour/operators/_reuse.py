"""
Results of other runs that need not be paid for again (``reuse=True``).

Each result is an object below ``.magichour/reuse/{key}``, whose key names the tool, the body with the
contents of its files, and the destination.
"""

from __future__ import annotations

import hashlib
import json
import logging
import posixpath
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_magichour._client import api
from airflow_provider_magichour._transfer.body_files import find_assets
from airflow_provider_magichour._transfer.storage import open_destination
from airflow_provider_magichour._validation import check_id
from airflow_provider_magichour.exceptions import MagicHourError, MagicHourSubmitRecordError
from airflow_provider_magichour.operators._fingerprints import digest, with_files, without_signature
from airflow_provider_magichour.operators._submit_records import Submitted

if TYPE_CHECKING:
    from airflow_provider_magichour._transfer.storage import Storage

log = logging.getLogger(__name__)

#: The folder of results, relative to the root.
FOLDER = ".magichour/reuse"
#: Look-ups in the store side by side.
MAX_PARALLEL = 8
#: The largest entry that is read, in bytes.
MAX_ENTRY = 4 * 1024 * 1024
#: What object stores call a content's checksum.
_CHECKSUMS = ("ETag", "etag", "md5Hash", "content_md5", "checksum")


class _Entry(NamedTuple):
    """A result that is stored, and whether all its files are there."""

    project_id: str
    result: dict[str, Any]
    is_whole: bool


class StoredResults:
    """
    The results of one tool in one destination.

    :param root: where the entries lie.
    :param destination: where the files lie.
    :param tool_and_kind: the tool, and the kind of its projects.
    :param get_project: returns a project's details.
    :param keys: by position, the keys under which results of this task are stored, where they are known.
    """

    def __init__(
        self,
        root: Storage,
        destination: str,
        tool_and_kind: tuple[str, str],
        get_project: Callable[[str], Mapping[str, Any]],
        keys: Mapping[str, str],
    ) -> None:
        self._root = root
        self._destination = open_destination(destination)
        self._tool_and_kind = tool_and_kind
        self._get_project = get_project
        self._checksums: dict[str, str] = {}
        self.keys = {int(position): key for position, key in keys.items()}

    def key(self, body: Mapping[str, Any]) -> str:
        """
        Return what names a body's result.

        :raises MagicHourError: if a file that the body names cannot be read.
        """
        files = {value for value, _ in find_assets(body)}
        for file in files:
            if file not in self._checksums:
                self._checksums[file] = checksum(file)
        named = with_files(body, lambda text: self._checksums.get(text) or without_signature(text))
        return digest([*self._tool_and_kind, named, self._destination.shown("")])

    def find(self, bodies: Mapping[int, dict[str, Any]], taken: Collection[str]) -> dict[int, Submitted]:
        """
        Return by position the results that need not be paid for: n equal bodies are n different ones.

        :param taken: projects that are results of this task already.
        :raises MagicHourSubmitRecordError: if the store cannot be read.
        """
        keys: dict[str, list[int]] = defaultdict(list)
        for position, body in bodies.items():
            try:
                keys[self.key(body)].append(position)
            except MagicHourError as error:  # the upload says what is wrong with the file
                log.info("There is no key for body[%d]: %s", position, error)
        found: dict[int, Submitted] = {}
        with ThreadPoolExecutor(MAX_PARALLEL, thread_name_prefix="magichour-reuse") as executor:
            for positions, entries in zip(keys.values(), executor.map(self._entries, keys), strict=True):
                usable = self._usable(entry for entry in entries if entry.project_id not in taken)
                found.update(zip(positions, usable, strict=False))
        saved = sum(one.credits_charged or 0 for one in found.values() if one.result)
        if found:
            log.info(
                "Reusing %d of %d results, %g credits saved: %s",
                len(found),
                len(bodies),
                saved,
                ", ".join(one.id for one in list(found.values())[:10]),
            )
        return found

    def set_keys(
        self, bodies: Sequence[dict[str, Any]], outcomes: Sequence[Submitted | MagicHourError]
    ) -> None:
        """
        Set the keys of the results to come.

        A project of an earlier try has none where its body names files, which may have been others then.
        """
        for position, (body, outcome) in enumerate(zip(bodies, outcomes, strict=True)):
            if isinstance(outcome, Submitted) and (outcome.is_new or outcome.result or not find_assets(body)):
                self.keys[position] = self.key(body)

    def result_of(self, position: int, project_id: str) -> Mapping[str, Any] | None:
        """Return a stored result, None where there is none."""
        path = f"{FOLDER}/{self.keys.get(position)}/{project_id}.json"
        entry = self._entry(self._root.read(path, MAX_ENTRY))
        return {**entry.result, "reused": True} if entry else None

    def store(self, position: int, result: Mapping[str, Any]) -> None:
        """Store a result for later runs; that it fails costs no more than another submit some day."""
        if position not in self.keys:
            return
        project_id = check_id(str(result["project"].get("id")), "id")
        path = f"{FOLDER}/{self.keys[position]}/{project_id}.json"
        try:
            self._root.write(path, json.dumps({"version": 1, "result": result}, default=str).encode())
        except Exception as error:  # noqa: BLE001  # stores raise whatever their libraries do
            log.warning("Could not store %s for reuse: %s", self._root.shown(path), type(error).__name__)

    def _usable(self, entries: Iterator[_Entry]) -> Iterator[Submitted]:
        """Give the results whose files are there, then those that can be fetched again."""
        for entry in sorted(entries, key=lambda one: not one.is_whole):
            charged = entry.result["project"].get("credits_charged")
            if entry.is_whole:
                result = {**entry.result, "reused": True}
                yield Submitted(entry.project_id, charged, is_finished=True, result=result)
            elif self._is_complete(entry.project_id):
                log.warning("A file of project %s is gone or damaged: fetching it again.", entry.project_id)
                yield Submitted(entry.project_id, charged, is_finished=True)

    def _is_complete(self, project_id: str) -> bool:
        try:
            project = self._get_project(project_id)
        except MagicHourError as error:
            log.info("Project %s cannot be fetched again: %s", project_id, error)
            return False
        return project.get("status") == "complete" and api.project_error(project) is None

    def _entries(self, key: str) -> list[_Entry]:
        folder = f"{FOLDER}/{key}"
        try:
            names = sorted(self._root.names(folder))
            texts = [
                self._root.read(f"{folder}/{name}", MAX_ENTRY) for name in names if name.endswith(".json")
            ]
            return [entry for text in texts if (entry := self._entry(text)) is not None]
        except Exception as error:
            raise MagicHourSubmitRecordError(
                f"{self._root.shown(folder)} could not be read: {type(error).__name__}: {error}. Nothing was "
                "submitted; a retry may pass"
            ) from error

    def _entry(self, text: bytes | None) -> _Entry | None:
        """Read an entry, which anybody may have written."""
        try:
            result = json.loads(text or b"")["result"]
            project_id = check_id(result["project"]["id"], "id")
            sizes = {self._relative(str(file["path"])): int(file["bytes"]) for file in result["files"]}
        except (ValueError, TypeError, KeyError):
            return None
        return _Entry(project_id, result, bool(sizes) and self._is_whole(sizes))

    def _relative(self, path: str) -> str:
        """
        Return a path relative to the destination.

        :raises ValueError: if it is outside.
        """
        below = self._destination.shown("").rstrip("/") + "/"
        relative = path.removeprefix(below)
        if not path.startswith(below) or ".." in relative.split("/"):
            raise ValueError(path)
        return relative

    def _is_whole(self, sizes: Mapping[str, int]) -> bool:
        folders = {posixpath.dirname(path) for path in sizes}
        there = {
            posixpath.join(folder, name): size
            for folder in folders
            for name, size in self._destination.sizes(folder).items()
        }
        return all(there.get(path) == size for path, size in sizes.items())


def checksum(source: str) -> str:
    """
    Return what names a file's contents: the object store's own checksum, or the SHA-256 of its bytes.

    :raises MagicHourError: if there is no such file, or it cannot be read.
    """
    storage = open_destination(source, "source")
    try:
        if storage.fs is not None:
            details = storage.fs.info(storage.root)
            for name in _CHECKSUMS:
                if details.get(name):
                    return f"{name.lower()}:{details[name]}"
        content = hashlib.sha256()
        for chunk in storage.chunks(""):
            content.update(chunk)
    except Exception as error:
        raise MagicHourError(f"{source!r} cannot be read: {type(error).__name__}: {error}") from error
    return f"sha256:{content.hexdigest()}"

"""
Results of other runs that need not be paid for again (``reuse=True``).

The entry of a project in the catalogue holds the fingerprint of its body, with the contents of its files. A
task that looks for one reads each day's entries once, and leaves what it found as the day's index:
``.magichour/reuse/{day}.json``, the fingerprint by the name of the entry. Other tasks pay nothing for it.
"""

from __future__ import annotations

import json
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour._client import api
from airflow_provider_magichour._transfer import catalogue, receipts
from airflow_provider_magichour._transfer.body_files import find_assets
from airflow_provider_magichour._transfer.catalogue import Entry
from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour._transfer.receipts import ReceiptError
from airflow_provider_magichour.exceptions import (
    MagicHourError,
    MagicHourNotFoundError,
    MagicHourSubmitRecordError,
)
from airflow_provider_magichour.operators._bodies import digest, with_files, without_signature
from airflow_provider_magichour.operators._submit_record import BODY_DIGITS, Submitted

if TYPE_CHECKING:
    from airflow_provider_magichour._transfer.receipts import Receipt
    from airflow_provider_magichour._transfer.storage import Storage
    from airflow_provider_magichour.operators._earlier_tries import Ask

log = logging.getLogger(__name__)

#: The folder of the indexes, relative to the root.
FOLDER = ".magichour/reuse"
#: How many requests to the store run in parallel.
MAX_PARALLEL = 16
#: The largest index that is read, in bytes.
MAX_INDEX = 64 * 1024 * 1024
#: After so many days, a day gets no more entries.
CLOSED_AFTER = timedelta(days=8)
#: The names of checksums in object stores.
_CHECKSUMS = ("ETag", "etag", "md5Hash", "content_md5", "checksum")
#: The fields of a result whose project is not requested any more.
_PROJECT_FIELDS = ("type", "name", "status", "created_at", "credits_charged")


class StoredResults:
    """
    The results of one tool in one destination.

    :param tool_and_kind: the tool, and the kind of its projects.
    :param account_id: returns the account of the key, None if it cannot be read.
    """

    def __init__(
        self,
        root: Storage,
        destination: Storage,
        tool_and_kind: tuple[str, str],
        account_id: Callable[[], str | None],
    ) -> None:
        self._root = root
        self._destination = destination
        self._tool_and_kind = tool_and_kind
        self._account_id = account_id
        self._checksums: dict[str, str] = {}
        #: By position, the fingerprints of the task's bodies, if they are known.
        self.keys: dict[int, str] = {}

    def key(self, body: Mapping[str, Any]) -> str:
        """
        Return the fingerprint of a body with the contents of its files.

        :raises MagicHourError: if a file in the body cannot be read.
        """
        for file, _ in find_assets(body):
            if file not in self._checksums:
                self._checksums[file] = checksum(file)
        named = with_files(body, lambda text: self._checksums.get(text) or without_signature(text))
        return digest([*self._tool_and_kind, named])[:BODY_DIGITS]

    def find(
        self, bodies: Mapping[int, dict[str, Any]], taken: Collection[str], ask: Ask
    ) -> dict[int, Submitted]:
        """
        Return, by position, the earlier results. Several equal bodies get different results.

        :param taken: projects that are already results of this task.
        :param ask: requests the projects whose files are damaged.
        :raises MagicHourSubmitRecordError: if the store cannot be read.
        """
        keys: dict[str, list[int]] = defaultdict(list)
        for position, body in bodies.items():
            try:
                keys[self.key(body)].append(position)
            except MagicHourError as error:  # the upload raises the error about the file
                log.info("There is no fingerprint of body[%d]: %s", position, error)
        found: dict[int, Submitted] = {}
        damaged: dict[int, Receipt] = {}
        try:
            _ = self._index  # once, not in each thread
            with ThreadPoolExecutor(MAX_PARALLEL, thread_name_prefix="magichour-reuse") as executor:
                stored = executor.map(lambda key: self._stored(key, len(keys[key]), taken), keys)
                for positions, (whole, others) in zip(keys.values(), stored, strict=True):
                    found.update(zip(positions, whole, strict=False))
                    damaged.update(zip(positions[len(whole) :], others, strict=False))
        except MagicHourError:
            raise
        except Exception as error:
            raise MagicHourSubmitRecordError(
                f"The catalogue at {self._root.shown(catalogue.FOLDER)} could not be read: "
                f"{type(error).__name__}: {error}. Nothing was submitted; a retry may succeed"
            ) from error
        found |= self._fetch_again(damaged, ask)
        if found:
            log.info(
                "Reusing %d of %d results, %g credits saved: %s",
                len(found),
                len(bodies),
                sum(one.credits_charged or 0 for one in found.values() if one.result),
                ", ".join(one.id for one in list(found.values())[:10]),
            )
        return found

    def set_keys(
        self, bodies: Sequence[dict[str, Any]], outcomes: Sequence[Submitted | MagicHourError]
    ) -> None:
        """
        Set the fingerprints of the later results.

        A project of an earlier try has none if its body contains files, because the files may have changed
        since.
        """
        for position, (body, outcome) in enumerate(zip(bodies, outcomes, strict=True)):
            if isinstance(outcome, Submitted) and (outcome.is_new or outcome.result or not find_assets(body)):
                try:
                    self.keys[position] = self.key(body)
                except MagicHourError as error:  # it was uploaded, but does not exist any more
                    log.info("There is no fingerprint of body[%d]: %s", position, error)

    def result_of(self, position: int, project_id: str) -> Mapping[str, Any] | None:
        """Return a stored result, or None."""
        for entry in self._index.get(self.keys.get(position, ""), ()):
            if entry.project_id == project_id and (receipt := self._read(entry, self.keys[position])):
                return self._result(receipt)
        return None

    # --------------------------------------------------------------------------------------------- results

    def _stored(self, key: str, count: int, taken: Collection[str]) -> tuple[list[Submitted], list[Receipt]]:
        """Return so many results with complete files, and the results with damaged files that came before."""
        whole: list[Submitted] = []
        damaged: list[Receipt] = []
        for entry in self._index.get(key, ()):
            if len(whole) == count:
                break
            if entry.project_id in taken or (receipt := self._read(entry, key)) is None:
                continue
            if receipts.is_whole(receipt, self._destination.sizes(receipt.project_id)):
                whole.append(_finished(receipt, self._result(receipt)))
            else:
                damaged.append(receipt)
        return whole, damaged

    def _result(self, receipt: Receipt) -> dict[str, Any]:
        project = {name: receipt.data.get(name) for name in _PROJECT_FIELDS}
        return {
            "project": {"id": receipt.project_id, **project, "kind": receipt.kind},
            "files": receipts.saved_files(self._destination, receipt.files),
            "reused": True,
        }

    def _fetch_again(self, damaged: Mapping[int, Receipt], ask: Ask) -> dict[int, Submitted]:
        """
        Return, by position, the results with damaged files whose projects still exist at Magic Hour.

        :raises MagicHourError: if this is not certain for a project, because paying again could pay twice.
        """
        asked = list(damaged.values())
        ids = [receipt.project_id for receipt in asked]
        responses = ask(ids, lambda n: not self._is_ours(asked[n])) if ids else []
        found: dict[int, Submitted] = {}
        for (position, receipt), project in zip(damaged.items(), responses, strict=True):
            if isinstance(project, MagicHourNotFoundError) and self._is_ours(receipt):
                log.info("Project %s cannot be fetched again: %s", receipt.project_id, project)
            elif isinstance(project, MagicHourError):
                raise MagicHourError(
                    f"A file of project {receipt.project_id} is missing or damaged, and it is not certain "
                    f"whether it can be fetched again: {project}. Nothing was submitted; a retry may succeed"
                ) from project
            elif project.get("status") == "complete" and api.project_error(project) is None:
                log.warning("A file of project %s is missing or damaged: downloading it.", receipt.project_id)
                found[position] = _finished(receipt, None)
        return found

    def _is_ours(self, receipt: Receipt) -> bool:
        """Return whether the key belongs to the account of the project. Other accounts do not see it."""
        return receipt.account_id in (None, self._account_id())

    # --------------------------------------------------------------------------------------------- entries

    def _read(self, entry: Entry, key: str) -> Receipt | None:
        """Read an entry, which anybody may have written; None if it does not match."""
        try:
            receipt = catalogue.read(self._root, entry.path, entry.project_id)
        except ReceiptError:
            return None
        if receipt is None or receipt.data.get("body_fingerprint") != key:
            return None
        return receipt if receipt.is_at(self._root, self._destination) else None

    @cached_property
    def _index(self) -> dict[str, list[Entry]]:
        """The entries by their fingerprints, the newest first."""
        index: dict[str, list[Entry]] = defaultdict(list)
        with ThreadPoolExecutor(MAX_PARALLEL) as days, ThreadPoolExecutor(MAX_PARALLEL) as reads:
            for day in days.map(lambda day: self._day(day, reads), reversed(catalogue.days(self._root))):
                for entry, fingerprint in reversed(day):
                    index[fingerprint].append(entry)
        return index

    def _day(self, day: str, executor: ThreadPoolExecutor) -> list[tuple[Entry, str]]:
        """Return the entries of a day that have a fingerprint, and add missing ones to its index."""
        path = f"{FOLDER}/{day}.json"
        known, is_closed = self._read_index(path)
        if not is_closed:
            new = [one for one in catalogue.entries(self._root, day) if _name(one) not in known]
            known |= zip(map(_name, new), executor.map(self._fingerprint, new), strict=True)
            is_closed = day < f"{datetime.now(UTC) - CLOSED_AFTER:%Y-%m-%d}"
            if new or is_closed:
                self._write_index(path, {"version": 1, "closed": is_closed, "entries": known})
        parts = [(*name.partition("-"), known[name]) for name in sorted(known)]
        return [(Entry(day, time, one), fingerprint) for time, _, one, fingerprint in parts if fingerprint]

    def _fingerprint(self, entry: Entry) -> str:
        try:
            receipt = catalogue.read(self._root, entry.path, entry.project_id)
        except ReceiptError:
            return ""
        return str((receipt and receipt.data.get("body_fingerprint")) or "")

    def _read_index(self, path: str) -> tuple[dict[str, str], bool]:
        """Read the index of a day. Anybody may have written it, so each entry is read before it is used."""
        try:
            value = json.loads(self._root.read(path, MAX_INDEX) or b"{}")
            entries = {name: str(fingerprint) for name, fingerprint in value.get("entries", {}).items()}
            known = {name: each for name, each in entries.items() if re.match(r"\d{6}-.", name, re.ASCII)}
            return known, value.get("closed") is True
        except (ValueError, AttributeError):
            return {}, False

    def _write_index(self, path: str, value: Mapping[str, Any]) -> None:
        try:
            self._root.write(path, json.dumps(value).encode(), sync=False)
        except Exception as error:  # noqa: BLE001  # stores raise whatever their libraries do
            log.warning("Could not write %s: %s", self._root.shown(path), type(error).__name__)


def _finished(receipt: Receipt, result: Mapping[str, Any] | None) -> Submitted:
    charged = receipt.data.get("credits_charged")
    return Submitted(receipt.project_id, charged, is_finished=True, result=result)


def _name(entry: Entry) -> str:
    return f"{entry.time}-{entry.project_id}"


def checksum(source: str) -> str:
    """
    Return an identifier of a file's content: the checksum of the object store, or the SHA-256 of its bytes.

    :raises MagicHourError: if there is no such file, or it cannot be read.
    """
    storage = open_destination(source, "source")
    try:
        if storage.fs is not None:
            details = storage.fs.info(storage.root)
            for name in _CHECKSUMS:
                if details.get(name):
                    return f"{name.lower()}:{details[name]}"
        return f"sha256:{storage.sha256('')}"
    except Exception as error:
        raise MagicHourError(f"{source!r} cannot be read: {type(error).__name__}: {error}") from error

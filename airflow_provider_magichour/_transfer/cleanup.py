"""
Decides which projects may be deleted at Magic Hour, and deletes them in batches.

For each batch, the receipts and files are checked, then the projects are deleted, and then the deletions are
recorded. After an interruption, the next run finds the projects again whose deletion is not recorded, and
finds that they are deleted. While one batch is deleted, the next one is checked and the previous one is
recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Protocol

from airflow_provider_magichour._client import api
from airflow_provider_magichour._client.kinds import not_gone_reason
from airflow_provider_magichour._transfer import receipts
from airflow_provider_magichour._transfer.candidates import Candidates
from airflow_provider_magichour._transfer.receipts import Receipt, ReceiptError
from airflow_provider_magichour.exceptions import (
    MagicHourApiError,
    MagicHourAuthenticationError,
    MagicHourConnectionError,
    MagicHourError,
    MagicHourNotFoundError,
)

log = logging.getLogger(__name__)

#: The sizes of batches. The first ones are small, in case Magic Hour is down.
FIRST_BATCH, BATCH = 50, 1000
#: How many receipts are read or written at once.
PARALLEL = 16


class Hook(Protocol):
    """The methods of the hook that a clean-up needs."""

    @property
    def account_id(self) -> str | None:
        """Return the account that the key belongs to."""

    def send_all(self, calls: Sequence[api.Request]) -> list[Any]:
        """Send calls in parallel."""
        ...

    def explain_not_found(self, kind: str, project_ids: Sequence[str]) -> Mapping[str, MagicHourError]:
        """Request projects under the other kinds."""
        ...


@dataclass
class Row:
    """
    The result for a project that was due.

    :param outcome: ``deleted``, ``missing`` or ``kept``; before the delete, ``due``.
    :param receipt: its receipt, if it can be trusted.
    """

    source: Candidates
    candidate: Any
    outcome: str
    reason: str = ""
    receipt: Receipt | None = None

    def keep(self, reason: str) -> None:
        """Keep the project."""
        self.outcome, self.reason = "kept", reason


@dataclass
class Cleanup:
    """
    One run of the clean-up at one place.

    :param sources: the records at this place.
    :param account_id: the account whose projects are deleted. A 404 for another account does not count.
    :param connections: the connections whose downloads are deleted.
    :param before: downloads before this time are due.
    :param limit: how many projects to delete at most, None for all.
    :param report: called with each batch's rows.
    """

    hook: Hook
    sources: Sequence[Candidates]
    account_id: str
    connections: frozenset[str]
    before: datetime
    dry_run: bool
    limit: int | None
    check_sha256: bool
    report: Callable[[Sequence[Row]], None]
    #: The error that stopped the run early, or None.
    stopped: MagicHourError | None = None
    #: Whether all candidates were processed.
    is_complete: bool = False

    def run(self) -> None:
        """Delete the due projects, those of the oldest days first."""
        candidates = ((source, one) for source in self.sources for one in source.due(self.before))
        left, recording = self.limit, list[Future[None]]()
        with ThreadPoolExecutor(PARALLEL, "magichour-receipts") as pool, ThreadPoolExecutor(1) as ahead:
            rows, size = self._check(pool, candidates, _size(FIRST_BATCH, left)), BATCH
            while rows is not None:
                due = [row for row in rows if row.outcome == "due"]
                following = None
                if left is None or len(due) < left:
                    rest = None if left is None else left - len(due)
                    following = ahead.submit(self._check, pool, candidates, _size(size, rest))
                self._delete(pool, due)
                wait(recording)
                recording = [] if self.dry_run else [pool.submit(self._record, row) for row in due]
                left = None if left is None else left - sum(row.outcome != "kept" for row in due)
                self.report(rows)
                if self.stopped or left == 0:
                    break
                if following is None:  # some were kept in the end, so the limit allows more
                    following = ahead.submit(self._check, pool, candidates, _size(size, left))
                rows = following.result()
            self.is_complete = rows is None
            wait(recording)

    # ------------------------------------------------------------------------------------------- check

    def _check(
        self, pool: ThreadPoolExecutor, candidates: Iterator[tuple[Candidates, Any]], size: int
    ) -> list[Row] | None:
        """Return the due projects of the next candidates; None if there are no more candidates."""
        batch = list(islice(candidates, size))
        if not batch:
            return None
        return [row for row in pool.map(self._row_of, batch) if row is not None]

    def _row_of(self, source_and_candidate: tuple[Candidates, Any]) -> Row | None:
        source, candidate = source_and_candidate
        row = Row(source, candidate, "due")
        try:
            row.receipt = source.read(candidate)
            if row.receipt is None and not self.dry_run:
                source.forget(candidate)
            if row.receipt is None or not self._is_due(row.receipt):
                return None
            if reason := self._reason_to_keep(source, candidate, row.receipt):
                row.keep(reason)
        except ReceiptError as error:
            row.keep(str(error))
        except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
            row.keep(f"its receipt or its files could not be read: {type(error).__name__}: {error}")
        return row

    def _is_due(self, receipt: Receipt) -> bool:
        made = receipts.time_of_creation(receipt.data)  # by Magic Hour's clock: the worker's may be wrong
        is_old = made is None or made <= self.before or made > datetime.now(UTC)
        return receipt.conn_id in self.connections and receipt.downloaded_at <= self.before and is_old

    def _reason_to_keep(self, source: Candidates, candidate: Any, receipt: Receipt) -> str | None:
        """Return why a due project may not be deleted, or None if its files are saved."""
        if receipt.account_id not in {None, self.account_id}:
            return (
                f"it belongs to the account {receipt.account_id}, but the connection's key to the account "
                f"{self.account_id}"
            )
        storage = source.files_of(receipt)
        if storage is None:
            return f"its files are in {receipt.destination}, which is not below the clean-up's destination"
        moved = source.moved_files(candidate, receipt)
        return receipts.missing_file(storage, receipt, moved, check_sha256=self.check_sha256)

    # ------------------------------------------------------------------------------------------ delete

    def _delete(self, pool: ThreadPoolExecutor, due: Sequence[Row]) -> None:
        """Delete projects at Magic Hour. A project that cannot be deleted is kept."""
        unknown = [row for row in due if row.receipt and row.receipt.account_id is None]
        responses = self._ask(unknown, api.get_project)
        for row, response in zip(unknown, responses, strict=True):
            if isinstance(response, Mapping) and response.get("enabled") is False:
                row.outcome = "missing"
            elif isinstance(response, MagicHourNotFoundError):
                row.keep(
                    "its receipt names no account, and the account of the connection's key has no such "
                    "project: it belongs to another account, or is gone. If it is gone, delete it by its id "
                    "with MagicHourDeleteProjectOperator(destination=...), which records that"
                )
            elif isinstance(response, MagicHourError):
                row.keep(f"Magic Hour did not say whether it is there: {response}")
        if not self.dry_run:
            wait([pool.submit(self._add_account, row) for row in unknown if row.outcome == "due"])
            asked = [row for row in due if row.outcome == "due"]
            found = self._ask(asked, api.delete_project)
            for row, response in zip(asked, found, strict=True):
                self._conclude(row, response)
            responses += found
            self._keep_what_is_there([row for row in asked if row.outcome == "missing"])
        self._stop_where_useless(responses)

    def _add_account(self, row: Row) -> None:
        """Record the account before the delete. After an interruption, a 404 then counts as deleted."""
        if row.receipt is None or self.hook.account_id != self.account_id:
            return
        try:
            row.source.add_account(row.receipt, self.account_id)
        except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
            row.keep(f"its receipt could not be written: {type(error).__name__}: {error}")

    def _ask(self, rows: Sequence[Row], call: Callable[[str, str], api.Request]) -> list[Any]:
        calls = [call(row.receipt.kind, row.receipt.project_id) for row in rows if row.receipt]
        return self.hook.send_all(calls) if calls else []

    def _conclude(self, row: Row, response: Any) -> None:
        if isinstance(response, MagicHourNotFoundError):
            if self.hook.account_id == self.account_id:
                row.outcome = "missing"
            else:  # the connection's key was replaced meanwhile
                row.keep("the connection's key belongs to another account now, whose 404 proves nothing")
        elif isinstance(response, MagicHourError):
            row.keep(f"Magic Hour did not delete it: {response}")
        else:
            row.outcome = "deleted"

    def _keep_what_is_there(self, missing: Sequence[Row]) -> None:
        """Keep a project that still exists under any kind, because a receipt may have been edited."""
        unknown: dict[str, dict[str, list[Row]]] = {}  # a project may be recorded twice
        for row, response in zip(missing, self._ask(missing, api.get_project), strict=True):
            if reason := not_gone_reason(response):
                row.keep(reason)
            elif row.receipt and isinstance(response, MagicHourNotFoundError):
                of_kind = unknown.setdefault(row.receipt.kind, {})
                of_kind.setdefault(row.receipt.project_id, []).append(row)
        for kind, rows in unknown.items():
            for project_id, error in self.hook.explain_not_found(kind, list(rows)).items():
                for row in rows[project_id]:
                    row.keep(f"Magic Hour did not delete it: {error}")

    def _stop_where_useless(self, responses: Sequence[Any]) -> None:
        """Stop if the key is refused or Magic Hour is down."""
        for response in responses:
            if isinstance(response, MagicHourAuthenticationError):
                self.stopped = response
                return
        if responses and all(map(_is_outage, responses)):
            self.stopped = MagicHourError(
                f"Magic Hour is not available: all of the last {len(responses)} requests failed, "
                f"the last one with: {responses[-1]}. The clean-up has stopped. Run it again later to "
                "continue"
            )

    # ------------------------------------------------------------------------------------------ record

    def _record(self, row: Row) -> None:
        if row.outcome not in {"deleted", "missing"} or row.receipt is None:
            return
        try:
            row.source.record(row.candidate, row.receipt, self.account_id, row.outcome)
        except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
            log.warning(
                "Project %s is deleted, but that could not be recorded; the next run will: %s",
                row.receipt.project_id,
                error,
            )


def _size(batch: int, left: int | None) -> int:
    return batch if left is None else max(1, min(batch, left))


def _is_outage(response: Any) -> bool:
    if isinstance(response, MagicHourApiError):
        return response.status_code == 429 or response.status_code >= 500
    return isinstance(response, MagicHourConnectionError)

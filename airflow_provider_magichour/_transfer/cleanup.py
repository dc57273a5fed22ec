"""
Decides which projects may be deleted at Magic Hour, and deletes them, batch by batch.

In each batch, first all receipts and files are checked, then the projects deleted, then that is recorded.
Whatever breaks off, what is not recorded is found again by the next run, which finds it gone at Magic Hour.
While a batch is deleted, the next one is checked and the last one recorded.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime
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

#: Projects that are checked, deleted and recorded together; few at first, in case Magic Hour is down.
FIRST_BATCH, BATCH = 50, 1000
#: Receipts that are read or written at once.
PARALLEL = 16


class Hook(Protocol):
    """What a clean-up needs of the hook."""

    @property
    def account_id(self) -> str | None:
        """Return the account that the key belongs to."""

    def send_all(self, calls: Sequence[api.Request]) -> list[Any]:
        """Send calls side by side."""
        ...

    def explain_not_found(self, kind: str, project_ids: Sequence[str]) -> Mapping[str, MagicHourError]:
        """Ask for projects under the other kinds."""
        ...


@dataclass
class Row:
    """
    What became of a project that was due.

    :param outcome: ``deleted``, ``missing`` or ``kept``; before the delete, ``due``.
    :param reason: why it was kept.
    :param receipt: its receipt, where that can be trusted.
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
    One run over what is recorded at one place.

    :param sources: what is recorded there.
    :param account_id: the account whose projects are deleted; of others, a 404 says nothing.
    :param connections: the connections whose downloads are looked after.
    :param before: the latest time of download that is due.
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
    #: What stopped the run early, None where nothing did.
    stopped: MagicHourError | None = None
    #: Whether all that may be due was gone through.
    is_complete: bool = False
    #: Receipts that were read, by connection, and when the next one of ours is due.
    seen: Counter[str] = field(default_factory=Counter)
    not_due: datetime | None = None

    def run(self) -> None:
        """Delete what is due, the oldest first."""
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
                self._delete(due)
                wait(recording)
                recording = [] if self.dry_run else [pool.submit(self._record, row) for row in due]
                left = None if left is None else left - sum(row.outcome != "kept" for row in due)
                self.report(rows)
                if self.stopped or left == 0:
                    break
                if following is None:  # some were kept after all, which leaves some of the limit
                    following = ahead.submit(self._check, pool, candidates, _size(size, left))
                rows = following.result()
            self.is_complete = rows is None
            wait(recording)

    # ------------------------------------------------------------------------------------------- check

    def _check(
        self, pool: ThreadPoolExecutor, candidates: Iterator[tuple[Candidates, Any]], size: int
    ) -> list[Row] | None:
        """Return what is due and yet to be deleted, or kept, of the next candidates; None at their end."""
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
        self.seen[receipt.conn_id] += 1
        if receipt.conn_id not in self.connections:
            return False
        if receipt.downloaded_at > self.before:
            self.not_due = min(self.not_due or receipt.downloaded_at, receipt.downloaded_at)
            return False
        return True

    def _reason_to_keep(self, source: Candidates, candidate: Any, receipt: Receipt) -> str | None:
        """Return why a project that is due may not be deleted, None where all is saved."""
        if receipt.account_id not in {None, self.account_id}:
            return (
                f"it belongs to the account {receipt.account_id}, but the connection's key to the account "
                f"{self.account_id}"
            )
        storage = source.files_of(receipt)
        if storage is None:
            return f"its files are in {receipt.destination}, which is not below the clean-up's destination"
        moved = source.moved_files(candidate)
        return receipts.missing_file(storage, receipt, moved, check_sha256=self.check_sha256)

    # ------------------------------------------------------------------------------------------ delete

    def _delete(self, due: Sequence[Row]) -> None:
        """Delete projects at Magic Hour; what cannot be deleted becomes kept."""
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
            asked = [row for row in due if row.outcome == "due"]
            found = self._ask(asked, api.delete_project)
            for row, response in zip(asked, found, strict=True):
                self._conclude(row, response)
            responses += found
            self._keep_what_is_there([row for row in asked if row.outcome == "missing"])
        self._stop_where_useless(responses)

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
        """Keep what Magic Hour still has, under whatever kind: a receipt may have been edited."""
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
        """Stop where the key is refused, and where Magic Hour is down."""
        for response in responses:
            if isinstance(response, MagicHourAuthenticationError):
                self.stopped = response
                return
        if responses and all(map(_is_outage, responses)):
            self.stopped = MagicHourError(
                f"Magic Hour is not available: all of the last {len(responses)} requests failed, "
                f"at last with: {responses[-1]}. The clean-up has stopped; run it again later, it goes on "
                "from here"
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

"""Deletes at Magic Hour what was downloaded long enough ago, and is still there."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._client import api
from airflow_provider_magichour._transfer import receipts
from airflow_provider_magichour._transfer.locations import check_location
from airflow_provider_magichour._validation import check_age, check_bool, check_count, is_settled, optional
from airflow_provider_magichour.exceptions import (
    MagicHourAuthenticationError,
    MagicHourError,
    MagicHourNotFoundError,
)
from airflow_provider_magichour.operators.base import MagicHourOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour._transfer.receipts import Hint, Receipt
    from airflow_provider_magichour._transfer.storage import Storage
    from airflow_provider_magichour.hooks import MagicHourHook
    from airflow_provider_magichour.types import Templated

log = logging.getLogger(__name__)


class MagicHourCleanupOperator(MagicHourOperator):
    """
    Delete at Magic Hour the projects that were downloaded long enough ago, and whose files are still there.

    Goes by the receipts that downloads leave, and only by those of its own connection. A project whose files
    are not all there with the right size is kept, and so is one that Magic Hour does not let go; both are
    warned of, and looked at again by the next run. A run that broke off is completed by the next one.

    Returns ``{"deleted": [ids], "missing": [ids], "kept": [{"id", "reason"}]}``: missing are those that were
    gone already; kept are those that were due and yet kept, which in a dry run are all.

    :param destination: where the files were downloaded to. (templated)
    :param older_than: how long ago a project must have been downloaded, a timedelta. (templated: a text like
        ``30 days`` or ``12:00:00`` will do)
    :param dry_run: whether to change nothing and only say what would be deleted. (templated)
    :param limit: how many projects to delete at most, the oldest first; None for all. (templated)
    :param fail_on_kept: whether to fail, after all is done, if a project was kept for another reason than
        the dry run.
    :param check_sha256: whether to read the files and compare their sha256, too.
    :param magichour_conn_id: the connection. (templated)
    :raises MagicHourAuthenticationError: if Magic Hour does not know the connection's API key.
    :raises MagicHourError: after all is done, if a part of the index could not be read; or, with
        ``fail_on_kept``, naming what was kept.
    """

    template_fields: Sequence[str] = (
        "destination",
        "older_than",
        "dry_run",
        "limit",
        *MagicHourOperator.template_fields,
    )

    def __init__(
        self,
        *,
        destination: Templated[str],
        older_than: Templated[timedelta | str],
        dry_run: Templated[bool | str] = False,
        limit: Templated[int | str | None] = None,
        fail_on_kept: bool = False,
        check_sha256: bool = False,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(magichour_conn_id=magichour_conn_id, **kwargs)
        self.destination: Any = destination
        self.older_than: Any = older_than
        # BaseOperator has a method of this name, which only `airflow tasks test --dry-run` calls.
        self.dry_run = dry_run  # type: ignore[method-assign,assignment]
        self.limit: Any = limit
        self.fail_on_kept = fail_on_kept
        self.check_sha256 = check_sha256
        if is_settled(destination):
            check_location(destination)
        if is_settled(older_than) or isinstance(older_than, timedelta):
            check_age(older_than)
        if is_settled(dry_run):
            check_bool(dry_run, "dry_run")
        if is_settled(limit):
            optional(check_count, limit, "limit")

    def execute(self, context: Context) -> dict[str, list[Any]]:
        """Delete what is due."""
        from airflow_provider_magichour._transfer.storage import open_destination

        cleanup = Cleanup(
            self.hook,
            open_destination(self.destination),
            before=datetime.now(UTC) - check_age(self.older_than),
            dry_run=check_bool(self.dry_run, "dry_run"),
            limit=optional(check_count, self.limit, "limit"),
            check_sha256=self.check_sha256,
        )
        rows = cleanup.run()
        log.info("%s", table(rows))
        outcome: dict[str, list[Any]] = {"deleted": [], "missing": [], "kept": []}
        for row in rows:
            entry = {"id": row.project_id, "reason": row.reason} if row.outcome == "kept" else row.project_id
            outcome[row.outcome].append(entry)
        kept = [row for row in rows if row.outcome == "kept" and row.reason != DRY_RUN]
        self._tell(kept, cleanup.refused, cleanup.unreadable)
        return outcome

    def _tell(self, kept: Sequence[Row], refused: MagicHourError | None, unreadable: Sequence[str]) -> None:
        """Warn of what was kept, or fail."""
        if refused:
            raise refused
        if unreadable:
            raise MagicHourError(
                f"{len(unreadable)} days of the index could not be read, so what they list was not looked "
                f"at: {'; '.join(unreadable[:10])}. The rest is done; a later run looks again"
            )
        if not kept:
            return
        shown = "; ".join(f"{row.project_id}: {row.reason}" for row in kept[:MAX_ROWS])
        message = f"{len(kept)} projects were due and yet kept: {shown}"
        if self.fail_on_kept:
            raise MagicHourError(
                f"{message} - docs/receipts.md says how to acknowledge a file that was moved"
            )
        log.warning("%s", message)


#: Projects that are looked at, deleted and recorded together.
BATCH = 256

#: Receipts that are read at once.
READERS = 8

#: Rows of the table in the log.
MAX_ROWS = 1000

DRY_RUN = "dry run"


@dataclass
class Row:
    """
    What became of a project.

    :param project_id: the project.
    :param outcome: ``deleted``, ``missing`` or ``kept``.
    :param reason: why it was kept.
    :param receipt: its receipt, where it has one.
    """

    project_id: str
    outcome: str
    reason: str = ""
    receipt: Receipt | None = None


@dataclass
class Cleanup:
    """
    One run over one destination.

    In each batch, first all receipts are checked, then the projects deleted, then that is recorded. Whatever
    breaks off, the index still names what is not recorded, and the next run finds it gone at Magic Hour.

    :param before: the latest time of download that is due.
    """

    hook: MagicHourHook
    storage: Storage
    before: datetime
    dry_run: bool
    limit: int | None
    check_sha256: bool
    refused: MagicHourAuthenticationError | None = None
    #: The days of the index that could not be listed, and why.
    unreadable: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def run(self) -> list[Row]:
        """Delete what is due, the oldest first, and return what became of each project."""
        rows: list[Row] = []
        hints = receipts.due(self.storage, self.hook.magichour_conn_id, self.before, self._cannot_read)
        while batch := self._next_batch(hints):
            left = None if self.limit is None else self.limit - sum(map(_counts, rows))
            rows += self._batch(batch, left)
            if self.refused or (self.limit is not None and sum(map(_counts, rows)) >= self.limit):
                break
        return rows

    def _cannot_read(self, folder: str, error: Exception) -> None:
        self.unreadable.append(f"{self.storage.shown(folder)}: {type(error).__name__}: {error}")

    def _next_batch(self, hints: Iterator[Hint]) -> list[Hint]:
        batch = []
        for hint in islice((hint for hint in hints if hint.project_id not in self._seen), BATCH):
            self._seen.add(hint.project_id)
            batch.append(hint)
        return batch

    def _batch(self, batch: Sequence[Hint], left: int | None) -> list[Row]:
        rows: list[Row] = []
        deletable: list[tuple[Hint, Row]] = []
        for hint, row in zip(batch, self._side_by_side(self._look, batch), strict=True):
            if row is None:
                continue
            if row.outcome != "kept" or row.reason == DRY_RUN:
                if left is not None and left <= 0:
                    break
                left = None if left is None else left - 1
                deletable.append((hint, row))
            rows.append(row)
        if not self.dry_run:
            self._delete(deletable)
        return rows

    def _look(self, hint: Hint) -> Row | None:
        """Judge a project by its receipt; None where nothing is due after all."""
        try:
            return self._judge(hint)
        except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
            reason = f"its receipt or its files could not be read: {type(error).__name__}: {error}"
            return Row(hint.project_id, "kept", reason)

    def _judge(self, hint: Hint) -> Row | None:
        try:
            receipt = receipts.read(self.storage, hint.project_id)
        except receipts.ReceiptError as error:
            return Row(hint.project_id, "kept", str(error))
        if receipt is None:
            where = self.storage.shown(receipts.path_of(hint.project_id))
            return Row(hint.project_id, "kept", f"its receipt {where} is not there")
        if receipt.conn_id != self.hook.magichour_conn_id or receipt.downloaded_at > self.before:
            if not self.dry_run:  # it was downloaded again since
                receipts.settle(self.storage, hint, receipt)
            return None
        if receipt.deleted_at is None and (
            reason := receipts.missing_file(self.storage, receipt, check_sha256=self.check_sha256)
        ):
            return Row(hint.project_id, "kept", reason, receipt)
        if self.dry_run:
            return Row(hint.project_id, "kept", DRY_RUN, receipt) if receipt.deleted_at is None else None
        return Row(hint.project_id, "deleted", receipt=receipt)

    def _delete(self, deletable: Sequence[tuple[Hint, Row]]) -> None:
        """Delete projects at Magic Hour and record it; what cannot be deleted becomes kept."""
        asked = [row for _, row in deletable if row.receipt and row.receipt.deleted_at is None]
        answers = self.hook.send_all(
            [api.delete_project(row.receipt.kind, row.project_id) for row in asked if row.receipt]
        )
        for row, answer in zip(asked, answers, strict=True):
            if isinstance(answer, MagicHourNotFoundError) and answer.is_own:
                row.outcome = "missing"
            elif isinstance(answer, MagicHourError):
                row.outcome, row.reason = "kept", f"Magic Hour did not delete it: {answer}"
            if isinstance(answer, MagicHourAuthenticationError):
                self.refused = answer
        gone = [(hint, row) for hint, row in deletable if row.outcome != "kept"]
        for _ in self._side_by_side(self._record, gone):
            pass

    def _record(self, done: tuple[Hint, Row]) -> None:
        hint, row = done
        try:
            receipts.mark_deleted(self.storage, row.project_id, hint.path, datetime.now(UTC))
        except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
            log.warning(
                "%s is deleted, but its receipt could not be marked; the next run will: %s",
                row.project_id,
                error,
            )

    @staticmethod
    def _side_by_side(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        with ThreadPoolExecutor(READERS, "magichour-receipts") as pool:
            yield from pool.map(function, items)


def _counts(row: Row) -> bool:
    """Tell whether a row counts towards the limit."""
    return row.outcome != "kept" or row.reason == DRY_RUN


def table(rows: Sequence[Row]) -> str:
    """Return what became of each project, as a table for the log."""
    counts = Counter(row.outcome for row in rows)
    summary = ", ".join(f"{counts[name]} {name}" for name in ("deleted", "missing", "kept"))
    lines: list[tuple[str, ...]] = [("project", "kind", "downloaded", "files", "bytes", "outcome")]
    for row in rows[:MAX_ROWS]:
        outcome = f"{row.outcome}: {row.reason}" if row.reason else row.outcome
        facts: tuple[str, ...] = ("?", "?", "?", "?")
        if row.receipt:
            files = row.receipt.files
            size = sum(file["bytes"] for file in files)
            facts = (
                row.receipt.kind,
                f"{row.receipt.downloaded_at:%Y-%m-%d %H:%M}",
                str(len(files)),
                str(size),
            )
        lines.append((row.project_id, *facts, outcome))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    more = [f"... and {len(rows) - MAX_ROWS} more"] if len(rows) > MAX_ROWS else []
    return "\n".join([f"Clean-up: {summary}", *(shown if rows else []), *more])

"""One run of the clean-up operator."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_magichour._client.sanitize import one_line
from airflow_provider_magichour._transfer import candidates
from airflow_provider_magichour._transfer.candidates import Candidates, Candidates010
from airflow_provider_magichour._transfer.catalogue import Catalogue
from airflow_provider_magichour._transfer.cleanup import Cleanup, Row
from airflow_provider_magichour._transfer.receipts import Receipt
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour._validation import check_age, check_bool, check_count
from airflow_provider_magichour.exceptions import MagicHourArgumentError, MagicHourError
from airflow_provider_magichour.operators._submit_stores import remove_old_records

if TYPE_CHECKING:
    from collections.abc import Mapping


log = logging.getLogger(__name__)

#: The most bytes of each list in the result, because an XCom should stay below 64 KiB.
MAX_LIST_BYTES = 20_000
#: How many projects have their own log line.
MAX_LOGGED = 1000
#: The reason in a dry run for a project that would be deleted.
WOULD_DELETE = "would delete"
#: Older temporary files are from killed tasks.
STALE = timedelta(days=1)
#: Older submit records are not needed any more.
RECORDS_AGE = timedelta(days=90)


class CleanupRun:
    """One run of the operator."""

    def __init__(self, operator: Any, context: Mapping[str, Any]) -> None:
        self._asked, self._hook = operator, operator.hook
        self._ti = context["ti"]
        self._now, self._age = datetime.now(UTC), check_age(operator.older_than)
        unrendered = operator.unrendered["destination"]
        self._catalogue = Catalogue.open(operator.destination, unrendered, operator.index)
        self._ours = frozenset({operator.magichour_conn_id, *_names(operator.connections)})

    def run(self) -> dict[str, list[Any]]:
        """Delete the due projects, and return the report."""
        root, dry_run = self._catalogue.root, check_bool(self._asked.dry_run, "dry_run")
        done, listed_at = candidates.read_done_days(root, self._now, self._age)
        entries, outcome = Candidates(self._catalogue, frozenset(done)), Outcome(dry_run)
        old = [Candidates010(self._catalogue, conn_id=conn_id) for conn_id in sorted(self._ours)]
        cleanup = Cleanup(
            hook=self._hook,
            sources=[*old, entries],
            account_id=self._account_id(),
            connections=self._ours,
            before=self._now - self._age,
            dry_run=dry_run,
            limit=None if self._asked.limit is None else check_count(self._asked.limit, "limit"),
            check_sha256=self._asked.check_sha256,
            report=outcome.add,
        )
        cleanup.run()
        log.info("%s", outcome)
        self._ti.xcom_push(key="counts", value=dict(outcome.counts))
        unreadable = [problem for source in cleanup.sources for problem in source.unreadable]
        if not outcome.counts.total() and not cleanup.stopped and not unreadable:
            self._explain_nothing()
        is_complete = cleanup.is_complete and not (dry_run or unreadable)
        if is_complete and (entries.done != done or listed_at == self._now):
            candidates.write_done_days(root, entries.done, listed_at)
        if is_complete and listed_at == self._now:
            _tidy_up(root, self._now)
        self._raise_or_warn(cleanup.stopped, unreadable, outcome)
        return outcome.lists

    def _account_id(self) -> str:
        account_id = self._hook.get_account().get("id")
        if not isinstance(account_id, str) or not account_id:
            raise MagicHourError(
                "Magic Hour does not say which account the connection's key belongs to, so nothing was "
                "deleted: the projects may belong to another account. Check the connection's host"
            )
        return account_id

    def _explain_nothing(self) -> None:
        """
        Log why nothing was due.

        :raises AirflowSkipException: if there are no records at all.
        :raises MagicHourArgumentError: if all records are of other connections.
        """
        root, ours = self._catalogue.root, self._ours
        found = candidates.count_recorded(root, self._catalogue.destination, ours)
        where = root.shown("")
        others = sorted(found.connections - ours)
        if not found.projects and not others:
            raise AirflowSkipException(
                f"Nothing is recorded at {where}, so there is nothing to clean up. If files were downloaded, "
                "check destination, or index, which must be the root of what the downloads were given"
            )
        if others and found.is_complete and not ours.intersection(found.connections):
            raise MagicHourArgumentError(
                f"magichour_conn_id is {self._asked.magichour_conn_id!r}, but what is recorded at {where} "
                f"was downloaded over {', '.join(map(repr, others))}. Check magichour_conn_id and "
                f"destination. Only if the connection was renamed, pass connections={others!r}: all that was "
                "downloaded over it is then cleaned up, too"
            )
        due = found.next_download and found.next_download + self._age
        log.info(
            "Nothing is due at %s: %d projects are recorded, %d of them are deleted at Magic Hour; %s",
            where,
            found.projects,
            found.deleted,
            f"the next is due at {due:%Y-%m-%d %H:%M} UTC" if due else "no other project is waiting",
        )

    def _raise_or_warn(
        self, stopped: MagicHourError | None, unreadable: Sequence[str], outcome: Outcome
    ) -> None:
        """Fail, or log a warning, because of the kept projects."""
        if stopped:
            raise stopped
        if unreadable:
            raise MagicHourError(
                f"{len(unreadable)} days of the catalogue could not be read, so their projects were "
                f"not cleaned up: {'; '.join(unreadable[:10])}. The rest is done; the next run tries again"
            )
        if not outcome.counts["kept"]:
            return
        kept = [one for one in outcome.lists["kept"] if one["reason"] != WOULD_DELETE]
        shown = "; ".join(f"{one['id']}: {one['reason']}" for one in kept)
        message = f"{outcome.counts['kept']} projects were due and yet kept: {shown}"
        if self._asked.fail_on_kept:
            raise MagicHourError(
                f"{message} - docs/receipts.md says how to acknowledge a file that was moved"
            )
        log.warning("%s", message)


class Outcome:
    """
    The result of a clean-up: counts, and the first projects of each list.

    :param dry_run: whether nothing is deleted.
    """

    def __init__(self, dry_run: bool) -> None:
        self.dry_run = dry_run
        counted = ("would_delete" if dry_run else "deleted", "missing", "kept")
        self.counts: Counter[str] = Counter(dict.fromkeys(counted, 0))
        self.lists: dict[str, list[Any]] = {"deleted": [], "missing": [], "kept": []}
        self._bytes: Counter[str] = Counter()

    def add(self, rows: Sequence[Row]) -> None:
        """Add the results of a batch, and log them."""
        for row in rows:
            if row.outcome == "due":
                self._add(row, "would_delete", "kept", WOULD_DELETE)
            else:
                self._add(row, row.outcome, row.outcome, one_line(row.reason))
        if rows:
            log.info("%s", self)

    def _add(self, row: Row, count: str, name: str, reason: str) -> None:
        project_id = row.candidate.project_id
        self.counts[count] += 1
        self._append(name, {"id": project_id, "reason": reason} if reason else project_id)
        if self.counts.total() <= MAX_LOGGED:
            log.info("%s: %s%s", project_id, reason or name, _facts(row.receipt))

    def _append(self, name: str, entry: Any) -> None:
        self._bytes[name] += len(json.dumps(entry)) + 2
        if self._bytes[name] <= MAX_LIST_BYTES:
            self.lists[name].append(entry)

    def __str__(self) -> str:
        shown = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in self.counts.items())
        return f"Clean-up{' (dry run)' if self.dry_run else ''}: {shown}"


def _tidy_up(root: Storage, now: datetime) -> None:
    """Remove the temporary files of killed workers, and old submit records."""
    root.remove_stale_temporaries(("magichour-catalog", ".magichour", ".magichour-index"), now - STALE)
    try:
        removed = remove_old_records(root, now - RECORDS_AGE)
    except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
        log.warning("Old submit records could not be removed; the next run tries again: %s", error)
    else:
        log.info("Removed %d submit records that are older than %d days", removed, RECORDS_AGE.days)


def _facts(receipt: Receipt | None) -> str:
    if receipt is None:
        return ""
    size = sum(file["bytes"] for file in receipt.files)
    return (
        f" ({receipt.kind}, downloaded {receipt.downloaded_at:%Y-%m-%d %H:%M}, {len(receipt.files)} files, "
        f"{size} bytes)"
    )


def _names(connections: Any) -> list[str]:
    """
    Return the further connections of a clean-up.

    :raises MagicHourArgumentError: if they are not a list of names.
    """
    if isinstance(connections, str) or not all(isinstance(one, str) and one for one in connections or ()):
        raise MagicHourArgumentError(
            f"connections must be a list of connection ids, such as ['magichour_old'], not {connections!r}"
        )
    return list(connections or ())

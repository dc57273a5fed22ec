"""Deletes at Magic Hour what was downloaded long enough ago, and is still there."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._transfer.locations import check_location, index_root
from airflow_provider_magichour._validation import check_age, check_bool, check_count, is_settled, optional
from airflow_provider_magichour.exceptions import MagicHourArgumentError, MagicHourError
from airflow_provider_magichour.operators.base import MagicHourOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour._transfer.receipts import Receipt
    from airflow_provider_magichour._transfer.retention import Row
    from airflow_provider_magichour._transfer.storage import Storage
    from airflow_provider_magichour.types import Templated

log = logging.getLogger(__name__)

#: Bytes of each list that is returned: an XCom should stay below 64 KiB.
MAX_LIST_BYTES = 20_000
#: Projects that the log names one by one.
MAX_LOGGED = 1000
#: What a dry run says of a project that it would delete.
WOULD_DELETE = "would delete"
#: Temporary files that are older are of writers that were killed.
STALE = timedelta(days=1)
#: Submit records that are older are of no use any more.
RECORDS_AGE = timedelta(days=90)


class MagicHourCleanupOperator(MagicHourOperator):
    """
    Delete at Magic Hour the projects that were downloaded long enough ago, and whose files are still there.

    Goes by what downloads record in the catalogue, and only by those of its own connection and account. A
    project whose files are not all there with the right size is kept, and so is one that Magic Hour does not
    delete; both are warned of, and the next run tries again. A run that broke off is completed by the next.

    Returns ``{"deleted": [ids], "missing": [ids], "kept": [{"id", "reason"}]}``: missing are those that were
    gone already; kept are those that were due and yet kept, and in a dry run also those that it would delete,
    with that as the reason. Long lists are cut; the XCom ``counts`` has the numbers.

    :param destination: where the files were downloaded to; a template in it ends the root of the catalogue,
        as in the tasks that download. (templated)
    :param older_than: how long ago a project must have been downloaded, a timedelta. (templated: a text like
        ``30 days`` or ``12:00:00`` will do)
    :param dry_run: whether to change nothing and only say what would be deleted. (templated)
    :param limit: how many projects to delete at most, the oldest first; None for all. (templated)
    :param fail_on_kept: whether to fail, after all is done, if a project was kept for another reason than
        the dry run.
    :param check_sha256: whether to read the files and compare their sha256, too.
    :param index: where the catalogue lies, if the downloads were given an ``index``. (templated)
    :param connections: further connections whose downloads are deleted with this connection's key, such as
        its name before it was renamed. The account must be the same. (templated)
    :param magichour_conn_id: the connection. (templated)
    :raises AirflowSkipException: if nothing is recorded there, so that a mistyped destination shows.
    :raises MagicHourArgumentError: if only downloads of other connections are recorded there.
    :raises MagicHourAuthenticationError: if Magic Hour does not know the connection's API key.
    :raises MagicHourError: if the account cannot be read or Magic Hour is not available; after all is done,
        if a part of the catalogue could not be read; or, with ``fail_on_kept``, naming what was kept.
    """

    template_fields: Sequence[str] = (
        "destination",
        "older_than",
        "dry_run",
        "limit",
        "index",
        "connections",
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
        index: Templated[str | None] = None,
        connections: Templated[Sequence[str]] = (),
        magichour_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(magichour_conn_id=magichour_conn_id, **kwargs)
        self.destination: Any = destination
        self._unrendered: Any = destination
        self.older_than: Any = older_than
        # BaseOperator has a method of this name, which only `airflow tasks test --dry-run` calls.
        self.dry_run = dry_run  # type: ignore[method-assign,assignment]
        self.limit: Any = limit
        self.fail_on_kept = fail_on_kept
        self.check_sha256 = check_sha256
        self.index: Any = index
        self.connections: Any = connections
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
        from airflow_provider_magichour._transfer import survey
        from airflow_provider_magichour._transfer.recorded import Catalogue, OldReceipts
        from airflow_provider_magichour._transfer.retention import Retention
        from airflow_provider_magichour._transfer.storage import open_destination

        now, age = datetime.now(UTC), check_age(self.older_than)
        destination = open_destination(self.destination)
        root = open_destination(index_root(self._unrendered, self.destination, self.index), "index")
        dry_run = check_bool(self.dry_run, "dry_run")
        ours = frozenset({self.magichour_conn_id, *_names(self.connections)})
        done, listed_at = survey.read_done_days(root, now, age)
        catalogue = Catalogue(root, destination, set(done))
        outcome = Outcome(dry_run)
        retention = Retention(
            hook=self.hook,
            sources=[*(OldReceipts(destination, root, conn_id) for conn_id in sorted(ours)), catalogue],
            account_id=self._account_id(),
            connections=ours,
            before=now - age,
            dry_run=dry_run,
            limit=optional(check_count, self.limit, "limit"),
            check_sha256=self.check_sha256,
            report=outcome.add,
        )
        retention.run()
        log.info("%s", outcome)
        ti: Any = context.get("ti")
        ti.xcom_push(key="counts", value=dict(outcome.counts))
        unreadable = [problem for source in retention.sources for problem in source.unreadable]
        if not outcome.counts.total() and not retention.stopped and not unreadable:
            self._explain_nothing(root, destination, ours, age)
        is_complete = retention.is_complete and not (dry_run or unreadable)
        if is_complete and (catalogue.done != done or listed_at == now):
            survey.write_done_days(root, catalogue.done, listed_at)
        if is_complete and listed_at == now:
            _tidy_up(root, now)
        self._raise_or_warn(retention.stopped, unreadable, outcome)
        return outcome.lists

    def _account_id(self) -> str:
        account_id = self.hook.get_account().get("id")
        if not isinstance(account_id, str) or not account_id:
            raise MagicHourError(
                "Magic Hour does not say which account the connection's key belongs to, so nothing was "
                "deleted: what another account's key does not find is not gone. Check the connection's host"
            )
        return account_id

    def _explain_nothing(
        self, root: Storage, destination: Storage, ours: frozenset[str], age: timedelta
    ) -> None:
        """
        Say why nothing was due.

        :raises AirflowSkipException: if nothing is recorded at all.
        :raises MagicHourArgumentError: if all that is recorded is of other connections.
        """
        from airflow_provider_magichour._transfer.survey import survey

        found, where = survey(root, destination, ours), root.shown("")
        others = sorted(set(found.connections) - ours)
        if not found.projects and not others:
            raise AirflowSkipException(
                f"Nothing is recorded at {where}, so there is nothing to clean up. If files were downloaded, "
                "check destination, or index, which must be the root of what the downloads were given"
            )
        if others and not ours.intersection(found.connections):
            raise MagicHourArgumentError(
                f"magichour_conn_id is {self.magichour_conn_id!r}, but what is recorded at {where} was "
                f"downloaded over {', '.join(map(repr, others))}. If the connection was renamed, name the "
                f"old one in connections={others!r}; if not, check magichour_conn_id and destination"
            )
        due = found.next_download and found.next_download + age
        log.info(
            "Nothing is due at %s: %d projects are recorded, %d of them are deleted at Magic Hour; %s",
            where,
            found.projects,
            found.deleted,
            f"the next is due at {due:%Y-%m-%d %H:%M} UTC" if due else "none is waiting to be due",
        )

    def _raise_or_warn(
        self, stopped: MagicHourError | None, unreadable: Sequence[str], outcome: Outcome
    ) -> None:
        """Fail, or warn of what was kept."""
        if stopped:
            raise stopped
        if unreadable:
            raise MagicHourError(
                f"{len(unreadable)} days of the catalogue could not be read, so what they list was not "
                f"cleaned up: {'; '.join(unreadable[:10])}. The rest is done; the next run tries again"
            )
        if not outcome.counts["kept"]:
            return
        kept = [one for one in outcome.lists["kept"] if one["reason"] != WOULD_DELETE]
        shown = "; ".join(f"{one['id']}: {one['reason']}" for one in kept)
        message = f"{outcome.counts['kept']} projects were due and yet kept: {shown}"
        if self.fail_on_kept:
            raise MagicHourError(
                f"{message} - docs/receipts.md says how to acknowledge a file that was moved"
            )
        log.warning("%s", message)


class Outcome:
    """
    What became of the projects: counts, and the first of each list.

    :param dry_run: whether nothing is deleted.
    """

    def __init__(self, dry_run: bool) -> None:
        self.dry_run = dry_run
        counted = ("would_delete" if dry_run else "deleted", "missing", "kept")
        self.counts: Counter[str] = Counter(dict.fromkeys(counted, 0))
        self.lists: dict[str, list[Any]] = {"deleted": [], "missing": [], "kept": []}
        self._bytes: Counter[str] = Counter()

    def add(self, rows: Sequence[Row]) -> None:
        """Take the rows of a batch, and log them."""
        from airflow_provider_magichour._client.sanitize import one_line

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
    """Remove what killed workers left, and submit records that nobody needs any more."""
    from airflow_provider_magichour.operators._submit_stores import remove_old_records

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

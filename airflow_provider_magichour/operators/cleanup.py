"""Deletes at Magic Hour what was downloaded long enough ago, and is still there."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour.arguments import check_count
from airflow_provider_magichour.exceptions import MagicHourArgumentError, MagicHourError
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators.base import MagicHourOperator, is_template

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour.cleanup import Row
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
        magichour_conn_id: str = MagicHourHook.default_conn_name,
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
        for value, check in ((older_than, check_age), (dry_run, check_dry_run), (limit, check_limit)):
            if not is_template(value):
                check(value)

    def execute(self, context: Context) -> dict[str, list[Any]]:
        """Delete what is due."""
        from airflow_provider_magichour.cleanup import DRY_RUN, Cleanup, table
        from airflow_provider_magichour.transfer.destination import open_destination

        cleanup = Cleanup(
            self.hook,
            open_destination(self.destination),
            before=datetime.now(UTC) - check_age(self.older_than),
            dry_run=check_dry_run(self.dry_run),
            limit=check_limit(self.limit),
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
        from airflow_provider_magichour.cleanup import MAX_ROWS

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


def check_age(value: object) -> timedelta:
    """
    Return a time span, also from what a template made of one.

    :raises MagicHourArgumentError: if it is not a timedelta of zero or more.
    """
    age = _age_of_text(value) if isinstance(value, str) else value
    if not isinstance(age, timedelta) or age < timedelta(0):
        raise MagicHourArgumentError(
            f"older_than must be a timedelta of zero or more, such as timedelta(days=30), not {value!r}"
        )
    if age > timedelta(days=365 * 1000):
        raise MagicHourArgumentError(f"older_than must be less than 1,000 years, not {value!r}")
    return age


def _age_of_text(text: str) -> timedelta | None:
    match = re.fullmatch(
        r"\s*(?:(\d{1,6}) days?)?(?:(?:^|, )(\d{1,2}):(\d{2}):(\d{2})(?:\.\d+)?)?\s*", text, re.ASCII
    )
    if not match or not text.strip():
        return None
    days, hours, minutes, seconds = (int(group or 0) for group in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def check_dry_run(value: object) -> bool:
    """
    Return a truth value, also from what a template made of one.

    :raises MagicHourArgumentError: if it is none: nobody can tell then whether to delete.
    """
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise MagicHourArgumentError(f"dry_run must be True or False, not {value!r}")
    return value


def check_limit(value: object) -> int | None:
    """
    Return a limit, also from what a template made of one.

    :raises MagicHourArgumentError: if it is neither None nor a whole number above zero.
    """
    if value is None or (isinstance(value, str) and value.strip() in {"", "None"}):
        return None
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value, re.ASCII):
        value = int(value)
    return check_count(value, "limit")

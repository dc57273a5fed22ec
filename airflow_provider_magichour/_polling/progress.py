"""The progress of a wait: its results so far, its log lines, and the error if it times out."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from airflow_provider_magichour._client.api import STATUSES
from airflow_provider_magichour._polling.schedule import created_at
from airflow_provider_magichour._polling.status import FACE_DETECTION, StatusCheck
from airflow_provider_magichour._polling.wait_request import WaitRequest
from airflow_provider_magichour.exceptions import (
    MagicHourError,
    MagicHourNotFoundError,
    MagicHourTimeoutError,
    MagicHourWrongKindError,
)

#: The seconds between two log lines of a wait about progress, failed checks and late checks.
LOG_INTERVAL = 30.0
#: A status check that is later than this, in seconds, causes a warning.
LATE_SECONDS = 10.0
#: How many projects a message names.
MAX_NAMED = 10
#: The outcome of a project that Magic Hour does not know (404), if the wait continues without it.
MISSING = "missing"


class WaitProgress:
    """
    The results of one wait so far, and its log lines.

    :param projects: filled with the finished projects, if given.
    """

    def __init__(
        self,
        wait: WaitRequest,
        missing_ok: bool = False,
        logger: Any = None,
        projects: dict[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.wait = wait
        self.pending: dict[str, str | None] = dict.fromkeys(wait.ids)
        self.outcomes: dict[str, str] = {}
        self.last_error: MagicHourError | None = None
        self._projects = projects
        self._noun = "project" if wait.kind != FACE_DETECTION else FACE_DETECTION
        self._total = len(wait.ids)
        self._missing_ok = missing_ok
        self.log = logger or logging.getLogger(__name__)
        self._unknown: set[str] = set()
        self._failed_checks = 0
        self._last_failure: MagicHourError | None = None
        self._failures_logged_at = self._progress_logged_at = self._lateness_logged_at = -LOG_INTERVAL
        self.logged_done = 0

    def take(self, project_id: str, check: StatusCheck) -> None:
        """
        Take one status check into account.

        :raises MagicHourApiError: if it ends the wait.
        """
        if project_id not in self.pending:
            return
        if check.error is not None:
            is_missing = isinstance(check.error, MagicHourNotFoundError)
            if not self._missing_ok or not is_missing or isinstance(check.error, MagicHourWrongKindError):
                raise check.error
            self.log.warning("%s %s is missing: %s", self._noun.capitalize(), project_id, check.error)
            self._finish(project_id, MISSING)
        elif check.outcome is not None:
            if self._projects is not None and check.project is not None:
                self._projects[project_id] = check.project
            self._finish(project_id, check.outcome, check.project)
        elif check.transient_error is not None:
            self._failed_checks += 1
            self.last_error = self._last_failure = check.transient_error
        elif check.project is not None:
            status = str(check.project["status"])
            if status != self.pending[project_id] and self._total <= MAX_NAMED:
                self.log.info(
                    "%s %s: %s%s%s",
                    self._noun.capitalize(),
                    project_id,
                    status[:100],
                    _age(check.project),
                    _next(check),
                )
            self.pending[project_id] = status
            self.last_error = None
            self._warn_if_unknown(project_id, status)

    def _finish(self, project_id: str, outcome: str, project: Mapping[str, Any] | None = None) -> None:
        del self.pending[project_id]
        self.outcomes[project_id] = outcome
        if self._total <= MAX_NAMED:
            self.log.info(
                "%s %s: %s%s", self._noun.capitalize(), project_id, outcome, _age_and_charge(project or {})
            )

    def _warn_if_unknown(self, project_id: str, status: str) -> None:
        if status not in STATUSES and status not in self._unknown:
            self._unknown.add(status[:100])
            self.log.warning(
                "Project %s has the status %r, which this version does not know: still polling",
                project_id,
                status[:100],
            )

    def report(self) -> None:
        """Log the progress, failed checks and late checks, each at most every half minute."""
        now = time.monotonic()
        if self._failed_checks and now - self._failures_logged_at >= LOG_INTERVAL:
            self.log.warning(
                "%d status check(s) failed, still polling; the last error: %s",
                self._failed_checks,
                self._last_failure,
            )
            self._failed_checks, self._failures_logged_at = 0, now
        late, limit = self.wait.late
        if late >= LATE_SECONDS and now - self._lateness_logged_at >= LOG_INTERVAL:
            self.log.warning(
                "Status checks run up to %.0f s late, because more projects wait than %s allows: raise it in "
                "the connection's extra, or run another triggerer",
                late,
                limit,
            )
            self.wait.late, self._lateness_logged_at = (0.0, ""), now
        done = len(self.outcomes)
        if (
            self._total > 1
            and now - self._progress_logged_at >= LOG_INTERVAL
            and (done != self.logged_done or self._progress_logged_at < 0)
        ):
            self.log.info("%d of %d projects finished", done, self._total)
            self.logged_done, self._progress_logged_at = done, now

    def timeout(self, deadline: float) -> MagicHourTimeoutError:
        """Return the error of a wait that reached its deadline."""
        return timeout_error(self.pending, self._total, deadline, self.last_error, self._noun)


def _age(project: Mapping[str, Any]) -> str:
    created = created_at(project)
    return "" if created is None else f", {max(time.time() - created, 0):.0f} s after it was created"


def _next(check: StatusCheck) -> str:
    return "" if check.next_in is None else f", next status check in {check.next_in:.0f} s"


def _age_and_charge(project: Mapping[str, Any]) -> str:
    charged = project.get("credits_charged")
    return _age(project) + (f", {charged:g} credits" if isinstance(charged, int | float) else "")


def timeout_error(
    pending: Mapping[str, str | None],
    total: int,
    deadline: float,
    last_error: MagicHourError | None = None,
    noun: str = "project",
) -> MagicHourTimeoutError:
    """
    Return the error of a wait that timed out.

    :param pending: the projects that are not finished, with the last status, None for none.
    :param deadline: in unix seconds.
    :param last_error: why the last status check failed, if it did.
    """
    named = [f"{one} (status: {status or 'unknown'})" for one, status in pending.items()][:MAX_NAMED]
    more = f" and {len(pending) - len(named)} more" if len(pending) > len(named) else ""
    if total == 1:
        what = f"{noun} {named[0] if named else '?'}"
    else:
        what = f"{len(pending)} of {total} {noun}s: {', '.join(named)}{more}"
    when = datetime.fromtimestamp(deadline, UTC).isoformat(timespec="seconds")
    failed = f"; the last status check failed: {last_error}" if last_error is not None else ""
    return MagicHourTimeoutError(
        f"Timed out waiting for {what}, at {when}{failed}. It continues at Magic Hour: "
        "clear the task to wait again, and raise its timeout if it needs longer",
        next(iter(pending)) if len(pending) == 1 else None,
    )

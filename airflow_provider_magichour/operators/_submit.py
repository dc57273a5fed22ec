"""Submits bodies to a tool so that each is paid for once: what the create and the generate operator share."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour._client import api, stats
from airflow_provider_magichour.exceptions import (
    MagicHourApiError,
    MagicHourAuthenticationError,
    MagicHourBudgetError,
    MagicHourConnectionError,
    MagicHourError,
    MagicHourGatewayError,
    MagicHourNotFoundError,
    MagicHourPaymentRequiredError,
    MagicHourRateLimitError,
    MagicHourServerError,
    MagicHourSubmitRecordError,
    MagicHourUncertainSubmitError,
)
from airflow_provider_magichour.operators._bodies import describe, fingerprints, with_names
from airflow_provider_magichour.operators._budget import Budget, as_credits, balance_of
from airflow_provider_magichour.operators._clear_or_retry import UNCERTAIN
from airflow_provider_magichour.operators._earlier_tries import (
    Ask,
    EarlierTries,
    account_id,
    ask_for_projects,
)
from airflow_provider_magichour.operators._submit_record import Record, Submitted
from airflow_provider_magichour.operators._submit_records import SubmitRecords

if TYPE_CHECKING:
    from airflow_provider_magichour.hooks import MagicHourHook

log = logging.getLogger(__name__)

#: Create calls that are under way at once.
MAX_PARALLEL = 4
#: The first and the longest pause after a 429 that does not say how long, in seconds.
FIRST_LIMIT_PAUSE, MAX_LIMIT_PAUSE = 2.0, 30.0

#: After these the rest of a list is not submitted, because it would meet the same.
_STOPPING = (
    MagicHourAuthenticationError,
    MagicHourBudgetError,
    MagicHourConnectionError,
    MagicHourGatewayError,
    MagicHourRateLimitError,
    MagicHourServerError,
    MagicHourSubmitRecordError,
)


def meets_all(error: MagicHourError) -> bool:
    """Return whether the other bodies of a list would meet the same."""
    if isinstance(error, MagicHourPaymentRequiredError):
        return not error.is_about_plan
    if isinstance(error, MagicHourUncertainSubmitError):
        return error.from_gateway or isinstance(error.__cause__, MagicHourSubmitRecordError)
    return isinstance(error, _STOPPING)


class Reuse(Protocol):
    """Finds results that need not be paid for again."""

    def find(
        self, bodies: Mapping[int, dict[str, Any]], taken: Collection[str], ask: Ask
    ) -> dict[int, Submitted]:
        """Return by position the results that are there, without those of projects that are taken."""
        ...


@dataclass(frozen=True)
class SubmitOptions:
    """
    How bodies are submitted.

    :param retry_uncertain_submit: whether a submit whose outcome is unknown may be made again.
    :param max_credits: what all of it may cost.
    :param keep_credits: what has to be left on the account.
    :param patience: seconds to go on while the response is 429.
    :param project_name: the name of a project whose body has none, None for Magic Hour's own.
    :param reuse: finds results of other runs, None to pay for each body.
    :param before_submit: called with the bodies before anything is paid for, to raise what forbids it.
    """

    retry_uncertain_submit: bool = False
    max_credits: float | None = None
    keep_credits: float | None = None
    patience: float = 3600.0
    project_name: str | None = None
    reuse: Reuse | None = None
    before_submit: Callable[[Sequence[Mapping[str, Any]]], None] | None = None


class Submitter:
    """
    Submits the bodies of one task, or goes on with what an earlier try submitted.

    :param hook: how to reach Magic Hour.
    :param tool: the tool.
    :param kind: the kind of project that it makes.
    :param records: the task's submit records.
    :param options: see there.
    :param project_ids: takes the ids of all projects, each as it becomes known.
    """

    def __init__(
        self,
        hook: MagicHourHook,
        tool: str,
        kind: str,
        records: SubmitRecords,
        options: SubmitOptions | None = None,
        *,
        project_ids: list[str] | None = None,
    ) -> None:
        self._hook = hook
        self._tool = tool
        self._kind = kind
        self._records = records
        self._options = options or SubmitOptions()
        self._budget = Budget(tool, self._options.max_credits, self._options.keep_credits)
        self._names: list[str] = []
        self._deadline = 0.0
        self._stop = threading.Event()
        self._stopped_by: MagicHourError | None = None
        self._under_way = 0
        self._lock = threading.Lock()
        self.project_ids: list[str] = [] if project_ids is None else project_ids

    def submit(self, bodies: Sequence[dict[str, Any]]) -> list[Submitted | MagicHourError]:
        """
        Return each body's project, or the error, in their order.

        All of them are tried before an error is raised, except where the rest would meet the same.
        """
        self._hook.get_conn()  # a connection that cannot be used is no reason to touch the records
        prints = fingerprints(self._hook.magichour_conn_id, self._tool, self._kind, bodies)
        named = with_names(self._tool, bodies, self._options.project_name)
        self._names = describe(self._tool, named)
        again = self._options.retry_uncertain_submit
        earlier = EarlierTries(self._hook, self._records, self._ask, retry_uncertain_submit=again)
        outcomes: dict[int, Submitted | MagicHourError] = earlier.outcomes(prints, self._names)
        self.project_ids += [one.id for one in outcomes.values() if isinstance(one, Submitted)]
        if earlier.other_account is not None:
            self._stop_all(earlier.other_account)
        if self._options.reuse is not None and not self._records.was_cleared:
            left = _without(bodies, outcomes)
            try:
                outcomes |= self._options.reuse.find(left, self.project_ids, self._ask)
            except MagicHourError as error:
                outcomes |= dict.fromkeys(left, error)
        if missing := _without(named, outcomes):
            outcomes |= self._submit_missing(missing, prints)
        return [outcomes[n] if n in outcomes else self._not_submitted() for n in range(len(bodies))]

    def stop(self, seconds: float) -> None:
        """
        Submit nothing more, because the task is killed, and wait for what is on its way.

        :param seconds: how long to wait at most.
        """
        self._stop_all(MagicHourError("The task was killed, so nothing more was submitted"))
        until = time.monotonic() + seconds
        while self._under_way and time.monotonic() < until:
            time.sleep(0.05)

    def _request(self, body: dict[str, Any]) -> api.Request:
        return api.create_project(self._tool, body, self._kind)

    def _get(self, project_id: str) -> api.Request:
        return api.get_project(self._kind, project_id)

    def _ask(self, project_ids: Sequence[str], is_in_vain: Callable[[int], bool]) -> list[Any]:
        calls = [self._get(one) for one in project_ids]
        return ask_for_projects(self._hook, calls, self._stop, is_in_vain)

    # -------------------------------------------------------------------------------------- before a call

    def _submit_missing(
        self, bodies: Mapping[int, dict[str, Any]], fingerprints: Sequence[str]
    ) -> dict[int, Submitted | MagicHourError]:
        if self._stop.is_set():
            return {}
        self._budget.add(*self._records.charges())
        self._deadline = time.monotonic() + self._options.patience
        try:
            if self._options.before_submit is not None:
                self._options.before_submit(list(bodies.values()))
            account = account_id(self._hook.check_account())
            if self._budget.limit is not None:
                self._budget.check_balance(self._hook.get_account())
            ready, failed = self._upload(bodies)
            records = self._records.start({n: fingerprints[n] for n in sorted(ready)}, account)
            made = self._submit_side_by_side(ready, records)
        except MagicHourError as error:
            return dict.fromkeys(bodies, error)
        self._budget.report()
        return failed | made

    def _upload(
        self, bodies: Mapping[int, dict[str, Any]]
    ) -> tuple[dict[int, dict[str, Any]], dict[int, Submitted | MagicHourError]]:
        """Upload the files of the bodies, each once; return the bodies that are complete, and errors."""
        from airflow_provider_magichour._transfer.body_files import find_assets, replace_assets

        failed: dict[int, Submitted | MagicHourError] = {}
        wanted: dict[int, list[tuple[str, str]]] = {}
        for position, body in bodies.items():
            try:
                wanted[position] = find_assets(body)
            except MagicHourError as error:
                failed[position] = error
        files = {value: field for found in wanted.values() for value, field in found}
        if not files:
            return {position: bodies[position] for position in wanted}, failed
        from airflow_provider_magichour._transfer.upload import upload_all

        uploaded = dict(zip(files, upload_all(self._hook.settings, list(files.items())), strict=True))
        paths = {name: path for name, path in uploaded.items() if isinstance(path, str)}
        ready: dict[int, dict[str, Any]] = {}
        for position, found in wanted.items():
            broken = next((value for value, _ in found if value not in paths), None)
            if broken is not None:
                failed[position] = cast("MagicHourError", uploaded[broken])
            else:
                ready[position] = replace_assets(bodies[position], paths)
        return ready, failed

    # ---------------------------------------------------------------------------------------------- calls

    def _submit_side_by_side(
        self, bodies: Mapping[int, dict[str, Any]], records: Mapping[int, Record]
    ) -> dict[int, Submitted | MagicHourError]:
        outcomes: dict[int, Submitted | MagicHourError] = {}

        def work(position: int) -> None:
            if self._stop.is_set():
                return
            try:
                outcomes[position] = self._submit_one(
                    self._names[position], bodies[position], records[position]
                )
            except MagicHourError as error:
                outcomes[position] = error
                if meets_all(error):
                    self._stop_all(error)

        # Threads for a single body, too: where Airflow interrupts the task (``execution_timeout``), the
        # thread still reads the response and writes the id down.
        # A budget is kept by knowing each charge before the next submit.
        workers = 1 if self._budget.is_limited else MAX_PARALLEL
        executor = ThreadPoolExecutor(workers, thread_name_prefix="magichour-submit")
        futures = [executor.submit(work, position) for position in bodies]
        try:
            for future in futures:
                future.result()
        finally:  # even where Airflow interrupts the task: what is on its way is written down
            if not all(future.done() for future in futures):
                self._stop.set()
            executor.shutdown(wait=True, cancel_futures=True)
        return outcomes

    def _submit_one(self, name: str, body: dict[str, Any], record: Record) -> Submitted:
        """Write the intent, send the create call once, write the outcome; only then wait, and try again."""
        limited = failed = 0
        while True:
            self._hook.wait_for_rate_limit(self._stop)  # before the intent: a 429 may hold all back
            self._budget.check(name, self._hook.get_account)
            try:
                return self._submit_once(name, body, record)
            except MagicHourRateLimitError as error:
                pause = self._limit_pause(error, limited)
                limited += 1
                if time.monotonic() + pause > self._deadline:
                    raise
                refusal: MagicHourError = error
            except MagicHourUncertainSubmitError as error:
                if not self._options.retry_uncertain_submit:
                    raise
                raise MagicHourConnectionError(
                    f"{error}. A retry submits it again (retry_uncertain_submit)"
                ) from error
            except (MagicHourConnectionError, MagicHourServerError) as error:
                failed += 1
                retry_pause = self._retry_pause(error, failed)
                if retry_pause is None:
                    raise
                pause, refusal = retry_pause, error
            log.info("%s. Trying again in %.1f s.", refusal, pause)
            if self._stop.wait(pause):
                raise refusal

    def _submit_once(self, name: str, body: dict[str, Any], record: Record) -> Submitted:
        with self._lock:
            self._under_way += 1
        try:
            intent = self._records.write_intent(record)
            if self._stop.is_set():  # killed, or in vain, while the intent was written
                self._records.discard(intent)
                raise self._not_submitted()
            try:
                response = self._hook.send_once(self._request(body))
            except MagicHourUncertainSubmitError as error:
                self._budget.add([], uncertain=1)
                stats.count("submit_uncertain", tool=self._tool, kind=self._kind)
                if not self._options.retry_uncertain_submit:
                    self._records.mark_reported(intent, UNCERTAIN)
                error.args = (f"{error} - look for {name}",)
                raise
            except MagicHourError as error:
                self._records.discard(intent)
                raise self._explained(error) from error
            project_id, charged = str(response["id"]), as_credits(response.get("credits_charged"))
            self.project_ids.append(project_id)
            self._budget.add([charged])
            stats.count("credits", charged or 0, tool=self._tool, kind=self._kind)
            record = self._records.record_id(intent, project_id, charged, name=name)
        finally:
            with self._lock:
                self._under_way -= 1
        log.info("Submitted %s: project %s, %s credits (an estimate).", name, project_id, charged)
        return Submitted(project_id, charged, record, is_new=True)

    def _limit_pause(self, error: MagicHourRateLimitError, attempts: int) -> float:
        """Return the seconds until a call is sent again that got a 429."""
        pause = min(FIRST_LIMIT_PAUSE * 2.0 ** min(attempts, 10), MAX_LIMIT_PAUSE)
        return max(pause * random.uniform(0.5, 1.0), error.retry_after or 0.0)

    def _retry_pause(
        self, error: MagicHourConnectionError | MagicHourServerError, attempts: int
    ) -> float | None:
        """Return the seconds until a call is sent again that was certainly not accepted, None for never."""
        from airflow_provider_magichour._client import retry

        asked = getattr(error, "retry_after", None) or 0.0
        if attempts >= self._hook.settings.max_attempts or asked > retry.MAX_RETRY_AFTER:
            return None
        return retry.retry_wait(attempts, asked, random.random())

    # --------------------------------------------------------------------------------------------- errors

    def _stop_all(self, error: MagicHourError) -> None:
        self._stopped_by = self._stopped_by or error
        self._stop.set()

    def _not_submitted(self) -> MagicHourError:
        """Return the error of a body that was not submitted, because the others met something."""
        error = self._stopped_by or MagicHourError("The task was interrupted")
        is_certain = not isinstance(error, MagicHourUncertainSubmitError)
        if is_certain and isinstance(error, AirflowFailException | MagicHourApiError):
            return error
        return MagicHourError(f"{self._tool} was not submitted; a retry submits it: {error}")

    def _explained(self, error: MagicHourError) -> MagicHourError:
        """Add the credits that are left to a 402, and to a 404 that it is the tool that is not found."""
        if isinstance(error, MagicHourNotFoundError):
            return MagicHourNotFoundError(
                error.status_code, f"{error.message} (Magic Hour has no tool {self._tool!r})", error.call
            )
        if not isinstance(error, MagicHourPaymentRequiredError) or error.is_about_plan:
            return error
        try:
            left = balance_of(self._hook.get_account())
        except MagicHourError as account_error:
            log.warning("The account's credits could not be read: %s", account_error)
            return error
        message = error.message if left is None else f"{error.message} ({left:g} credits left)"
        return MagicHourPaymentRequiredError(error.status_code, message, error.call, error.code)


class DetectionSubmitter(Submitter):
    """Submits face detections, which are no projects, but may cost credits one day."""

    def __init__(self, hook: MagicHourHook, records: SubmitRecords) -> None:
        super().__init__(hook, "face-detection", "image", records)

    def _request(self, body: dict[str, Any]) -> api.Request:
        return api.detect_faces(body)

    def _get(self, project_id: str) -> api.Request:
        return api.get_face_detection(project_id)


def _without(bodies: Sequence[dict[str, Any]], outcomes: Mapping[int, Any]) -> dict[int, dict[str, Any]]:
    """Return by position the bodies that have no outcome yet."""
    return {position: body for position, body in enumerate(bodies) if position not in outcomes}

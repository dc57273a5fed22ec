"""Submits bodies to a tool so that each is paid for once, for the create and the generate operator."""

from __future__ import annotations

import logging
import math
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
from airflow_provider_magichour.operators._patience import Patience
from airflow_provider_magichour.operators._submit_record import Record, Submitted
from airflow_provider_magichour.operators._submit_records import SubmitRecords

if TYPE_CHECKING:
    from airflow_provider_magichour.hooks import MagicHourHook

log = logging.getLogger(__name__)

#: How many create calls are in progress at once.
MAX_PARALLEL = 4
#: So many uncertain submits in a row mean that the network is broken: the rest of a list is not submitted.
MAX_UNCERTAIN = 2

#: After these errors, the rest of a list is not submitted, because it would get the same error.
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
    """Return whether the other bodies of a list would get the same error."""
    if isinstance(error, MagicHourPaymentRequiredError):
        return not error.is_about_plan
    if isinstance(error, MagicHourUncertainSubmitError):
        return error.from_gateway or isinstance(error.__cause__, MagicHourSubmitRecordError)
    return isinstance(error, _STOPPING)


class Reuse(Protocol):
    """Finds earlier results, so that they are not paid for again."""

    def find(
        self, bodies: Mapping[int, dict[str, Any]], taken: Collection[str], ask: Ask
    ) -> dict[int, Submitted]:
        """Return, by position, the earlier results, without the projects that are already taken."""
        ...


@dataclass(frozen=True)
class SubmitOptions:
    """
    How bodies are submitted.

    :param retry_uncertain_submit: whether a submit with an unknown outcome may be sent again.
    :param max_credits: the most that all bodies may cost.
    :param keep_credits: the credits that must stay on the account.
    :param patience: how long to repeat calls after a 429, in seconds.
    :param project_name: the name of a project whose body has none, None for Magic Hour's own.
    :param reuse: finds results of other runs, None to pay for each body.
    :param before_submit: called with the bodies before anything is paid for. It raises an error to prevent
        that.
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
    Submits the bodies of one task, or continues with the projects of an earlier try.

    :param project_ids: the list that gets the id of each project as soon as it is known.
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
        self._stop = threading.Event()
        self._patience = Patience(hook, self._stop)
        self._uncertain_in_a_row = 0
        self._stopped_by: MagicHourError | None = None
        self._under_way = 0
        self._lock = threading.Lock()
        self.project_ids: list[str] = [] if project_ids is None else project_ids
        #: The bodies of which nobody knows whether they were accepted.
        self.uncertain: list[str] = []

    def submit(self, bodies: Sequence[dict[str, Any]]) -> list[Submitted | MagicHourError]:
        """
        Return each body's project, or the error, in the same order.

        All of them are tried before an error is raised, except if the rest would get the same error.
        """
        self._hook.get_conn()  # without a usable connection, the records are not changed
        prints = fingerprints(self._hook.magichour_conn_id, self._tool, self._kind, bodies)
        named = with_names(self._tool, bodies, self._options.project_name)
        self._names = describe(self._tool, named)
        again = self._options.retry_uncertain_submit
        earlier = EarlierTries(self._hook, self._kind, self._records, self._ask, retry_uncertain_submit=again)
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
        """Stop submitting, because the task is killed, and wait for the calls that were already sent."""
        self._stop_all(MagicHourError("The task was killed, so nothing more was submitted"))
        self._wait_for_calls(seconds)

    def _wait_for_calls(self, seconds: float) -> None:
        """Wait for the calls that were already sent."""
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
        self._patience.deadline = time.monotonic() + self._options.patience
        try:
            if self._options.before_submit is not None:
                self._options.before_submit(list(bodies.values()))
            account = account_id(self._hook.check_account(self._read_account))
            if self._budget.limit is not None:
                self._budget.check_balance(self._read_account())
            ready, failed = self._upload(bodies)
            self._stop.wait(self._records.seconds_to_settle())
            records = self._records.start({n: fingerprints[n] for n in sorted(ready)}, account)
            made = self._submit_side_by_side(ready, records)
        except MagicHourError as error:
            return dict.fromkeys(bodies, error)
        self._budget.report()
        return failed | made

    def _upload(
        self, bodies: Mapping[int, dict[str, Any]]
    ) -> tuple[dict[int, dict[str, Any]], dict[int, Submitted | MagicHourError]]:
        """Upload the files of the bodies, each once. Return the complete bodies and the errors."""
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
                self._is_broken_after(uncertain=False)
            except MagicHourError as error:
                outcomes[position] = error
                is_broken = self._is_broken_after(uncertain=isinstance(error, MagicHourUncertainSubmitError))
                if is_broken or meets_all(error):
                    self._stop_all(error)

        # A thread even for a single body: if Airflow interrupts the task (``execution_timeout``), the thread
        # still reads the response and records the id. With a budget, each charge must be known before the
        # next submit.
        workers = 1 if self._budget.is_limited else MAX_PARALLEL
        executor = ThreadPoolExecutor(workers, thread_name_prefix="magichour-submit")
        is_over = False
        try:
            for future in [executor.submit(work, position) for position in bodies]:
                future.result()
            is_over = True
        finally:  # even if Airflow interrupts the task: the calls that were already sent are recorded
            if not is_over:
                self._stop.set()
            executor.shutdown(wait=True, cancel_futures=True)
            self._wait_for_calls(math.inf)  # of a thread whose start was interrupted: the executor lost it
        return outcomes

    def _is_broken_after(self, *, uncertain: bool) -> bool:
        """Count the uncertain submits in a row, and return whether the network seems to be broken."""
        with self._lock:
            self._uncertain_in_a_row = self._uncertain_in_a_row + 1 if uncertain else 0
            return self._uncertain_in_a_row >= MAX_UNCERTAIN

    def _submit_one(self, name: str, body: dict[str, Any], record: Record) -> Submitted:
        """Write the intent, send the create call once, write the outcome. Only then wait and try again."""

        def submit() -> Submitted:
            self._budget.check(name, self._patience.read_account)
            self._hook.wait_for_rate_limit(self._stop)  # before the intent: a 429 may delay all calls
            return self._submit_once(name, body, record)

        try:
            return self._patience.repeat(submit)
        except MagicHourUncertainSubmitError as error:
            if not self._options.retry_uncertain_submit:
                raise
            raise MagicHourConnectionError(
                f"{error}. A retry submits it again (retry_uncertain_submit)"
            ) from error

    def _submit_once(self, name: str, body: dict[str, Any], record: Record) -> Submitted:
        with self._lock:
            self._under_way += 1
        try:
            intent = self._records.write_intent(record)
            if self._stop.is_set():  # killed, or another body failed in between
                self._records.discard(intent)
                raise self._not_submitted()
            try:
                response = self._hook.send_once(self._request(body))
            except MagicHourUncertainSubmitError as error:
                self._budget.add([], uncertain=1)
                stats.count("submit_uncertain", tool=self._tool, kind=self._kind)
                if not self._options.retry_uncertain_submit:
                    self.uncertain.append(name)
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

    def _read_account(self) -> Any:
        return self._patience.repeat(self._patience.read_account)

    # --------------------------------------------------------------------------------------------- errors

    def _stop_all(self, error: MagicHourError) -> None:
        self._stopped_by = self._stopped_by or error
        self._stop.set()

    def _not_submitted(self) -> MagicHourError:
        """Return the error of a body that was not submitted because of an error of the others."""
        error = self._stopped_by or MagicHourError("The task was interrupted")
        is_certain = not isinstance(error, MagicHourUncertainSubmitError)
        if is_certain and isinstance(error, AirflowFailException | MagicHourApiError):
            return error
        return MagicHourError(f"{self._tool} was not submitted; a retry submits it: {error}")

    def _explained(self, error: MagicHourError) -> MagicHourError:
        """Add the remaining credits to a 402, and to a 404 the hint that the tool was not found."""
        if isinstance(error, MagicHourNotFoundError):
            return MagicHourNotFoundError(
                error.status_code, f"{error.message} (Magic Hour has no tool {self._tool!r})", error.call
            )
        if not isinstance(error, MagicHourPaymentRequiredError) or error.is_about_plan:
            return error
        try:
            left = balance_of(self._patience.read_account())
        except MagicHourError as account_error:
            log.warning("The account's credits could not be read: %s", account_error)
            return error
        message = error.message if left is None else f"{error.message} ({left:g} credits left)"
        return MagicHourPaymentRequiredError(error.status_code, message, error.call, error.code)


def _without(bodies: Sequence[dict[str, Any]], outcomes: Mapping[int, Any]) -> dict[int, dict[str, Any]]:
    """Return, by position, the bodies without an outcome."""
    return {position: body for position, body in enumerate(bodies) if position not in outcomes}

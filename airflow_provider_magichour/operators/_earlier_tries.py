"""Decides about the projects that earlier tries of a task submitted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour._client import api
from airflow_provider_magichour._polling.not_found import CERTAIN_SECONDS
from airflow_provider_magichour.exceptions import (
    MagicHourError,
    MagicHourNotFoundError,
    MagicHourUncertainSubmitError,
)
from airflow_provider_magichour.operators._clear_or_retry import KILLED, REPORTED_MISSING, UNCERTAIN
from airflow_provider_magichour.operators._submit_record import Record, Submitted

if TYPE_CHECKING:
    from airflow_provider_magichour.hooks import MagicHourHook
    from airflow_provider_magichour.operators._submit_records import SubmitRecords

log = logging.getLogger(__name__)

#: Returns the responses for projects by their ids. See :func:`ask_for_projects` for the other arguments.
Ask = Callable[[Sequence[str], Callable[[int], bool]], list[Any]]

#: How long 404 must be the only response before it counts, and the pause between two requests.
NOT_FOUND_SECONDS, NOT_FOUND_PAUSE = CERTAIN_SECONDS, 5.0


class EarlierTries:
    """
    Decides for each recorded submit whether the task continues with it, submits again, or asks a person.

    :param ask: requests projects, as :func:`ask_for_projects` does.
    :param retry_uncertain_submit: whether an uncertain submit may be sent again.
    """

    def __init__(
        self,
        hook: MagicHourHook,
        kind: str,
        records: SubmitRecords,
        ask: Ask,
        *,
        retry_uncertain_submit: bool,
    ) -> None:
        self._hook = hook
        self._kind = kind
        self._records = records
        self._ask = ask
        self._retry_uncertain = retry_uncertain_submit
        #: The error of a project of another account. Nothing else may be paid for then.
        self.other_account: MagicHourError | None = None

    def outcomes(self, bodies: Sequence[str], names: Sequence[str]) -> dict[int, Submitted | MagicHourError]:
        """
        Return, by position, the projects to continue with, and the errors for a person.

        :param bodies: the fingerprints. Bodies that are missing in the result must be submitted.
        """
        matched = self._records.match(bodies)
        if self._records.succeeded:
            log.info("An earlier try succeeded, but Airflow did not record it: returning the same result.")
        decided: dict[int, Submitted | MagicHourError | None] = {}
        taken: set[int] = set()
        while matched:
            taken |= {record.slot for record in matched.values()}
            decided |= self._decide(matched, names)
            left = {position: bodies[position] for position in matched if decided[position] is None}
            matched = self._records.match_others(left, taken)  # a list can have the same body twice
        return {position: outcome for position, outcome in decided.items() if outcome is not None}

    def _decide(
        self, matched: Mapping[int, Record], names: Sequence[str]
    ) -> dict[int, Submitted | MagicHourError | None]:
        """Return by position what :meth:`outcomes` does; None for what is to be submitted again."""
        made = {position: record for position, record in matched.items() if record.id is not None}
        if self._records.succeeded:
            decided: dict[int, Any] = {position: self._as_it_is(record) for position, record in made.items()}
        else:
            decided = self._of_projects(made)
        for position, record in matched.items():
            if record.id is None:
                decided[position] = self._of_intent(record, names[position])
        return decided

    def _of_projects(self, made: Mapping[int, Record]) -> dict[int, Submitted | MagicHourError | None]:
        ids = [str(record.id) for record in made.values()]
        records = list(made.values())
        responses = self._ask(ids, lambda n: self._foreign_account(records[n]) is not None)
        missing = [one for one, response in zip(ids, responses, strict=True) if _is_not_found(response)]
        reasons = self._hook.explain_not_found(self._kind, missing)
        return {
            position: reasons.get(str(record.id)) or self._of_project(record, response)
            for (position, record), response in zip(made.items(), responses, strict=True)
        }

    def _as_it_is(self, record: Record) -> Submitted:
        result = self._records.result_of(str(record.id), record)
        return Submitted(str(record.id), record.credits_charged, record, result is not None, result)

    def _of_intent(self, record: Record, name: str) -> MagicHourError | None:
        """Return the error of a submit with an unknown outcome, or None if it may be sent again."""
        if self._retry_uncertain:
            log.warning(
                "It is unknown whether an earlier try submitted %s. Submitting again, because "
                "retry_uncertain_submit is set.",
                name,
            )
        elif self._records.is_cleared(record):
            log.info("The task was cleared after its submit of %s was uncertain: submitting again.", name)
        else:
            return uncertain(self._records, record, name)
        self._records.give_up(record)
        return None

    def _of_project(self, record: Record, response: Any) -> Submitted | MagicHourError | None:
        """Return what the details of a project mean, or None if it must be submitted again."""
        if _is_not_found(response):
            return self._of_missing(record, response)
        if isinstance(response, MagicHourError):
            return response
        if response.get("enabled") is False:
            return self._of_deleted(record)
        if (error := api.task_error(response)) is not None:
            log.warning("%s. Submitting again.", error)
            self._records.give_up(record, refunded=response.get("status") == "error")
            return None
        log.info("Continuing with project %s, which an earlier try submitted.", record.id)
        withdraw_report(self._records, record)
        return Submitted(str(record.id), record.credits_charged, record, api.is_finished(response))

    def _of_missing(self, record: Record, response: MagicHourNotFoundError) -> MagicHourError | None:
        """Return the error of a project that was not found, which does not prove that it is deleted."""
        if (error := self._foreign_account(record)) is not None:
            self.other_account = error
            return error
        reported = record.reported
        if reported is not None and reported.why != KILLED and self._records.is_cleared(record):
            log.info("The task was cleared after project %s was not found: submitting again.", record.id)
            self._records.give_up(record)
            return None
        self._records.mark_reported(record, REPORTED_MISSING)
        return not_found(str(record.id), response)

    def _foreign_account(self, record: Record) -> MagicHourError | None:
        account = self._account
        if isinstance(account, MagicHourError):
            return account
        if record.account is None or account is None or record.account == account:
            return None
        return MagicHourNotFoundError(
            404,
            f"project {record.id} was made by the account {record.account}, but the connection's key belongs "
            f"to the account {account}. Nothing was submitted, because that would pay again: restore the "
            "key, then clear the task, which continues with the project",
        )

    def _of_deleted(self, record: Record) -> Submitted | MagicHourError | None:
        if (result := self._records.result_of(str(record.id), record)) is not None:
            return Submitted(str(record.id), record.credits_charged, record, True, result)
        if (
            record.reported is not None
            and record.reported.why == KILLED
            and not self._records.is_cleared(record)
        ):
            self._records.mark_reported(record, KILLED)  # a Clear from now on is one, also if the run is new
            return MagicHourNotFoundError(
                404,
                f"project {record.id} was deleted when the task was killed (delete_on_kill). Nothing was "
                "submitted: clear the task to submit it again",
            )
        log.warning("Project %s was deleted: submitting again.", record.id)
        self._records.give_up(record)
        return None

    @cached_property
    def _account(self) -> str | MagicHourError | None:
        """The account of the connection's key, or the error."""
        try:
            return account_id(self._hook.check_account())
        except MagicHourError as error:
            return error


def ask_for_projects(
    hook: MagicHourHook,
    calls: Sequence[api.Request],
    stopping: threading.Event,
    is_in_vain: Callable[[int], bool],
) -> list[Any]:
    """
    Request projects. After a 404, request them again for a minute, because an earlier 404 does not count.

    :param stopping: set when the task is killed.
    :param is_in_vain: whether to stop if the project at this position is not found.
    """
    responses = hook.send_all(calls)
    until = time.monotonic() + NOT_FOUND_SECONDS
    while unknown := [n for n, response in enumerate(responses) if _is_not_found(response)]:
        left = until - time.monotonic()
        if left <= 0 or any(map(is_in_vain, unknown)):
            break
        log.info("%d project(s) not found; checking again in %g s.", len(unknown), NOT_FOUND_PAUSE)
        if stopping.wait(min(NOT_FOUND_PAUSE, left)):
            for n in unknown:
                responses[n] = MagicHourError(f"{responses[n]}. The task was killed; a retry checks again")
            break
        again = hook.send_all([calls[n] for n in unknown])
        for n, response in zip(unknown, again, strict=True):
            responses[n] = response
    return responses


def account_id(account: Mapping[str, Any]) -> str | None:
    """Return the id of an account, or None if the response has none."""
    value = account.get("id")
    return value if isinstance(value, str) and value else None


def _is_not_found(response: Any) -> bool:
    return isinstance(response, MagicHourNotFoundError)


def uncertain(records: SubmitRecords, record: Record, name: str) -> MagicHourUncertainSubmitError:
    """Ask a person about a submit with an unknown outcome, by the error that is returned."""
    records.mark_reported(record, UNCERTAIN)
    return MagicHourUncertainSubmitError(
        f"An earlier try of this task was stopped in the middle of submitting {name}, so a project "
        "may or may not have been made. Nothing was submitted again, because that could cost the "
        "credits twice. Search for it at https://magichour.ai/my-library, and in the earlier "
        "try's log: if it is there, use its id; if not, clear the task, which then submits again"
    )


def withdraw_report(records: SubmitRecords, record: Record) -> None:
    """Ask no person about a project any more with which the task continues."""
    if record.reported is not None:  # a killed one may still be deleted
        records.mark_reported(record, KILLED if record.reported.why == KILLED else None)


def not_found(project_id: str, response: MagicHourNotFoundError) -> MagicHourNotFoundError:
    """Return the error of a project for which 404 has been the only response for a minute."""
    return MagicHourNotFoundError(
        404,
        f"project {project_id} was not found for {NOT_FOUND_SECONDS:g} s ({response.message}), which does "
        "not prove that it is gone. Nothing was submitted again. Check that the connection has the key and "
        "host that the project was made with; to submit it again, clear the task",
    )

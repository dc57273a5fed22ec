"""The data that a generate task keeps during a deferral, and the results of its wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_magichour.exceptions import MagicHourError, MagicHourTimeoutError
from airflow_provider_magichour.operators._submit_record import Submitted
from airflow_provider_magichour.operators._submit_records import SubmitRecords

if TYPE_CHECKING:
    from airflow_provider_magichour._polling.wait_request import WaitRequest
    from airflow_provider_magichour.operators._reuse import StoredResults

#: The longest error message that is kept during a deferral, in characters.
MAX_MESSAGE = 500


def outcomes_to_json(outcomes: Sequence[Submitted | MagicHourError]) -> list[dict[str, Any]]:
    """Return the outcomes, without the results, as JSON that Airflow stores during the deferral."""
    return [
        {"error": _carry_error(one)}
        if isinstance(one, MagicHourError)
        else {
            "id": one.id,
            "charged": one.credits_charged,
            "finished": one.is_finished,
            "stored": one.result is not None,
            "new": one.is_new,
        }
        for one in outcomes
    ]


def outcomes_from_json(
    outcomes: Sequence[Mapping[str, Any]], records: SubmitRecords, reuse: StoredResults | None
) -> list[Submitted | MagicHourError]:
    """Return the outcomes from the JSON of :func:`outcomes_to_json`, with the results from before."""
    from airflow_provider_magichour.triggers import carried_error

    known: list[Submitted | MagicHourError] = []
    for position, one in enumerate(outcomes):
        if "error" in one:
            known.append(carried_error(one["error"]))
            continue
        project_id, result = str(one["id"]), None
        if one.get("stored"):
            result = records.result_of(project_id)
            if result is None and reuse is not None:
                result = reuse.result_of(position, project_id)
        known.append(
            Submitted(
                project_id,
                one.get("charged"),
                is_finished=bool(one.get("finished")),
                is_new=bool(one.get("new")),
                result=result,
            )
        )
    return known


def outcomes_of_0_1_0(
    event: object,
    count: int,
    submitted: Sequence[str] | None = None,
    failed: Mapping[str, Any] | None = None,
) -> list[Submitted | MagicHourError]:
    """
    Return the outcomes from the projects in order, and from the errors of the other bodies by position.

    Version 0.1.0 deferred with these two. ``dag.test()`` drops both, and then only the event has the
    projects.

    :raises MagicHourError: if they do not match the number of bodies.
    """
    from airflow_provider_magichour.triggers import carried_error, named_ids

    submitted, failed = submitted or named_ids(event), failed or {}
    if len(submitted) + len(failed) != count:
        raise MagicHourError(
            f"The task has {count} bodies, but was resumed with an event about {len(submitted)} projects, "
            "which is not trusted. What was submitted is recorded: a retry continues with it"
        )
    ids = iter(submitted)
    return [
        carried_error(failed[str(position)]) if str(position) in failed else Submitted(next(ids))
        for position in range(count)
    ]


def _carry_error(error: MagicHourError) -> dict[str, Any]:
    from airflow_provider_magichour.triggers import carry_error

    carried = carry_error(error)
    return {
        **carried,
        "args": [one[:MAX_MESSAGE] if isinstance(one, str) else one for one in carried["args"]],
    }


class WaitEnd(NamedTuple):
    """
    The result of a wait.

    :param timeout_error: the error of a wait that timed out.
    """

    ended: Mapping[str, str]
    timeout_error: MagicHourTimeoutError | None = None


def pending(outcomes: Sequence[Submitted | MagicHourError], wait: WaitEnd) -> list[str]:
    """Return the projects that are not finished."""
    return [
        one.id
        for one in outcomes
        if not isinstance(one, MagicHourError) and not one.is_finished and one.id not in wait.ended
    ]


def wait_here(request: WaitRequest, conn_id: str, seconds: float | None, logger: Any) -> WaitEnd:
    """
    Wait on this thread.

    :param seconds: the longest time to wait. None to wait until the deadline, and then time out.
    """
    from airflow_provider_magichour._client.transport import run_async
    from airflow_provider_magichour._polling import wait
    from airflow_provider_magichour.hooks.connection import get_settings_async

    common: dict[str, Any] = {"missing_ok": True, "logger": logger}
    if seconds is not None:
        return WaitEnd(wait.wait_on_worker(request, conn_id, get_settings_async, seconds, **common).outcomes)
    try:
        return WaitEnd(
            run_async(lambda: wait.wait_for_outcomes(request, conn_id, get_settings_async, **common))
        )
    except MagicHourTimeoutError as error:
        return WaitEnd({}, error)


def read_wait(event: object, kind: str, waiting: Sequence[str], before: WaitEnd) -> WaitEnd:
    """
    Return the result of a trigger's wait, together with the results before it.

    :param waiting: the projects that were pending when the task deferred.
    :raises MagicHourError: if the event is about other projects, or has another error than a timeout.
    """
    from airflow_provider_magichour._polling.deferral import split_ids
    from airflow_provider_magichour.triggers import read_event

    try:
        return WaitEnd({**before.ended, **read_event(event, kind, split_ids(waiting)[0])})
    except MagicHourTimeoutError as error:
        return WaitEnd(before.ended, error)

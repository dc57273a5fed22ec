"""
A task's submit records: written so that no try pays for what an earlier one has paid for.

Before a create call is sent its *intent* is written, and the project's id the moment it is known. Whenever a
worker dies, the next try finds one of three things: nothing (nothing was sent), an id (it goes on with the
project), or an intent without an id, of which only a person can find out what became of it. The intent is
there only while the call is on its way: a certain refusal discards it before any pause.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_magichour.exceptions import (
    MagicHourError,
    MagicHourSubmitRecordError,
    MagicHourUncertainSubmitError,
)
from airflow_provider_magichour.operators import _record
from airflow_provider_magichour.operators._record import (
    CLOSED,
    DISCARDED,
    INTENT,
    MADE,
    Ending,
    Record,
    Reported,
    Try,
    UnreadableRecordError,
)

if TYPE_CHECKING:
    from airflow_provider_magichour._transfer.storage import Storage
    from airflow_provider_magichour.operators._submit_stores import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between the tries to reach a store; an id that was paid for is worth more patience.
BEFORE_SUBMIT_PAUSES = (0.5, 2.0)
AFTER_SUBMIT_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Submitted:
    """
    A body's project.

    :param id: the project.
    :param credits_charged: what the create call said, an estimate.
    :param record: its record, None where it is not at hand.
    :param is_finished: whether it need not be waited for.
    :param result: what an earlier try made of it, None where the project itself has to be asked.
    :param is_new: whether this try made it.
    """

    id: str
    credits_charged: Any = None
    record: Record | None = None
    is_finished: bool = False
    result: Mapping[str, Any] | None = None
    is_new: bool = False


class SubmitRecords:
    """
    The submit records of a task instance, in each store that there is.

    :param stores: those that outlive the try. A store of files is needed, where there is one; Airflow's own
        may fail meanwhile.
    :param now: the try that runs.
    """

    def __init__(self, stores: Sequence[Store], now: Try) -> None:
        self._stores = sorted(stores, key=lambda store: not store.outlives_run)
        self._now = now
        self._lock = threading.Lock()
        self._records: dict[tuple[int, str], Record] = {}
        self._numbers: dict[int, int] = {}  # of each slot, the highest
        self._taken: set[int] = set()  # slots that count
        self._first_free = 0

    @classmethod
    def of_task(
        cls, context: Mapping[str, Any], *, durable: bool = True, storage: Storage | None = None
    ) -> SubmitRecords:
        """
        Return the records of the task that runs in this context.

        :param durable: whether to record anything that outlives the try.
        :param storage: the root in object storage, None where there is none.
        """
        from airflow_provider_magichour.operators._submit_stores import ObjectStore, TaskStateStore

        stores: list[Store] = []
        ti: Any = context.get("ti")
        if durable and storage is not None:
            stores.append(ObjectStore(storage, (ti.dag_id, ti.run_id, ti.task_id, ti.map_index)))
        if durable and context.get("task_state_store") is not None:
            stores.append(TaskStateStore(context["task_state_store"]))
        return cls(stores, Try.of_context(context))

    @property
    def is_persistent(self) -> bool:
        """Whether they outlive this try."""
        return bool(self._stores)

    # -------------------------------------------------------------------------------------- earlier tries

    def match(self, bodies: Sequence[str]) -> dict[int, Record]:
        """
        Return by position the records to go on with; what has none is to be submitted.

        :param bodies: the fingerprints of the list.
        :raises MagicHourSubmitRecordError: if a store cannot be read.
        :raises MagicHourUncertainSubmitError: if what is stored is no record.
        """
        self.read(len(bodies))
        counted = [record for record in self._records.values() if record.epoch == self._ending.epoch]
        matched = _record.match(counted, bodies)
        taken = {record.slot for record in matched.values()}
        left = [one for one in counted if one.state in {INTENT, MADE} and one.slot not in taken]
        if left:
            log.warning(
                "Earlier tries of this task submitted %d bodies that it does not have any more (%s); they "
                "are left alone. To be paid for once, a body has to be the same in each try.",
                len(left),
                ", ".join(one.id or "outcome unknown" for one in left[:10]),
            )
        return matched

    def read(self, count: int) -> None:
        """Read the records of a task with that many bodies."""
        found = [record for store in self._stores for record in self._read(store, store.read_records, count)]
        self._records = {}
        for record in _record.newest(found).values():
            self._keep(record)

    @cached_property
    def _ending(self) -> Ending:
        """How the task last ended. A Clear of a success begins a new epoch, which is written down at once."""
        found = {store: self._read(store, store.read_ending) or Ending() for store in self._stores}
        ending = max(found.values(), key=lambda one: (one.number, one.success is not None), default=Ending())
        if ending.success is None or not self._is_over(ending.success, ending.number, found):
            return ending
        log.info("The task was cleared after it had succeeded: submitting anew.")
        anew = replace(ending, number=ending.number + 1, epoch=ending.epoch + 1, success=None, results={})
        self._write_all(lambda store: store.write_ending(anew), "the Clear of a success")
        self.was_cleared = True
        return anew

    #: Whether this very try found that a success was cleared.
    was_cleared = False

    def _is_over(self, success: Try, number: int, found: Mapping[Store, Ending]) -> bool:
        if self._now.is_cleared_since(success.max_tries, success.clear_number):
            return True
        # A run that was deleted and made again under the same id has no task state, but objects.
        same_run = any(not store.outlives_run and one.number == number for store, one in found.items())
        return not same_run and self._now.try_number <= success.try_number

    @property
    def succeeded(self) -> bool:
        """Whether an earlier try succeeded and no Clear came after it: Airflow never heard of it."""
        return self._ending.success is not None

    def is_cleared(self, record: Record) -> bool:
        """Return whether a person heard of this submit by an error, and cleared the task then."""
        reported = record.reported
        return reported is not None and self._now.is_cleared_since(reported.max_tries, reported.clear_number)

    def result_of(self, project_id: str, record: Record | None = None) -> Mapping[str, Any] | None:
        """Return what an earlier try made of a project, None if that is not known."""
        found = self._ending.results.get(project_id, record.result if record else None)
        return found if isinstance(found, Mapping) else None

    def of_project(self, project_id: str, count: int) -> Record | None:
        """Return the record of a project, None where there is none."""
        if not self._records:
            self.read(count)
        return next((one for one in self._records.values() if one.id == project_id), None)

    def charges(self) -> tuple[list[Any], int]:
        """Return what this task's projects were charged so far, and how many submits are uncertain."""
        counted = [
            one
            for one in self._records.values()
            if one.epoch == self._ending.epoch and one.state != DISCARDED
        ]
        return (
            [one.credits_charged for one in counted if one.id is not None],
            sum(one.id is None for one in counted),
        )

    # ------------------------------------------------------------------------------------------- a submit

    def write_intent(self, body: str, account: str | None) -> Record:
        """
        Write down that a create call is about to be sent.

        :raises MagicHourSubmitRecordError: if that cannot be written; then the call must not be sent.
        """
        epoch = self._ending.epoch
        with self._lock:
            slot = self._first_free
            number = self._numbers.get(slot, 0) + 1
            record = Record(slot, number, body[: _record.BODY_DIGITS], INTENT, epoch=epoch, account=account)
            self._note(record)
        try:
            self._write_all(lambda store: store.write(record), "the intent to submit")
        except MagicHourSubmitRecordError:
            self.discard(record)  # it may have been written, and only the response was lost
            raise
        return record

    def record_id(self, intent: Record, project_id: str, credits_charged: Any, *, name: str) -> Record:
        """
        Write down the project that a create call made: in one store before anything else.

        :raises MagicHourUncertainSubmitError: naming the project, if no store takes it.
        """
        record = self._keep(intent.next(state=MADE, id=project_id, credits_charged=credits_charged))
        errors = self._write_each(record)
        for pause in AFTER_SUBMIT_PAUSES:
            if len(errors) < max(len(self._stores), 1):
                break
            log.warning("%s; trying again in %g s", *errors.values(), pause)
            time.sleep(pause)
            errors = self._write_each(record)
        if self._stores and len(errors) == len(self._stores):
            raise MagicHourUncertainSubmitError(
                f"{name} made project {project_id}, which is paid for and goes on at Magic Hour, but the "
                f"project id could not be written to {'; '.join(errors.values())}. A retry could not know "
                f"it, so there is none: use project {project_id}. To submit anew instead, clear the task, "
                "once more where it then says that the outcome is unknown"
            ) from MagicHourSubmitRecordError("; ".join(errors.values()))
        for error in errors.values():
            log.warning("Could not write the id of project %s to %s", project_id, error)
        return record

    def discard(self, record: Record) -> None:
        """Take an intent back: the call was certainly not accepted."""
        later = self._keep(record.next(state=DISCARDED))
        alone = len(self._stores) == 1
        if self._if_possible(lambda store: store.discard(later, alone=alone)):
            log.warning(
                "Nothing was made, but the intent could not be discarded: a retry may take it for an "
                "uncertain submit."
            )

    def give_up(self, record: Record, *, refunded: bool = False) -> None:
        """
        Write down that a body is to be submitted anew.

        :param refunded: whether its credits came back.
        :raises MagicHourSubmitRecordError: if that cannot be written; then nothing may be submitted.
        """
        later = self._keep(record.next(state=DISCARDED if refunded else CLOSED))
        self._write_all(lambda store: store.write(later), f"what became of project {record.id}")

    def mark_reported(self, record: Record, why: str) -> Record:
        """Write down that an error asks a person about a submit: a Clear from now on submits it anew."""
        reported = Reported(why, self._now.max_tries, self._now.clear_number)
        later = self._keep(record.next(reported=reported))
        self._if_possible(lambda store: store.write(later))
        return later

    def end(self, *, succeeded: bool, results: Mapping[str, Any] | None = None) -> None:
        """
        Write down how the task ends: a Clear of a success submits anew, a retry of it does not.

        :param results: by project, what the task made of it; kept in case the project is deleted.
        """
        now = self._now if succeeded else self._ending.success
        ending = replace(self._ending, number=self._ending.number + 1, success=now, results=results or {})
        self._if_possible(lambda store: store.write_ending(ending))

    def succeed(self) -> None:
        """Write down that the task succeeded."""
        self.end(succeeded=True)

    # -------------------------------------------------------------------------------------------- stores

    def _keep(self, record: Record) -> Record:
        with self._lock:
            self._note(record)
        return record

    def _note(self, record: Record) -> None:
        """Remember a record, and whether its slot is free."""
        self._records[record.slot, record.body] = record
        if record.number < self._numbers.get(record.slot, 0):
            return
        self._numbers[record.slot] = record.number
        if record.epoch == self._ending.epoch and record.state != DISCARDED:
            self._taken.add(record.slot)
        else:
            self._taken.discard(record.slot)
            self._first_free = min(self._first_free, record.slot)
        while self._first_free in self._taken:
            self._first_free += 1

    def _read(self, store: Store, read: Callable[..., T], *arguments: Any) -> T:
        try:
            return _retried(store, lambda: read(*arguments))
        except UnreadableRecordError as error:
            raise MagicHourUncertainSubmitError(
                f"{error} in {store.name} is no submit record that this version can read, so nobody knows "
                "what was submitted. Nothing was submitted now. Search https://magichour.ai/my-library "
                "whether there is a project already; then delete that record and clear the task"
            ) from error
        except MagicHourError:
            raise
        except Exception as error:
            raise MagicHourSubmitRecordError(
                f"{store.name} could not be read, so nobody knows what was submitted already: "
                f"{_short(error)}. Nothing was submitted; a retry may pass"
            ) from error

    def _write_all(self, write: Callable[[Store], None], what: str) -> None:
        """Write to each store; Airflow's own may fail where there is another."""
        for store in self._stores:
            try:
                _retried(store, lambda store=store: write(store))  # type: ignore[misc]
            except Exception as error:
                if store is self._stores[0]:
                    raise MagicHourSubmitRecordError(
                        f"Could not write {what} to {store.name}: {_short(error)}. Nothing was submitted; a "
                        "retry may pass"
                    ) from error
                log.warning("Could not write %s to %s: %s", what, store.name, _short(error))

    def _write_each(self, record: Record) -> dict[str, str]:
        """Write a record to each store once; return the errors."""
        errors = {}
        for store in self._stores:
            try:
                store.write(record)
            except Exception as error:  # noqa: BLE001  # stores raise whatever their libraries do
                errors[store.name] = f"{store.name}: {_short(error)}"
        return errors

    def _if_possible(self, write: Callable[[Store], None]) -> int:
        """Write to each store; return how many failed."""
        failed = 0
        for store in self._stores:
            try:
                _retried(store, lambda store=store: write(store))  # type: ignore[misc]
            except Exception as error:  # noqa: BLE001  # nothing is paid twice without it
                failed += 1
                log.warning("Could not write to %s: %s", store.name, _short(error))
        return failed


def _retried(store: Store, action: Callable[[], T]) -> T:
    for pause in BEFORE_SUBMIT_PAUSES:
        try:
            return action()
        except UnreadableRecordError:
            raise
        except Exception as error:  # noqa: BLE001  # stores raise whatever their libraries do
            log.warning("%s: %s; trying again in %g s", store.name, _short(error), pause)
            time.sleep(pause)
    return action()


def _short(error: Exception) -> str:
    from airflow_provider_magichour._client.sanitize import without_query

    return without_query(f"{type(error).__name__}: {error}")[:300]

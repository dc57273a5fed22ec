"""
A task's submit records: written so that no try pays for what an earlier one has paid for.

Before a create call is sent its *intent* is written, and the project's id the moment it is known. Whenever a
worker dies, the next try finds one of three things: nothing (nothing was sent), an id (it goes on with the
project), or an intent without an id, of which only a person can find out what became of it. The intent is
there only while the call is on its way: a certain refusal discards it before any pause.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour import exceptions
from airflow_provider_magichour.exceptions import MagicHourError, MagicHourSubmitRecordError
from airflow_provider_magichour.operators import _submit_record
from airflow_provider_magichour.operators._clear_or_retry import KILLED, Ending, Reported, Try
from airflow_provider_magichour.operators._store_access import (
    AFTER_SUBMIT_PAUSES,
    describe_error,
    must_write,
    read_store,
    write_stores,
)
from airflow_provider_magichour.operators._submit_record import (
    BODY_DIGITS,
    CLOSED,
    DISCARDED,
    INTENT,
    MADE,
    Record,
)

if TYPE_CHECKING:
    from airflow_provider_magichour._transfer.storage import Storage
    from airflow_provider_magichour.operators._submit_stores import Store

log = logging.getLogger(__name__)

#: After so many seconds another try may have begun, because Airflow took this one for dead.
FRESH_SECONDS = 30.0


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
        self._writer = uuid.uuid4().hex[:8]
        self._lock = threading.Lock()
        self._checking = threading.Lock()
        self._has_checked = False
        self._records: dict[tuple[int, str], Record] = {}
        self._known: set[Record] = set()  # what was read before the first write, of any writer
        self._read_at: float | None = None

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

    def proves_writable(self, destination: Storage) -> bool:
        """Return whether an intent is written where a destination is, so that it finds out if that works."""
        return any(store.is_around(destination) for store in self._stores)

    # -------------------------------------------------------------------------------------- earlier tries

    def match(self, bodies: Sequence[str]) -> dict[int, Record]:
        """
        Return by position the records to go on with; what has none is to be submitted.

        :param bodies: the fingerprints of the list.
        :raises MagicHourSubmitRecordError: if a store cannot be read.
        :raises MagicHourUncertainSubmitError: if what is stored is no record.
        """
        self.read(len(bodies))
        matched = _submit_record.match(self._counted(), bodies)
        taken = {record.slot for record in matched.values()}
        left = [record for record in self._counted() if record.is_live and record.slot not in taken]
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
        self._read_at = time.time()
        found = [record for store in self._stores for record in read_store(store, store.read_records, count)]
        self._known = {replace(record, result=None) for record in found}
        self._records = _submit_record.newest(found)

    def _counted(self) -> list[Record]:
        """Return the records that count: those since the last Clear of a success."""
        return [record for record in self._records.values() if record.epoch == self._ending.epoch]

    @cached_property
    def _ending(self) -> Ending:
        """How the task last ended. A Clear of a success begins a new epoch, which is written down at once."""
        found = {store: read_store(store, store.read_ending) or Ending() for store in self._stores}
        ending = max(found.values(), key=lambda one: (one.number, one.success is not None), default=Ending())
        # a run that was deleted and made again under the same id has no task state, but objects
        same_run = any(not store.outlives_run and one.number == ending.number for store, one in found.items())
        if not self._now.is_cleared_after_success(ending, is_same_run=same_run):
            return ending
        log.info("The task was cleared after it had succeeded: submitting again.")
        anew = replace(ending, number=ending.number + 1, epoch=ending.epoch + 1, success=None, results={})
        must_write(self._stores, lambda store: store.write_ending(anew), "the Clear of a success")
        return anew

    @property
    def was_cleared(self) -> bool:
        """Whether the tries since the last success follow on a Clear of it."""
        return self._ending.epoch > 0

    @property
    def succeeded(self) -> bool:
        """Whether an earlier try succeeded and no Clear came after it: Airflow never heard of it."""
        return self._ending.success is not None

    def is_cleared(self, record: Record) -> bool:
        """Return whether a person heard of this submit by an error, and cleared the task then."""
        return self._now.is_cleared_after_report(record.reported)

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
        counted = [record for record in self._counted() if record.state != DISCARDED]
        return (
            [one.credits_charged for one in counted if one.id is not None],
            sum(one.id is None for one in counted),
        )

    # ------------------------------------------------------------------------------------------- a submit

    def start(self, bodies: Mapping[int, str], account: str | None = None) -> dict[int, Record]:
        """
        Return by position the records that the submits of bodies begin with, each in a slot of its own.

        :param bodies: by position the fingerprints.
        :param account: the account that the key belongs to.
        """
        numbers: dict[int, int] = {}
        for record in self._records.values():
            numbers[record.slot] = max(record.number, numbers.get(record.slot, 0))
        taken = {record.slot for record in self._counted() if record.state != DISCARDED}
        free = (slot for slot in itertools.count() if slot not in taken)
        records = {}
        for (position, body), slot in zip(bodies.items(), free, strict=False):
            number, kept = numbers.get(slot, 0), body[:BODY_DIGITS]
            records[position] = Record(slot, number, kept, DISCARDED, self._ending.epoch, account=account)
        return records

    def write_intent(self, record: Record) -> Record:
        """
        Write down that a create call is about to be sent.

        :param record: what :meth:`start` gave.
        :raises MagicHourSubmitRecordError: if that cannot be written; then the call must not be sent.
        """
        before = self._records.get((record.slot, record.body), record)
        number = max(record.number, before.number) + 1
        intent = self._keep(replace(record, number=number, state=INTENT))
        try:
            must_write(self._stores, lambda store: store.write(intent), "the intent to submit")
            self._check_alone()
        except MagicHourSubmitRecordError:
            self.discard(intent)  # it may have been written, and only the response was lost
            raise
        return intent

    def _check_alone(self) -> None:
        """
        Look for another try that submits at the same time, because Airflow took one of the two for dead.

        Each writes its intent before it looks, so at least one of them sees the other. A first try looks
        only where it has not done so for longer than Airflow takes to start another.
        """
        store = next((one for one in self._stores if one.outlives_run), None)
        with self._checking:  # no other call of this try is sent before the outcome is known
            began = time.time()
            is_fresh = self._read_at is not None and began - self._read_at < FRESH_SECONDS
            if store is None or (is_fresh and (self._now.try_number == 1 or self._has_checked)):
                return
            for record in read_store(store, store.read_records, 0):
                if record.writer != self._writer and record not in self._known:
                    raise MagicHourSubmitRecordError(
                        "Another try of this task submits at the same time: one of them is on a worker that "
                        "Airflow has lost. Nothing was submitted; a retry continues with its projects"
                    )
            self._read_at, self._has_checked = began, True

    def record_id(self, intent: Record, project_id: str, credits_charged: Any, *, name: str) -> Record:
        """
        Write down the project that a create call made: in one store before anything else.

        :raises MagicHourUncertainSubmitError: naming the project, if no store takes it.
        """
        record = self._keep(intent.next(state=MADE, id=project_id, credits_charged=credits_charged))
        errors = write_stores(
            self._stores,
            lambda store: store.write(record),
            AFTER_SUBMIT_PAUSES,
            lambda errors: len(errors) < len(self._stores),
        )
        if self._stores and len(errors) == len(self._stores):
            described = "; ".join(f"{store.name}: {describe_error(error)}" for store, error in errors.items())
            raise exceptions.MagicHourUncertainSubmitError(
                f"{name} made project {project_id}, which is paid for and continues at Magic Hour, but the "
                f"project id could not be written to {described}. A retry could not find it, so there is no "
                f"retry: use project {project_id}. To submit again instead, clear the task; if it then says "
                "that the outcome is unknown, clear it once more"
            ) from MagicHourSubmitRecordError(described)
        return record

    def discard(self, record: Record) -> Record:
        """Take an intent back: the call was certainly not accepted."""
        later = self._keep(record.next(state=DISCARDED))
        if write_stores(self._stores, lambda store: store.discard(later)):
            log.warning(
                "Nothing was made, but the intent could not be discarded: a retry may take it for an "
                "uncertain submit."
            )
        return later

    def give_up(self, record: Record, *, refunded: bool = False) -> None:
        """
        Write down that a body is to be submitted again.

        :param refunded: whether its credits came back.
        :raises MagicHourSubmitRecordError: if that cannot be written; then nothing may be submitted.
        """
        later = self._keep(record.next(state=DISCARDED if refunded else CLOSED))
        must_write(self._stores, lambda store: store.write(later), f"what became of project {record.id}")

    def mark_reported(self, record: Record, why: str) -> bool:
        """
        Write down that a person is asked about a submit: a Clear from now on submits it anew.

        What an error asks is pending until the try ends with it (:meth:`ending`): if the worker dies before
        that, nobody has heard of it.

        :return: whether a later try will know.
        """
        pending = None if why == KILLED else self._now.try_number
        return self._report(record, Reported(why, self._now.max_tries, None, pending))

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """
        Write down that a person has heard what was reported, where the try ends with an error.

        If it is final, the run's number too, which before a retry another task's Clear may change.
        """
        try:
            yield
        except MagicHourError as error:
            with contextlib.suppress(Exception):  # logged; then a Clear has to be repeated
                self._confirm_reports(is_final=isinstance(error, AirflowFailException))
            raise

    def _confirm_reports(self, *, is_final: bool) -> None:
        if not self._records:
            self.read(0)
        now = (self._now.max_tries, self._now.clear_number if is_final else None, None)
        for record in self._counted():
            reported = record.reported
            if not record.is_live or reported is None or reported[1:] == now:
                continue
            if reported.pending == self._now.try_number or reported[1:] == (now[0], None, None):
                self._report(record, Reported(reported.why, *now))

    def withdraw_report(self, record: Record) -> None:
        """Write down that a person's decision is no longer needed: what was reported is there."""
        self._report(record, None)

    def _report(self, record: Record, reported: Reported | None) -> bool:
        later = self._keep(record.next(reported=reported))
        return len(write_stores(self._stores, lambda store: store.write(later))) < len(self._stores)

    def end(self, *, succeeded: bool, results: Mapping[str, Any] | None = None) -> None:
        """
        Write down how the task ends: a Clear of a success submits again, a retry of it does not.

        :param results: by project, what the task made of it; kept in case the project is deleted.
        """
        now = self._now if succeeded else self._ending.success
        ending = replace(self._ending, number=self._ending.number + 1, success=now, results=results or {})
        write_stores(self._stores, lambda store: store.write_ending(ending))

    def succeed(self) -> None:
        """Write down that the task succeeded."""
        self.end(succeeded=True)

    def _keep(self, record: Record) -> Record:
        record = replace(record, writer=self._writer)
        with self._lock:
            self._records[record.slot, record.body] = record
        return record

"""
A task's submit records, so that no try pays again for the project of an earlier try.

Before a create call is sent, its *intent* is written, and the project's id as soon as it is known. If the
worker is killed, the next try finds one of three things: nothing (nothing was sent), an id (it continues with
the project), or an intent without an id (only a person can find out whether there is a project). The intent
exists only during the call: a certain refusal discards it before any pause.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour import exceptions
from airflow_provider_magichour.exceptions import MagicHourError, MagicHourSubmitRecordError
from airflow_provider_magichour.operators import _submit_record
from airflow_provider_magichour.operators._clear_or_retry import KILLED, Ending, Reported, Try
from airflow_provider_magichour.operators._store_access import (
    describe_error,
    is_refusal,
    must_write,
    read_ending,
    read_store,
    write_any,
    write_last,
    write_one,
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

#: After so many seconds, another try may have started, by Airflow or by a person's Clear.
FRESH_SECONDS = 5.0
#: An earlier try that wrote a record within this time may still run, until Airflow has killed it, in seconds.
ALIVE_SECONDS = 30.0
#: The step of the ending's number when a try continues with projects.
TERM = 100


class SubmitRecords:
    """
    The submit records of a task instance, in all its stores.

    :param stores: the stores that remain after the try. A store of files must work, if there is one.
        Airflow's own store may then fail.
    :param now: the current try.
    """

    def __init__(self, stores: Sequence[Store], now: Try) -> None:
        self._stores = sorted(stores, key=lambda store: not store.outlives_run)
        self._now = now
        self._writer = uuid.uuid4().hex[:8]
        self._lock = threading.Lock()
        self._checking = threading.Lock()
        self._has_checked = False
        self._records: dict[tuple[int, str], Record] = {}
        self._known: set[Record] = set()  # the records before the first write, of any writer
        self._read_at: float | None = None
        self._begun_before: Try | None = None
        self._is_same_run = False
        #: Whether the error that the try ends with is the one that asks a person, and not one of its wait.
        self.has_asked = False

    @classmethod
    def of_task(
        cls, context: Mapping[str, Any], *, durable: bool = True, storage: Storage | None = None
    ) -> SubmitRecords:
        """
        Return the records of the task in this context.

        :param durable: whether to store the records after the try.
        :param storage: the root in object storage, or None.
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
        """Whether the records remain after this try."""
        return bool(self._stores)

    def proves_writable(self, destination: Storage) -> bool:
        """Return whether an intent is written to the destination's store, so that it checks the store."""
        return any(store.is_around(destination) for store in self._stores)

    # -------------------------------------------------------------------------------------- earlier tries

    def match(self, bodies: Sequence[str]) -> dict[int, Record]:
        """
        Return, by position, the records to continue with. A body without a record must be submitted.

        :raises MagicHourSubmitRecordError: if a store cannot be read.
        :raises MagicHourUncertainSubmitError: if the stored data is not a record.
        """
        self.read(len(bodies))
        if self._is_success_cleared():
            self._begin_epoch()
        if not self.succeeded and (self._now.try_number > 1 or self._counted()):
            self._begin_term()
        counted = self._counted()
        matched = _submit_record.match(counted, bodies)
        _submit_record.warn_of_left(counted, matched)
        return matched

    def match_others(self, bodies: Mapping[int, str], taken: Collection[int]) -> dict[int, Record]:
        """Return by position further records of the same bodies, without the slots that are taken."""
        others = [record for record in self._counted() if record.slot not in taken]
        found = _submit_record.match(others, list(bodies.values()))
        return {position: found[n] for n, position in enumerate(bodies) if n in found}

    def _begin_term(self) -> None:
        """
        Let no ending count any more that an earlier try, which may still run, writes from now on.

        Its success, after a Clear that this try has seen, would look as if it had been cleared.
        """
        before = self._begun_before = self._ending.begun
        is_lost = before is not None and before.try_number > self._now.try_number  # a later try has begun
        if is_lost or not any(store.outlives_run for store in self._stores):  # Airflow's own refuses it
            return
        term = max(self._ending.number // TERM + 1, self._now.try_number)  # above that of any earlier try
        self._ending = begun = replace(self._ending, number=term * TERM, begun=self._now)
        write_stores(self._stores, lambda store: store.write_ending(begun))
        for record in filter(self.is_cleared, self._counted()):  # a retry of this try knows it then
            self._report(record, record.reported and record.reported.by(self._now))

    def read(self, count: int) -> None:
        """Read the records of a task with this number of bodies."""
        self._read_at = time.time()
        found = [record for store in self._stores for record in read_store(store, store.read_records, count)]
        self._known = {replace(record, result=None) for record in found}
        self._records = _submit_record.newest(found)

    def _counted(self) -> list[Record]:
        """Return the valid records: those since the last Clear of a success."""
        return [record for record in self._all() if record.epoch == self._ending.epoch]

    def _all(self) -> list[Record]:
        with self._lock:  # a kill reads them, too
            return list(self._records.values())

    @cached_property
    def _ending(self) -> Ending:
        """How the task last ended."""
        ending, self._is_same_run = read_ending(self._stores, self._now)
        return ending

    def _is_success_cleared(self) -> bool:
        return self._now.is_cleared_after_success(self._ending, is_same_run=self._is_same_run)

    def _begin_epoch(self) -> None:
        """Begin a new epoch, which is recorded at once."""
        log.info("The task was cleared after it had succeeded: submitting again.")
        old, now = self._ending, self._now
        anew = replace(old, number=old.number + 1, epoch=old.epoch + 1, success=None, results={}, begun=now)
        must_write(self._stores, lambda store: store.write_ending(anew), "the Clear of a success")
        self._ending = anew

    @property
    def was_cleared(self) -> bool:
        """Whether the last success was cleared before the current tries."""
        return self._ending.epoch > 0

    @property
    def succeeded(self) -> bool:
        """Whether an earlier try succeeded without a later Clear, so that Airflow did not record it."""
        return self._ending.success is not None

    def is_cleared(self, record: Record) -> bool:
        """Return whether an error asked a person about this submit, and the person then cleared the task."""
        return self._now.is_cleared_after_report(record.reported, self._begun_before)

    def result_of(self, project_id: str, record: Record | None = None) -> Mapping[str, Any] | None:
        """Return the result of an earlier try for a project, or None."""
        found = self._ending.results.get(project_id, record.result if record else None)
        return found if isinstance(found, Mapping) else None

    def of_project(self, project_id: str, count: int) -> Record | None:
        """Return the record of a project, or None."""
        if not self._records:
            self.read(count)
        return next((one for one in self._all() if one.id == project_id), None)

    def charges(self) -> tuple[list[Any], int]:
        """Return the charges of this task's projects so far, and the number of uncertain submits."""
        counted = [record for record in self._counted() if record.state != DISCARDED]
        uncertain = sum(one.id is None for one in counted)
        return [one.credits_charged for one in counted if one.id is not None], uncertain

    # ------------------------------------------------------------------------------------------- a submit

    def start(self, bodies: Mapping[int, str], account: str | None = None) -> dict[int, Record]:
        """
        Return by position the records that the submits of bodies begin with, each in its own slot.

        :param bodies: by position, the fingerprints.
        :param account: the account of the key.
        """
        numbers: dict[int, int] = {}
        for record in self._all():
            numbers[record.slot] = max(record.number, numbers.get(record.slot, 0))
        taken = {record.slot for record in self._counted() if record.state != DISCARDED}
        free = (slot for slot in itertools.count() if slot not in taken)
        records = {}
        for (position, body), slot in zip(bodies.items(), free, strict=False):
            number, kept = numbers.get(slot, 0), body[:BODY_DIGITS]
            records[position] = Record(slot, number, kept, DISCARDED, self._ending.epoch, account=account)
        return records

    def seconds_to_settle(self) -> float:
        """
        Return how long to wait before the first intent, so that an earlier try that still submits is noticed.

        Such a try cannot notice this one until this one has written; after so long it checks again.
        """
        written = max((store.written_at() for store in self._stores if store.outlives_run), default=0.0)
        if time.time() - written >= ALIVE_SECONDS:
            return 0.0
        log.info("An earlier try has just written a record: waiting %g s, for it may go on.", FRESH_SECONDS)
        return FRESH_SECONDS

    def write_intent(self, record: Record) -> Record:
        """
        Record that a create call will be sent now.

        :param record: from :meth:`start`.
        :raises MagicHourSubmitRecordError: if it cannot be recorded. The call must not be sent then.
        """
        before = self._records.get((record.slot, record.body), record)
        number = max(record.number, before.number) + 1
        intent = self._keep(replace(record, number=number, state=INTENT))
        try:
            must_write(self._stores, lambda store: store.write(intent), "the intent to submit")
            self._check_alone()
        except MagicHourSubmitRecordError as error:
            if not is_refusal(error.__cause__):
                self.discard(intent)  # it may have been written, although the response was lost
            raise
        return intent

    def _check_alone(self) -> None:
        """
        Check for another try that submits at the same time, because Airflow took one of the two for dead.

        Each try writes its intent before it checks, so at least one of them sees the other. A first try
        checks only if its last check is older than the time in which Airflow can start another try.
        """
        store = next((one for one in self._stores if one.outlives_run), None)
        with self._checking:  # this try sends no other call before the outcome is known
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
        Record the project of a create call, in one store before anything else.

        :raises MagicHourUncertainSubmitError: if no store can be written. The message names the project.
        """
        record = self._keep(intent.next(state=MADE, id=project_id, credits_charged=credits_charged))
        if errors := write_one(self._stores, lambda store: store.write(record)):
            described = "; ".join(f"{store.name}: {describe_error(error)}" for store, error in errors.items())
            raise exceptions.MagicHourUncertainSubmitError(
                f"{name} made project {project_id}, which is paid for and continues at Magic Hour, but the "
                f"project id could not be written to {described}. A retry could not find it, so there is no "
                f"retry: use project {project_id}. To submit again instead, clear the task; if it then says "
                "that the outcome is unknown, clear it once more"
            ) from MagicHourSubmitRecordError(described)
        return record

    def discard(self, record: Record) -> Record:
        """Discard an intent, because the call was certainly not accepted."""
        self._read_at = None  # during a pause, another try finds no intent: the next intent checks again
        later = self._keep(record.next(state=DISCARDED))
        if write_stores(self._stores, lambda store: store.discard(later)):
            log.warning(
                "Nothing was made, but the intent could not be discarded: a retry may take it for an "
                "uncertain submit."
            )
        return later

    def give_up(self, record: Record, *, refunded: bool = False) -> None:
        """
        Record that a body must be submitted again.

        :param refunded: whether its credits were refunded.
        :raises MagicHourSubmitRecordError: if it cannot be recorded. Nothing may be submitted then.
        """
        later = self._keep(record.next(state=DISCARDED if refunded else CLOSED))
        must_write(self._stores, lambda store: store.write(later), f"what became of project {record.id}")

    def mark_reported(self, record: Record, why: str | None) -> bool:
        """
        Write down that a person is asked about a submit: a Clear from now on submits it again.

        The question is pending until the try ends with the error (:meth:`ending`). If the worker is killed
        before that, nobody has seen the error.

        :param why: the report; None withdraws it, because the project was found.
        :return: whether a later try will find this.
        """
        now = self._now
        pending = None if why == KILLED else now.try_number
        reported = Reported(why, now.max_tries, None, pending, now.try_number) if why else None
        return self._report(record, reported)

    @contextlib.contextmanager
    def ending(self, is_killed: Callable[[], bool]) -> Iterator[None]:
        """
        Record that a person has seen the reported errors, if the try ends with an error and was not killed.

        If the error is final, also record the number of the run. Before a retry, a Clear of another task may
        change it. Before the end of a killed try, a person may have cleared this task.
        """
        try:
            yield
        except MagicHourError as error:
            if not is_killed():
                with contextlib.suppress(Exception):  # logged; a Clear must then be repeated
                    self._confirm_reports(is_final=isinstance(error, AirflowFailException))
            raise

    def _confirm_reports(self, *, is_final: bool) -> None:
        if not self._records:
            self.read(0)
        if self.succeeded and not self._is_success_cleared():  # a Clear from now on is one of this error
            self.end(succeeded=False)
        now = self._now
        for record in self._counted():
            old = record.reported
            if not record.is_live or old is None:
                continue
            is_asked = old.pending is None and (old.max_tries, old.clear_number) == (now.max_tries, None)
            if (self.has_asked and old.pending == now.try_number) or (is_asked and is_final):
                clear_number = now.clear_number if is_final else None
                reported = Reported(old.why, now.max_tries, clear_number, None, now.try_number)
                self._report(record, reported, write_last)

    def _report(self, record: Record, new: Reported | None, write: Callable[..., bool] = write_any) -> bool:
        later = self._keep(record.next(reported=new))
        return write(self._stores, lambda store: store.write(later))

    def end(self, *, succeeded: bool, results: Mapping[str, Any] | None = None) -> None:
        """
        Record how the task ends. A Clear of a success submits again, and a retry does not.

        :param results: by project, the result of the task, in case the project is deleted.
        """
        now = self._now if succeeded else None
        known = {**self._ending.results, **(results or {})}
        ending = replace(self._ending, number=self._ending.number + 1, success=now, results=known)
        write_last(self._stores, lambda store: store.write_ending(ending))

    def _keep(self, record: Record) -> Record:
        record = replace(record, writer=self._writer)
        with self._lock:
            self._records[record.slot, record.body] = record
        return record

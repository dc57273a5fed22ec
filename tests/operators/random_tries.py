"""
A task in the hands of an Airflow that retries, clears and loses it, on workers that die at any step.

For test_paid_once_random.py: what happens is drawn from a seed, and :class:`Person` counts what may be paid.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_magichour import exceptions
from tests.support.tasks import RefusedError, TaskStateStore, task_context

#: What a store does for the records, and what of a hook is a step that a worker may die at.
STORE_CALLS = ("read_records", "read_ending", "write", "write_ending", "discard")
HOOK_CALLS = ("send_once", "send_all", "download_all")

#: The errors that ask a person to decide about a body.
ASKING = (exceptions.MagicHourUncertainSubmitError, exceptions.MagicHourNotFoundError)


class KilledError(BaseException):
    """The worker died. Nothing that it does afterwards has an effect."""


class Worker:
    """
    The process of one try.

    :param rng: draws what goes wrong.
    :param kill: whether it may die.
    :param outages: whether its stores may fail.
    """

    def __init__(self, rng: random.Random, *, kill: bool = False, outages: bool = False) -> None:
        self.dies_at = rng.randrange(1, 60) if kill else None
        self.pauses_at: int | None = None
        #: After how many steps it dies, counted from when it has written that it has begun.
        self.dies_after_begin: int | None = None
        #: At which store calls an outage begins, and whether the calls take effect all the same.
        self._outages = {rng.randrange(40): rng.random() < 0.5 for _ in range(rng.randrange(1, 4) * outages)}
        self._outage_calls = rng.randrange(1, 8)
        self._steps = self._store_calls = 0
        self._lock = threading.Lock()
        self.is_dead = False
        #: Whether it may have written down that the task succeeded.
        self.has_succeeded = False
        #: Airflow has begun another try: its own store takes nothing of this one any more.
        self.is_replaced = False
        self.paused, self.goes_on = threading.Event(), threading.Event()

    def step(self) -> None:
        """Die here, or wait here, if that is to be."""
        with self._lock:
            self._steps += 1
            now = self._steps
        if now == self.dies_at:
            self.is_dead = True
        if now == self.pauses_at:
            self.paused.set()
            self.goes_on.wait(120)
        if self.is_dead:
            raise KilledError

    def has_begun(self) -> None:
        """Die some steps later, if that is to be."""
        if self.dies_after_begin is not None and self.dies_at is None:
            self.dies_at = self._steps + self.dies_after_begin

    def outage(self) -> bool | None:
        """Return whether a store call that fails now takes effect all the same; None if it does not fail."""
        with self._lock:
            self._store_calls += 1
            began = [one for one in self._outages if 0 <= self._store_calls - one < self._outage_calls]
        return self._outages[began[0]] if began else None

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call with a step before and after it."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.step()
            try:
                return call(*args, **kwargs)
            finally:
                self.step()

        return wrapped


class WorkersStore:
    """A store of submit records as one worker reaches it."""

    def __init__(self, store: Any, worker: Worker) -> None:
        self._store, self._worker = store, worker
        self.name, self.outlives_run = store.name, store.outlives_run

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in STORE_CALLS:
            return found

        def call(*args: Any) -> Any:
            takes_effect = self._worker.outage()
            self._worker.has_succeeded |= name == "write_ending" and args[0].success is not None
            if self._worker.is_replaced and not self.outlives_run and not name.startswith("read"):
                raise RefusedError
            if takes_effect is None:
                found_now = found(*args)
                if name == "write_ending" and args[0].begun is not None:
                    self._worker.has_begun()
                return found_now
            if takes_effect and not name.startswith("read"):
                found(*args)
            raise ConnectionError("the store is away")

        return self._worker.wrap(call)


class Person:
    """
    What a person has wanted, heard and allowed, by body.

    :param names: the names of the wanted bodies, equal ones as often as they are wanted.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.wanted = Counter(names)
        self.allowed = Counter(names)
        self._asked: Counter[str] = Counter()

    def hears(self, names: Sequence[str], outcomes: Sequence[Any]) -> None:
        """Read the errors of a try that ended."""
        asked = Counter(name for name, one in zip(names, outcomes, strict=True) if isinstance(one, ASKING))
        self._asked |= asked

    def clears(self, *, everything: bool) -> None:
        """
        Clear the task.

        :param everything: whether all of it is to be paid for again; otherwise what errors have asked about.
        """
        self.allowed += self.wanted if everything else self._asked
        self._asked.clear()


class Airflow:
    """
    The numbers of one task instance, as Airflow keeps them.

    :param retries: the task's, in the DAG.
    :param store: its task state store, None before 3.3.
    """

    def __init__(self, retries: int, store: TaskStateStore | None) -> None:
        self.retries = self.max_tries = retries
        self.try_number = self.clear_number = 0
        self.store = store
        self.can_retry = True

    def begin(self, worker: Worker) -> Any:
        """Return the context of the next try."""
        self.try_number += 1
        context = task_context(
            try_number=self.try_number, max_tries=self.max_tries, store=self.store, worker=worker
        )
        context["dag_run"].clear_number = self.clear_number
        context["task"] = SimpleNamespace(retries=self.retries)
        return context

    def end(self, error: BaseException | None) -> None:
        """Decide whether a try that failed is followed by a retry."""
        is_final = isinstance(error, AirflowFailException)
        self.can_retry = not is_final and self.try_number <= self.max_tries

    def clear(self, retries: int) -> None:
        """Clear the task, whose DAG has so many retries now."""
        self.retries, self.max_tries = retries, self.try_number + retries
        self.clear_number += 1

    def clear_another(self) -> None:
        """Clear another task of the run."""
        self.clear_number += 1

    def edit_retries(self, retries: int) -> None:
        """Edit the DAG, except to the one value that makes a retry look like a Clear (docs: Paying once)."""
        if self.max_tries != self.try_number + retries:
            self.retries = retries

    def make_run_again(self) -> None:
        """Delete the run, and make it again under the same id."""
        self.try_number = self.clear_number = 0
        self.max_tries = self.retries
        if self.store is not None:
            self.store.clear()


def run_with_failed_deferral(task: Any, context: Any) -> Any:
    """Execute a task; if it defers, Airflow itself ends that."""
    try:
        return task.execute(context)
    except TaskDeferred:
        return task.resume_execution("__fail__", {"error": "Trigger timeout"}, context)


def run_two(
    first: Callable[[], Any],
    worker: Worker,
    meanwhile: Callable[[Future[Any]], Any],
) -> tuple[Any, Any]:
    """Do one thing until its worker pauses, another meanwhile, and then the rest of the first."""
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(first)
        while not worker.paused.wait(0.01) and not running.done():
            pass
        try:
            second = meanwhile(running)
        finally:
            worker.goes_on.set()
        return running.result(300), second

"""
Clear or retry: decides which of the two a try is.

A retry goes on with what is paid for; a Clear is a person's word, and may pay again. Airflow does not tell a
task which it is, so the numbers that a Clear changes are compared with those at an earlier moment: when the
task succeeded, or when an error asked a person to decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: Why a person was asked to decide about a submit.
UNCERTAIN, REPORTED_MISSING, KILLED = "uncertain", "missing", "killed"


class UnreadableRecordError(ValueError):
    """What is stored is no record."""


class Try(NamedTuple):
    """
    A try, as far as a Clear shows in it.

    :param max_tries: the task instance's; a Clear sets it to the tries so far plus ``retries``.
    :param clear_number: the DAG run's, which counts Clears of any of its tasks; None where it is not known.
    :param try_number: the task instance's, from 1.
    :param retries: the task's, as the DAG has it now; None where it is not known.
    """

    max_tries: int
    clear_number: int | None = None
    try_number: int = 1
    retries: int | None = None

    @classmethod
    def of_context(cls, context: Mapping[str, Any]) -> Try:
        """Return the try that runs in this context."""
        ti, dag_run = context.get("ti"), context.get("dag_run")
        number = getattr(dag_run, "clear_number", None)
        retries = getattr(context.get("task"), "retries", None)
        return cls(
            getattr(ti, "max_tries", None) or 0,
            number if isinstance(number, int) else None,
            getattr(ti, "try_number", None) or 1,
            retries if isinstance(retries, int) else None,
        )

    def is_cleared_since(self, max_tries: int, clear_number: int | None) -> bool:
        """
        Return whether a person cleared the task after these were its numbers.

        The DAG run's number may have changed by a Clear of another task: it counts only where ``max_tries``
        is what a Clear makes of it, which it is not at a retry of a task whose ``retries`` nobody edited.
        """
        if self.max_tries != max_tries:
            return True
        may_be_first = self.retries is None or self.max_tries == self.try_number - 1 + self.retries
        is_counted = None not in (self.clear_number, clear_number) and self.clear_number != clear_number
        return may_be_first and is_counted

    def is_cleared_after_report(self, reported: Reported | None) -> bool:
        """Return whether a person heard of a submit by an error, and cleared the task then."""
        if reported is None or reported.pending is not None:
            return False
        return self.is_cleared_since(reported.max_tries, reported.clear_number)

    def is_cleared_after_success(self, ending: Ending, *, is_same_run: bool) -> bool:
        """
        Return whether the task was cleared after it had succeeded, or its run was made again.

        :param is_same_run: whether Airflow's own store, which goes with the run, knows of this ending.
        """
        success = ending.success
        if success is None:
            return False
        if self.is_cleared_since(success.max_tries, success.clear_number):
            return True
        return not is_same_run and self.try_number <= success.try_number


class Reported(NamedTuple):
    """
    An error that asked a person to decide, and when.

    :param why: ``uncertain``, ``missing`` or ``killed``.
    :param clear_number: the DAG run's, None where it is not known, or the task may have gone on with a retry.
    :param pending: the number of the try that has yet to end with the error; None when it has.
    """

    why: str
    max_tries: int
    clear_number: int | None = None
    pending: int | None = None


@dataclass(frozen=True)
class Ending:
    """
    How the task last ended.

    :param number: grows with each write.
    :param epoch: grows when a success is cleared; records of older epochs do not count.
    :param success: the try that succeeded, None where none did in this epoch.
    :param results: by project, what the task made of it.
    :param max_tries: of the success that 0.1.0 wrote, which its records are compared with.
    """

    number: int = 0
    epoch: int = 0
    success: Try | None = None
    results: Mapping[str, Any] = field(default_factory=dict)
    max_tries: int | None = None

    @classmethod
    def from_json(cls, value: Any) -> Ending:
        """
        Read what is stored; 0.1.0 stored nothing but a success and its ``max_tries``.

        :raises UnreadableRecordError: if it is nothing of that kind.
        """
        try:
            if "number" not in value:
                max_tries = int(value["max_tries"])
                return cls(success=Try(max_tries, None, 0), max_tries=max_tries)
            success = value.get("success")
            return cls(
                int(value["number"]),
                int(value["epoch"]),
                Try(**success) if success else None,
                dict(value.get("results") or {}),
                value.get("max_tries"),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UnreadableRecordError(str(value)[:200]) from None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        success = self.success and self.success._replace(retries=None)._asdict()
        value = {**vars(self), "success": success, "results": dict(self.results)}
        return {name: each for name, each in value.items() if each is not None}

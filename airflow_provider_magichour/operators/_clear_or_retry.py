"""
Decides whether a try is a Clear or a retry.

A retry continues with the projects that were paid for. A Clear is the decision of a person, and may pay
again. Airflow does not say which of the two a try is. Therefore the numbers that a Clear changes are compared
with their earlier values: from the time when the task succeeded, or when an error asked a person to decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: The reasons for asking a person about a submit.
UNCERTAIN, REPORTED_MISSING, KILLED = "uncertain", "missing", "killed"


class UnreadableRecordError(ValueError):
    """The stored data is not a record."""


class Try(NamedTuple):
    """
    The numbers of a try that show a Clear.

    :param max_tries: of the task instance. A Clear sets it to the tries so far plus ``retries``.
    :param clear_number: of the DAG run. It counts the Clears of any of its tasks. None if it is not known.
    :param try_number: of the task instance, from 1.
    :param retries: of the task, according to the current DAG. None if it is not known.
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

        A Clear of another task also changes the DAG run's number. It counts only if ``max_tries`` has the
        value that a Clear sets. At a retry, ``max_tries`` does not have this value unless somebody changed
        ``retries``.
        """
        if self.max_tries != max_tries:
            return True
        may_be_first = self.retries is None or self.max_tries == self.try_number - 1 + self.retries
        is_counted = None not in (self.clear_number, clear_number) and self.clear_number != clear_number
        return may_be_first and is_counted

    def is_cleared_after_report(self, reported: Reported | None, begun: Try | None) -> bool:
        """
        Return whether an error asked a person about a submit, and the person then cleared the task.

        If two tries run at once, the later one may have reported it, or the earlier one after the Clear.

        :param begun: the last try before this one that continued with records, or None.
        """
        if reported is None or reported.pending is not None:
            return False
        by = reported.try_number
        if by is not None and (by > self.try_number or self._is_late(by, begun)):
            return False
        return self.is_cleared_since(reported.max_tries, reported.clear_number)

    def is_cleared_after_success(self, ending: Ending, *, is_same_run: bool) -> bool:
        """
        Return whether the task was cleared after a success, or its run was deleted and created again.

        :param is_same_run: whether Airflow's own store has this ending. It loses its data when the run is
            deleted.
        """
        success = ending.success
        if success is None or (is_same_run and self.try_number < success.try_number):
            return False
        if self._is_late(success.try_number, ending.begun):
            return False
        if self.is_cleared_since(success.max_tries, success.clear_number):
            return True
        return not is_same_run and self.try_number <= success.try_number

    def _is_late(self, by: int, begun: Try | None) -> bool:
        """Return whether try ``by`` wrote after the last Clear, because a later try had already begun."""
        return (
            begun is not None
            and by < begun.try_number <= self.try_number  # otherwise of a run that was deleted
            and begun.max_tries == self.max_tries
        )


class Reported(NamedTuple):
    """
    An error that asked a person to decide, and when.

    :param why: ``uncertain``, ``missing`` or ``killed``.
    :param clear_number: the DAG run's, None if it is not known, or the task may have continued with a retry.
    :param pending: the number of the try that has not ended with the error yet; None after it has.
    :param try_number: the number of the try that reported it, None if it is not known.
    """

    why: str
    max_tries: int
    clear_number: int | None = None
    pending: int | None = None
    try_number: int | None = None

    def by(self, now: Try) -> Reported:
        """Return the report as one of another try."""
        return self._replace(try_number=now.try_number)


@dataclass(frozen=True)
class Ending:
    """
    How the task last ended.

    :param number: grows with each write.
    :param epoch: grows with each Clear of a success. Records of older epochs do not count.
    :param success: the try that succeeded, None if there is none in this epoch.
    :param max_tries: of a success in the form of 0.1.0, for the comparison with its records.
    :param begun: the last try that continued with records of earlier ones.
    """

    number: int = 0
    epoch: int = 0
    success: Try | None = None
    results: Mapping[str, Any] = field(default_factory=dict)
    max_tries: int | None = None
    begun: Try | None = None

    @classmethod
    def from_json(cls, value: Any) -> Ending:
        """
        Read the stored data. Version 0.1.0 stored only a success and its ``max_tries``.

        :raises UnreadableRecordError: if it is nothing of that kind.
        """
        try:
            if "number" not in value:
                max_tries = int(value["max_tries"])
                return cls(success=Try(max_tries, None, 0), max_tries=max_tries)
            success, begun = value.get("success"), value.get("begun")
            return cls(
                int(value["number"]),
                int(value["epoch"]),
                Try(**success) if success else None,
                dict(value.get("results") or {}),
                value.get("max_tries"),
                Try(**begun) if begun else None,
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UnreadableRecordError(str(value)[:200]) from None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        tries = {"success": self.success, "begun": self.begun}
        known = {name: one and one._replace(retries=None)._asdict() for name, one in tries.items()}
        value = {**vars(self), **known, "results": dict(self.results)}
        return {name: each for name, each in value.items() if each is not None}

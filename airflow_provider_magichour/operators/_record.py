"""
What a task remembers of one submit, and the rules by which a try reads it. Nothing here reads or writes.

A record is in one of four states:

- ``intent``: a create call may be on its way, and nobody knows its outcome;
- ``made``: the project's id is known;
- ``discarded``: nothing was made, or what was made failed and was refunded;
- ``closed``: given up with good reason, so that its body is submitted anew; it may have cost credits.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

INTENT, MADE, DISCARDED, CLOSED = "intent", "made", "discarded", "closed"
#: Why a person was asked to decide about a project.
UNCERTAIN, MISSING, KILLED = "uncertain", "missing", "killed"
#: As much of a fingerprint as is kept, in hexadecimal digits.
BODY_DIGITS = 32


class UnreadableRecordError(ValueError):
    """What is stored is no record."""


class Try(NamedTuple):
    """
    The try that runs, as far as a Clear shows in it.

    :param max_tries: the task instance's; a Clear sets it to the tries so far plus ``retries``.
    :param clear_number: the DAG run's, which counts Clears of any of its tasks; None where it is not known.
    :param try_number: the task instance's, from 1.
    """

    max_tries: int
    clear_number: int | None = None
    try_number: int = 1

    @classmethod
    def of_context(cls, context: Mapping[str, Any]) -> Try:
        """Return the try that runs in this context."""
        ti, dag_run = context.get("ti"), context.get("dag_run")
        number = getattr(dag_run, "clear_number", None)
        return cls(
            getattr(ti, "max_tries", None) or 0,
            number if isinstance(number, int) else None,
            getattr(ti, "try_number", None) or 1,
        )

    def is_cleared_since(self, max_tries: int, clear_number: int | None) -> bool:
        """Return whether a person cleared the task after it had ended for good."""
        counted = None not in (self.clear_number, clear_number) and self.clear_number != clear_number
        return self.max_tries != max_tries or counted


class Reported(NamedTuple):
    """
    An error that asked a person to decide, and when.

    :param why: ``uncertain``, ``missing`` or ``killed``.
    """

    why: str
    max_tries: int
    clear_number: int | None = None


@dataclass(frozen=True)
class Record:
    """
    A submit.

    :param slot: its place among the task's records.
    :param number: grows with each write to the slot; of several stores the highest is right.
    :param body: the fingerprint of what was submitted.
    :param state: see above.
    :param epoch: grows when a success is cleared; what is older does not count any more.
    :param id: the project.
    :param account: the account whose key submitted it, where it is known.
    :param credits_charged: what the create call said.
    :param reported: the error that asked a person to decide.
    :param result: what 0.1.0 kept here of a finished project.
    """

    slot: int
    number: int
    body: str
    state: str
    epoch: int = 0
    id: str | None = None
    account: str | None = None
    credits_charged: float | None = None
    reported: Reported | None = None
    result: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, value: Any, slot: int) -> Record:
        """
        Read what is stored, also by 0.1.0, which had neither states nor numbers.

        :raises UnreadableRecordError: if it is no record.
        """
        try:
            reported = value.get("reported", value.get("told"))
            if isinstance(reported, int):
                reported = {"why": UNCERTAIN, "max_tries": reported}
            return cls(
                slot=slot,
                number=int(value.get("number", 0)),
                body=_text(value["body"])[:BODY_DIGITS],
                state=_text(value["state"] if "state" in value else _state_of_old(value)),
                epoch=int(value.get("epoch", 0)),
                id=value.get("id"),
                account=value.get("account"),
                credits_charged=value.get("credits_charged"),
                reported=Reported(**reported) if reported else None,
                result=value.get("result"),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UnreadableRecordError(str(value)[:200]) from None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON, without what is not known."""
        value = {name: each for name, each in vars(self).items() if name not in {"slot", "reported"}}
        reported = self.reported and {
            name: each for name, each in self.reported._asdict().items() if each is not None
        }
        return {name: each for name, each in {**value, "reported": reported}.items() if each is not None}

    def next(self, **changes: Any) -> Record:
        """Return the record as it is after one more write."""
        return dataclasses.replace(self, number=self.number + 1, **changes)


def _state_of_old(value: Mapping[str, Any]) -> str:
    int(value["max_tries"])  # each record of 0.1.0 has it
    return INTENT if value.get("id") is None else MADE


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


@dataclass(frozen=True)
class Ending:
    """
    How the task last ended.

    :param number: grows with each write.
    :param epoch: the epoch that counts; see :class:`Record`.
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
        success = self.success._asdict() if self.success else None
        value = {**vars(self), "success": success, "results": dict(self.results)}
        return {name: each for name, each in value.items() if each is not None}


def newest(records: Iterable[Record]) -> dict[tuple[int, str], Record]:
    """
    Return of each slot and body the record with the highest number.

    Two tries at once, of which one does not know yet that it was given up, may take the same slot for
    different bodies.
    """
    found: dict[tuple[int, str], Record] = {}
    for record in records:
        known = found.get((record.slot, record.body))
        if known is None or known.number < record.number:
            found[record.slot, record.body] = record
    return found


def match(records: Iterable[Record], bodies: Sequence[str]) -> dict[int, Record]:
    """
    Return by position the record of each body that has one.

    They are matched by content, as often as it occurs: in another order, the list is the same.

    :param records: those that count.
    :param bodies: the fingerprints of the list.
    """
    free: dict[str, list[Record]] = defaultdict(list)
    live = [record for record in records if record.state in {INTENT, MADE}]
    for record in sorted(live, key=lambda one: (one.state == MADE, -one.slot)):
        free[record.body].append(record)
    return {
        position: free[body[:BODY_DIGITS]].pop()
        for position, body in enumerate(bodies)
        if free[body[:BODY_DIGITS]]
    }

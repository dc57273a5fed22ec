"""
The record of one submit, and what comes of it. Nothing here reads or writes.

A record is in one of four states:

- ``intent``: a create call may be on its way, and nobody knows its outcome;
- ``made``: the project's id is known;
- ``discarded``: nothing was made, or what was made failed and was refunded;
- ``closed``: given up with good reason, so that its body is submitted again; it may have cost credits.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_magichour.operators._clear_or_retry import UNCERTAIN, Reported, UnreadableRecordError

INTENT, MADE, DISCARDED, CLOSED = "intent", "made", "discarded", "closed"
#: As much of a fingerprint as is kept, in hexadecimal digits.
BODY_DIGITS = 32

_AS_IT_IS = ("id", "account", "credits_charged", "writer", "result")


@dataclass(frozen=True)
class Record:
    """
    A submit.

    :param slot: its place among the task's records.
    :param number: grows with each write to the slot; of several stores the highest is right.
    :param body: the fingerprint of what was submitted.
    :param state: see above.
    :param epoch: what :class:`Ending` has; what is older does not count any more.
    :param id: the project.
    :param account: the account whose key submitted it, where it is known.
    :param credits_charged: what the create call said.
    :param reported: the error that asked a person to decide.
    :param result: what 0.1.0 kept here of a finished project.
    :param writer: the process that wrote it.
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
    writer: str | None = None

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
                reported=Reported(**reported) if reported else None,
                **{name: value.get(name) for name in _AS_IT_IS},
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UnreadableRecordError(str(value)[:200]) from None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON, without what is not known: Airflow's task state store takes no tuples."""
        reported = self.reported and _known(self.reported._asdict())
        value = _known({**vars(self), "reported": reported})
        del value["slot"]
        return value

    def next(self, **changes: Any) -> Record:
        """Return the record as it is after one more write."""
        return dataclasses.replace(self, number=self.number + 1, **changes)

    @property
    def is_live(self) -> bool:
        """Return whether there is a project, or may be one, that the task goes on with."""
        return self.state in {INTENT, MADE}


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


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _state_of_old(value: Mapping[str, Any]) -> str:
    int(value["max_tries"])  # each record of 0.1.0 has it
    return INTENT if value.get("id") is None else MADE


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def newest(records: Iterable[Record]) -> dict[tuple[int, str], Record]:
    """
    Return of each slot and body the record with the highest number.

    Two tries at once, of which one does not know yet that it was given up, may take the same slot for
    different bodies, or write the same number: then an id is worth more than none.
    """
    ordered = sorted(records, key=lambda record: (record.number, record.id is not None))
    return {(record.slot, record.body): record for record in ordered}


def match(records: Iterable[Record], bodies: Sequence[str]) -> dict[int, Record]:
    """
    Return by position the record of each body that has one.

    They are matched by content, as often as it occurs: in another order, the list is the same.

    :param records: those that count.
    :param bodies: the fingerprints of the list.
    """
    free: dict[str, list[Record]] = defaultdict(list)
    live = [record for record in records if record.is_live]
    for record in sorted(live, key=lambda one: (one.state == MADE, -one.slot)):
        free[record.body].append(record)
    return {
        position: free[body[:BODY_DIGITS]].pop()
        for position, body in enumerate(bodies)
        if free[body[:BODY_DIGITS]]
    }

"""
The record of one submit. This module does not read or write.

A record is in one of four states:

- ``intent``: a create call may have been sent, and its outcome is unknown;
- ``made``: the project's id is known;
- ``discarded``: no project was created, or it failed and was refunded;
- ``closed``: the project was given up, so that its body is submitted again. It may have cost credits.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_magichour.operators._clear_or_retry import UNCERTAIN, Reported, UnreadableRecordError

log = logging.getLogger(__name__)

INTENT, MADE, DISCARDED, CLOSED = "intent", "made", "discarded", "closed"
#: The stored length of a fingerprint, in hexadecimal digits.
BODY_DIGITS = 32

_AS_IT_IS = ("id", "account", "credits_charged", "writer", "result")


@dataclass(frozen=True)
class Record:
    """
    A submit.

    :param slot: its position in the task's records.
    :param number: grows with each write to the slot. The highest number of all stores counts.
    :param body: the fingerprint of the body.
    :param epoch: as in :class:`Ending`. Records of older epochs do not count.
    :param account: the account whose key submitted it, if it is known.
    :param credits_charged: the charge in the response to the create call.
    :param reported: the error that asked a person to decide.
    :param result: the data that 0.1.0 stored here about a finished project.
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
        Read a stored record. Those of 0.1.0 have neither states nor numbers.

        :raises UnreadableRecordError: if it is not a record.
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
        """Return the known fields as plain JSON, because Airflow's task state store accepts no tuples."""
        reported = self.reported and _known(self.reported._asdict())
        value = _known({**vars(self), "reported": reported})
        del value["slot"]
        return value

    def next(self, **changes: Any) -> Record:
        """Return the record with the number of the next write."""
        return dataclasses.replace(self, number=self.number + 1, **changes)

    @property
    def is_live(self) -> bool:
        """Return whether the task has, or may have, a project for this record."""
        return self.state in {INTENT, MADE}


@dataclass(frozen=True)
class Submitted:
    """
    A body's project.

    :param credits_charged: the estimate in the response to the create call.
    :param record: its record, or None.
    :param is_finished: whether it is finished.
    :param result: the result of an earlier try, None if the project must be read.
    :param is_new: whether this try created it.
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
    Return the record with the highest number of the latest epoch for each slot and body.

    If two tries run at once, they may use the same slot for different bodies, or write the same number. What
    one of them writes without knowing the other's project or intent does not replace it: no record without an
    id replaces a project, and a discarded intent replaces only the intent of its own writer.
    """
    in_order = sorted(records, key=lambda record: (record.epoch, record.number, record.id is not None))
    discarded = {
        (record.slot, record.body, record.epoch, record.writer): record.number
        for record in in_order
        if record.state == DISCARDED and record.id is None
    }
    found: dict[tuple[int, str], Record] = {}
    for record in in_order:
        before, by = found.get((record.slot, record.body)), (record.epoch, record.writer)
        if record.state == INTENT and discarded.get((record.slot, record.body, *by), -1) > record.number:
            continue
        if before is not None and before.epoch == record.epoch and record.id is None:
            is_foreign = record.state == DISCARDED and before.writer != record.writer
            if before.state == MADE or (before.state == INTENT and is_foreign):
                continue
        found[record.slot, record.body] = record
    return found


def match(records: Iterable[Record], bodies: Sequence[str]) -> dict[int, Record]:
    """
    Return, by position, the record of each body that has one.

    Records are matched by content. Equal bodies get one record each, and the order of the list does not
    matter.

    :param records: the valid records.
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


def warn_of_left(records: Iterable[Record], matched: Mapping[int, Record]) -> None:
    """Log which records belong to no body of the task any more."""
    taken = {record.slot for record in matched.values()}
    left = [record for record in records if record.is_live and record.slot not in taken]
    if left:
        log.warning(
            "Earlier tries of this task submitted %d bodies that it does not have any more (%s); they "
            "are left alone. To be paid for once, a body must be the same in each try.",
            len(left),
            ", ".join(one.id or "outcome unknown" for one in left[:10]),
        )

"""
What a task remembers of its submits, so that a retry never pays twice.

Airflow 3.3 keeps a small store for each task instance that outlives a killed worker. Before a create call
leaves, its *intent* is written there, and the project's id the moment it is known. Whenever a worker dies,
the next try finds one of three things: nothing (nothing was sent), an id (the project is taken up), or an
intent without an id, of which only a person can tell what became of it.

A Clear is a person's word and is told from a retry by ``max_tries``, which only a Clear raises.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from airflow_provider_magichour.exceptions import MagicHourError, MagicHourUncertainSubmitError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between the tries to reach the store; an id that was paid for is worth more patience.
BEFORE_SUBMIT_PAUSES = (0.5, 2.0)
AFTER_SUBMIT_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)

#: The largest result that is remembered with its project, in bytes; Airflow advises 65,535 for a value.
MAX_RESULT = 60_000

_SUCCESS_KEY = "magichour_success"
_DEFERRAL_KEY = "magichour_deferral"

#: Parts of a signed URL that differ each time it is signed, while it names the same file.
_SIGNATURE = re.compile(
    r"(x-(amz|goog|oss|cos|obs|ms)-.*|signature|expires|awsaccesskeyid|googleaccessid|ossaccesskeyid"
    r"|policy|key-pair-id|sig|se|st|sp|sv|sr|skoid|sktid|skt|ske|sks|skv|spr|sip)",
    re.IGNORECASE,
)


def fingerprint(conn_id: str, tool: str, kind: str, body: Mapping[str, Any]) -> str:
    """
    Name what is submitted, in the same way in each try.

    It is taken before local files are replaced by their uploads, and without the signatures of URLs under
    ``assets``: both differ in each try although the same thing is asked for.
    """
    asked = {**body, "assets": _unsigned(body["assets"])} if "assets" in body else body
    text = json.dumps([conn_id, tool, kind, asked], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _unsigned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _unsigned(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_unsigned(each) for each in value]
    if isinstance(value, str) and re.match(r"https?://", value):
        try:
            parts = urlsplit(value)
        except ValueError:
            return value
        query = [
            (key, each)
            for key, each in parse_qsl(parts.query, keep_blank_values=True)
            if not _SIGNATURE.fullmatch(key)
        ]
        return urlunsplit(parts._replace(query=urlencode(query)))
    return value


@dataclass(frozen=True)
class Submit:
    """
    One position's record.

    :param body: the fingerprint of what was submitted.
    :param max_tries: the task's ``max_tries`` when the intent was written.
    :param id: the project, None while nobody knows it.
    :param credits_charged: what the create call answered.
    :param told: the task's ``max_tries`` when a person was told that the outcome is unknown.
    :param result: what the task made of the project once it was finished, None before that.
    """

    body: str
    max_tries: int
    id: str | None = None
    credits_charged: Any = None
    told: int | None = None
    result: dict[str, Any] | None = None

    @classmethod
    def read(cls, value: Any) -> Submit | None:
        """Read what is stored; None if it is no such record."""
        if not isinstance(value, Mapping):
            return None
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        if not isinstance(known.get("body"), str) or not isinstance(known.get("max_tries"), int):
            return None
        return cls(**known)


class SubmitRecords:
    """
    A task's records of its submits, one for each position of its list of bodies.

    :param store: Airflow's ``task_state_store``, or None to remember for this try only.
    :param max_tries: the task instance's ``max_tries``.
    """

    def __init__(self, store: Any, max_tries: int) -> None:
        self._store = store
        self._max_tries = max_tries
        self._options = _retention(store)
        self._lock = threading.RLock()
        self._in_process: dict[str, Any] = {}

    @classmethod
    def of_task(cls, context: Mapping[str, Any], *, durable: bool = True) -> SubmitRecords:
        """Return the memory of the task that runs in this context."""
        store = context.get("task_state_store") if durable else None
        return cls(store, getattr(context.get("ti"), "max_tries", None) or 0)

    @property
    def is_persistent(self) -> bool:
        """Whether it outlives this try."""
        return self._store is not None

    # ------------------------------------------------------------------------------------ before a submit

    def find(self, position: int, body: str, *, name: str) -> Submit | None:
        """
        Return the submit to go on with, None to submit anew.

        :param body: the fingerprint of what is to be submitted.
        :param name: what messages call it, such as ``text-to-video``.
        :raises MagicHourUncertainSubmitError: if an earlier try may have submitted it, and nobody knows.
        :raises MagicHourError: if the store cannot be read.
        """
        stored = self._read(_key(position), name)
        if stored is None:
            return None
        record = Submit.read(stored)
        if record is None:
            raise MagicHourUncertainSubmitError(
                f"What this task remembers of its submit of {name} cannot be read: {str(stored)[:200]!r}. "
                "Nothing was submitted. Look at https://magichour.ai/my-library whether there is a project "
                f"already; then delete {_key(position)!r} from the task's state store and clear the task"
            )
        if self._belongs_to_a_cleared_success(record):
            return None
        if record.body != body:
            log.warning(
                "The body of %s is another one than in an earlier try, so it is submitted as a new project. "
                "The earlier one %s is left alone. To be paid once, a body has to be the same in each try.",
                name,
                record.id or "(whose outcome is not known)",
            )
            return None
        if record.id is not None:
            return record
        if record.told is not None and self._max_tries > record.told:
            log.info("The task was cleared after its submit of %s was uncertain: submitting anew.", name)
            return None
        raise self._tell(position, record, name)

    @cached_property
    def _success(self) -> int | None:
        """The task's ``max_tries`` when it last succeeded, None if it never did."""
        success = self._read(_SUCCESS_KEY, "the task")
        ended = success.get("max_tries") if isinstance(success, Mapping) else None
        return ended if isinstance(ended, int) else None

    @property
    def succeeded(self) -> bool:
        """Whether an earlier try succeeded, and no Clear came after it: Airflow never heard of it."""
        return self._success is not None and self._success >= self._max_tries

    def _belongs_to_a_cleared_success(self, record: Submit) -> bool:
        return self._success is not None and record.max_tries <= self._success < self._max_tries

    def _tell(self, position: int, record: Submit, name: str) -> MagicHourUncertainSubmitError:
        """Build the error for a person, and remember that the person was told."""
        self.mark_reported(position, record)
        return MagicHourUncertainSubmitError(
            f"An earlier try of this task was stopped in the middle of submitting {name}, so a project may "
            "or may not have been made. Nothing was submitted again, because that could cost the credits "
            "twice. Look for it at https://magichour.ai/my-library, and in the earlier try's log for its id: "
            "if it is there, use its id; if it is not, clear the task, which then submits anew"
        )

    def write_intent(self, position: int, body: str, *, name: str) -> Submit:
        """
        Write down that a create call is about to leave.

        :raises MagicHourError: if that cannot be written; then the call must not leave.
        """
        record = Submit(body, self._max_tries)
        try:
            self._write(_key(position), asdict(record), BEFORE_SUBMIT_PAUSES)
        except Exception as error:
            self.discard_intent(position)  # it may have been taken, and only the answer got lost
            raise MagicHourError(
                f"Airflow's task state store did not take the intent to submit {name}: {_short(error)}. "
                "Nothing was submitted; a retry may pass"
            ) from error
        return record

    # ------------------------------------------------------------------------------------- after a submit

    def record_id(
        self, position: int, intent: Submit, project_id: str, credits_charged: Any, *, name: str
    ) -> Submit:
        """
        Write down the project that a create call made.

        :raises MagicHourUncertainSubmitError: naming the project, if that cannot be written.
        """
        record = replace(intent, id=project_id, credits_charged=credits_charged)
        try:
            self._write(_key(position), asdict(record), AFTER_SUBMIT_PAUSES)
        except Exception as error:
            raise MagicHourUncertainSubmitError(
                f"{name} made project {project_id}, which is paid for and goes on at Magic Hour, but "
                f"Airflow's task state store did not take its id: {_short(error)}. A retry could not know "
                f"it, so there is none: use project {project_id}. To submit anew instead, clear the task, "
                "once more where it then says that the outcome is unknown"
            ) from error
        return record

    def discard_intent(self, position: int) -> None:
        """Forget an intent whose create call was certainly refused, or never left."""
        try:
            self._retry(lambda: self._delete(_key(position)), BEFORE_SUBMIT_PAUSES)
        except Exception as error:  # noqa: BLE001  # the refusal is what the user has to hear of
            log.warning(
                "Nothing was made, but Airflow's task state store did not let go of the intent "
                "(%s): a retry will take it for an uncertain submit.",
                _short(error),
            )

    def mark_reported(self, position: int, intent: Submit) -> None:
        """Remember that a person was told of an uncertain submit: a Clear from now on submits anew."""
        record = replace(intent, told=self._max_tries)
        self._write_if_possible(_key(position), asdict(record))

    # -------------------------------------------------------------------------------------------- results

    def finish(self, position: int, record: Submit, result: Mapping[str, Any]) -> None:
        """Remember what came of a project, so that it is not lost if the project is deleted meanwhile."""
        done = asdict(replace(record, result=dict(result)))
        if len(json.dumps(done, default=str)) > MAX_RESULT:
            return
        self._write_if_possible(_key(position), done)

    def succeed(self) -> None:
        """Remember that the task succeeded: a Clear from now on submits anew, a retry does not."""
        self._write_if_possible(_SUCCESS_KEY, {"max_tries": self._max_tries})

    # ------------------------------------------------------------------------------------------ deferrals

    def defer(self, count: int, failed: Mapping[int, Any]) -> None:
        """
        Write down what the task has to know when it is resumed, besides its submits.

        :param count: how many bodies there are.
        :param failed: by position, the errors of those that were not submitted, as data.
        """
        if not self.is_persistent:
            return
        value = {"count": count, "failed": {str(position): error for position, error in failed.items()}}
        if len(json.dumps(value)) > MAX_RESULT:
            value["failed"] = {str(position): None for position in failed}
        try:
            self._write(_DEFERRAL_KEY, value, BEFORE_SUBMIT_PAUSES)
        except Exception as error:
            raise MagicHourError(
                f"Airflow's task state store did not take what the task is waiting for: {_short(error)}. "
                "A retry goes on with the same projects"
            ) from error

    def resume(self) -> tuple[list[Submit | None], dict[int, Any]] | None:
        """
        Return the submits that the task was waiting for, by position, and the errors that it had met.

        None where nothing remembers it.
        """
        value = self._read(_DEFERRAL_KEY, "the task") if self.is_persistent else None
        if not isinstance(value, Mapping):
            return None
        count, errors = value["count"], value["failed"]
        failed = {int(position): error for position, error in errors.items()}
        submits = [
            None if position in failed else Submit.read(self._read(_key(position), f"body[{position}]"))
            for position in range(count)
        ]
        return submits, failed

    # ---------------------------------------------------------------------------------------------- store

    def _read(self, key: str, name: str) -> Any:
        try:
            return self._retry(lambda: self._get(key), BEFORE_SUBMIT_PAUSES)
        except Exception as error:
            raise MagicHourError(
                f"Airflow's task state store could not be asked whether {name} was submitted already: "
                f"{_short(error)}. Nothing was submitted; a retry may pass"
            ) from error

    def _write(self, key: str, value: dict[str, Any], pauses: tuple[float, ...]) -> None:
        stored = {name: each for name, each in value.items() if each is not None}
        self._retry(lambda: self._set(key, stored), pauses)

    def _write_if_possible(self, key: str, value: dict[str, Any]) -> None:
        try:
            self._write(key, value, BEFORE_SUBMIT_PAUSES)
        except Exception as error:  # noqa: BLE001  # nothing is paid twice without it
            log.warning("Airflow's task state store did not take %s: %s", key, _short(error))

    def _retry(self, action: Callable[[], T], pauses: tuple[float, ...]) -> T:
        for pause in pauses:
            try:
                with self._lock:
                    return action()
            except Exception as error:  # noqa: BLE001  # the store's errors have no common class
                log.warning("Airflow's task state store: %s; trying again in %g s", _short(error), pause)
                time.sleep(pause)
        with self._lock:
            return action()

    def _get(self, key: str) -> Any:
        return self._in_process.get(key) if self._store is None else self._store.get(key)

    def _set(self, key: str, value: dict[str, Any]) -> None:
        if self._store is None:
            self._in_process[key] = value
        else:
            self._store.set(key, value, **self._options)

    def _delete(self, key: str) -> None:
        if self._store is None:
            self._in_process.pop(key, None)
        else:
            self._store.delete(key)


def _key(position: int) -> str:
    return f"magichour_submit_{position}"


def _retention(store: Any) -> dict[str, Any]:
    """Keep records as long as their DAG run: Airflow's default of 30 days may end before a Clear."""
    try:
        from airflow.sdk.execution_time.context import NEVER_EXPIRE, TaskStateStoreAccessor
    except ImportError:
        return {}
    return {"retention": NEVER_EXPIRE} if isinstance(store, TaskStateStoreAccessor) else {}


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]

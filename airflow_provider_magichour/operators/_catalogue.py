"""Records the results of a task's bodies in the catalogue: failed projects, uncertain submits, reuse."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow_provider_magichour._client import api
from airflow_provider_magichour._transfer import catalogue
from airflow_provider_magichour._transfer.receipts import run_of, timestamp
from airflow_provider_magichour.exceptions import MagicHourError, MagicHourUncertainSubmitError
from airflow_provider_magichour.operators._bodies import digest, with_files, without_signature
from airflow_provider_magichour.operators._submit_record import BODY_DIGITS, Submitted

log = logging.getLogger(__name__)


def _never_fails(record: Callable[..., None]) -> Callable[..., None]:
    """Log a warning if something cannot be recorded, because the task must not fail after it has paid."""

    @functools.wraps(record)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            record(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
            log.warning("The catalogue has no record of this task: %s: %s", type(error).__name__, error)

    return wrapper


class TaskRecorder:
    """
    Record the results of a task's bodies.

    :param index: the place of the catalogue; None for the connection's ``catalog``.
    :param keys: by position, the fingerprints of bodies that contain files.
    """

    def __init__(
        self,
        operator: Any,
        context: Mapping[str, Any],
        kind: str,
        index: str | None = None,
        keys: Mapping[int, str] | None = None,
    ) -> None:
        self._operator, self._context, self._kind, self._index = operator, context, kind, index
        self._keys = keys or {}
        body = operator.body
        self._bodies: Sequence[Mapping[str, Any]] = [body] if isinstance(body, Mapping) else list(body)

    def facts(self, outcomes: Sequence[Any], *, are_finished: bool) -> dict[str, dict[str, Any]]:
        """
        Return, by project, the fields for the catalogue that are not in the API's response.

        :param are_finished: whether this task has just seen that its projects are finished.
        """
        finished_at = timestamp(datetime.now(UTC)) if are_finished else None
        return {
            one.id: {
                "tool": self._operator.tool,
                "body_fingerprint": self._fingerprint(n),
                "credits_estimated": one.credits_charged,
                "finished_at": None if one.is_finished else finished_at,
                "prompt": _prompt(self._body(n)) if self._operator.catalog_prompts else None,
            }
            for n, one in self._projects(outcomes)
        }

    def _projects(self, outcomes: Sequence[Any]) -> Iterator[tuple[int, Submitted]]:
        yield from ((n, one) for n, one in enumerate(outcomes) if isinstance(one, Submitted))

    def _body(self, position: int) -> Mapping[str, Any]:
        """Return a body; an empty one if a template now gives fewer bodies than before the deferral."""
        return self._bodies[position] if position < len(self._bodies) else {}

    def _fingerprint(self, position: int) -> str:
        if known := self._keys.get(position):
            return known
        named = with_files(self._body(position), without_signature)
        return digest([self._operator.tool, self._kind, named])[:BODY_DIGITS]

    @_never_fails
    def record_submits(self, outcomes: Sequence[Submitted | MagicHourError]) -> None:
        """Record the submitted projects of a create task, because no other task may wait for them."""
        recorder = self._open(outcomes, are_finished=False)
        if recorder is None:
            return
        made = {
            one.id: {"credits_charged": one.credits_charged}
            for _, one in self._projects(outcomes)
            if one.is_new
        }
        recorder.add_events(catalogue.SUBMITTED, made)
        recorder.add_uncertain(self._uncertain(outcomes))

    @_never_fails
    def record_ends(
        self, outcomes: Sequence[Submitted | MagicHourError], ends: Sequence[Any], *, are_stored: bool
    ) -> None:
        """
        Record the projects that a generate task has not stored, and those that it reused.

        :param ends: by position, the result of the task for the body, or the error.
        :param are_stored: whether the downloads have written the other entries.
        """
        reused, left = {}, dict[str, Any]()
        for n, one in self._projects(outcomes):
            if isinstance(ends[n], MagicHourError):
                left[one.id] = None
            elif ends[n].get("reused"):
                reused[one.id] = ends[n]["project"]
            elif not are_stored:
                left[one.id] = ends[n]["project"]
        uncertain = self._uncertain(outcomes)
        recorder = self._open(outcomes, are_finished=True) if reused or left or uncertain else None
        if recorder is None:
            return
        unknown = [one for one, project in left.items() if project is None]
        if unknown:
            calls = [api.get_project(self._kind, one) for one in unknown]
            left |= dict(zip(unknown, self._operator.hook.send_all(calls), strict=True))
        recorder.add_ends(left)
        recorder.add_events(catalogue.REUSED, reused)
        recorder.add_uncertain(uncertain)

    def _uncertain(self, outcomes: Sequence[Any]) -> list[str]:
        positions = [n for n, one in enumerate(outcomes) if isinstance(one, MagicHourUncertainSubmitError)]
        return [self._fingerprint(n) for n in positions]

    def _open(self, outcomes: Sequence[Any], *, are_finished: bool) -> Any:
        if not self._operator.catalog:
            return None
        facts = self.facts(outcomes, are_finished=are_finished)
        return self._operator.hook.open_recorder(self._kind, self._index, facts, run_of(self._context))


def _prompt(body: Mapping[str, Any]) -> str | None:
    style = body.get("style")
    found = style.get("prompt") if isinstance(style, Mapping) else body.get("prompt")
    return found if isinstance(found, str) else None

"""Defers a task, within the limits of Airflow's database and scheduler."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from airflow_provider_magichour._polling.schedule import deferral_timeout

#: The method that Airflow resumes a task with if its deferral failed: it exceeded its ``timeout``, or the
#: trigger raised an error. Airflow does not document it. Tried on 2.11.2, 3.1.8 and 3.3.2.
FAILED_DEFERRAL = "__fail__"
#: The most bytes of a trigger's stored arguments. ``trigger.kwargs`` is TEXT on MySQL, which stores 65,535.
MAX_STORED_BYTES = 60_000
#: Bytes of the other arguments, with a margin: a connection id may have 250 characters.
OTHER_BYTES = 2_000


def stored_bytes(plain: int) -> int:
    """Return the length of a text of so many bytes after Airflow has encrypted it (Fernet, base64)."""
    token = 57 + 16 * (plain // 16 + 1)  # version, time, vector and signature; padded to whole blocks
    return 4 * -(-token // 3)


def split_ids(project_ids: Sequence[str]) -> list[list[str]]:
    """Split ids into lists that each fit into one trigger's arguments, in order."""
    parts: list[list[str]] = [[]]
    size = OTHER_BYTES
    for project_id in dict.fromkeys(project_ids):
        more = len(json.dumps(project_id)) + 2
        if parts[-1] and stored_bytes(size + more) > MAX_STORED_BYTES:
            parts.append([])
            size = OTHER_BYTES
        parts[-1].append(project_id)
        size += more
    return parts


def defer(
    operator: Any, trigger: Any, deadline: float, carried: dict[str, Any], logger: logging.Logger | Any
) -> NoReturn:
    """
    Defer a task; it resumes in its ``execute_complete``.

    :param carried: the further arguments of ``execute_complete``, besides the event.
    """
    log_deferral(logger, deadline)
    operator.defer(
        trigger=trigger,
        method_name="execute_complete",
        kwargs=carried,
        timeout=deferral_timeout(deadline),
    )
    raise AssertionError  # it has raised


def log_deferral(logger: logging.Logger | Any, deadline: float) -> None:
    """Log that the task waits in the triggerer, so that a missing triggerer is noticed."""
    until = datetime.fromtimestamp(deadline, UTC)
    logger.info(
        "Waiting in the triggerer until %s UTC at the latest. If the task stays deferred after its projects "
        "are finished, no triggerer is running",
        f"{until:%H:%M}" if until.date() == datetime.now(UTC).date() else f"{until:%Y-%m-%d %H:%M}",
    )

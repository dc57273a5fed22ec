"""
A process that starts tries as child processes and kills them, for test_kill_table.py.

    python -m tests.operators.kill_table HOST KEY FOLDER BODIES STEP...

Of each step, the first child dies there, by SIGKILL; the second is its retry, the third a Clear. Each of
these prints what came of it.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from airflow_provider_magichour._transfer import download as _download  # noqa: F401  # loaded once
from airflow_provider_magichour.exceptions import MagicHourError
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import MagicHourGenerateOperator, _submit_records
from airflow_provider_magichour.operators import _generate as _generate  # noqa: PLC0414
from airflow_provider_magichour.operators import _reuse as _reuse  # noqa: PLC0414  # as above
from airflow_provider_magichour.operators._submit_records import SubmitRecords
from tests.support.airflow import allow_execute
from tests.support.tasks import task_context

#: Where the first try dies: what is wrapped, and whether it dies before or after that.
STEPS: dict[str, tuple[type, str, bool]] = {
    "before the intent": (SubmitRecords, "write_intent", True),
    "intent": (SubmitRecords, "write_intent", False),
    "answered": (SubmitRecords, "record_id", True),
    "persisted": (SubmitRecords, "record_id", False),
    "download": (MagicHourHook, "download_all", True),
    "returned": (SubmitRecords, "end", False),
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wrap(owner: type, name: str, *, before: bool) -> None:
    method: Callable[..., Any] = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            die()
        found = method(*args, **kwargs)
        die()
        return found

    setattr(owner, name, wrapped)


def run_try(folder: str, count: int, step: str, try_number: int) -> str:
    """Run a try; the third follows on a Clear."""
    body = {"image_count": 1, "style": {"prompt": "x"}}
    bodies = [{**body, "name": f"{step} {n}"} for n in range(count)]
    task = MagicHourGenerateOperator(
        task_id="generate",
        tool="ai-image-generator",
        body=bodies if count > 1 else bodies[0],
        destination=folder,
        poll_interval=0.1,
        timeout=30,
    )
    max_tries = 4 if try_number == 3 else 1
    context = task_context("generate", run_id=step, try_number=try_number, max_tries=max_tries)
    try:
        results = task.execute(context)
    except MagicHourError as error:
        return type(error).__name__
    return f"{len(results) if count > 1 else 1} results"


def in_a_child(action: Callable[[], None]) -> None:
    """Do something in a child process, and wait for its end."""
    if (pid := os.fork()) == 0:
        try:
            action()
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(pid, 0)


def main(host: str, key: str, folder: str, bodies: str, *steps: str) -> None:
    """Run the three tries of each step."""
    connection = {"conn_type": "magichour", "host": host, "password": key}
    os.environ["AIRFLOW_CONN_MAGICHOUR_DEFAULT"] = json.dumps(connection)
    allow_execute()
    _submit_records.ALIVE_SECONDS = -9  # who died here is dead

    def act(step: str, try_number: int) -> None:
        if try_number == 1:
            owner, name, before = STEPS[step]
            wrap(owner, name, before=before)
        print(f"{step}={try_number}={run_try(folder, int(bodies), step, try_number)}")

    for step in steps:
        for try_number in (1, 2, 3):
            in_a_child(functools.partial(act, step, try_number))


if __name__ == "__main__":
    main(*sys.argv[1:])

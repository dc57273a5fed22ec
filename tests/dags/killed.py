"""
Tasks that kill themselves, supervisor and all, where the run's conf says so: for tests/real_airflow.

The conf lists what each task does: ``{"sync": [step...], "deferred": [step...]}``, the names of steps are the
keys of ``STEPS``, or ``lives``.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import AirflowException
from airflow.sdk import dag, task

from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import (
    MagicHourCreateProjectOperator,
    MagicHourGenerateOperator,
)
from airflow_provider_magichour.operators._submit_records import SubmitRecords


def die() -> None:
    """End this task and its supervisor at once, as a lost machine does."""
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def die_in(seconds: float) -> None:
    """Kill the task at this moment."""
    threading.Thread(target=lambda: (time.sleep(seconds), die()), daemon=True).start()


def fail_later() -> None:
    """Fail this try once the test has made a file."""
    file = Path(os.environ["AIRFLOW_HOME"], "killed_may_fail")
    ends = time.monotonic() + 400
    while not file.exists() and time.monotonic() < ends:
        time.sleep(0.1)
    raise AirflowException("this try fails")


def wrap(owner: type, name: str, before: Callable[[], None] | None, after: Callable[[], None] | None) -> None:
    """Do something before or after a method, in this task process alone."""
    method = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            before()
        found = method(*args, **kwargs)
        if after:
            after()
        return found

    setattr(owner, name, wrapped)


#: Where a task dies.
STEPS: dict[str, Callable[[], None]] = {
    "intent": lambda: wrap(SubmitRecords, "write_intent", None, die),
    "unanswered": lambda: wrap(
        SubmitRecords, "write_intent", None, lambda: die_in(10)
    ),  # the create call takes longer
    "answered": lambda: wrap(SubmitRecords, "record_id", die, None),
    "persisted": lambda: wrap(SubmitRecords, "record_id", None, die),
    "wait": lambda: wrap(SubmitRecords, "record_id", None, lambda: die_in(1)),  # the project takes longer
    "download": lambda: wrap(MagicHourHook, "download_all", lambda: die_in(0.5), None),  # as do its files
    "wiped": lambda: wrap(SubmitRecords, "record_id", None, die),  # and Airflow discards its task state
    "raises": lambda: wrap(SubmitRecords, "record_id", None, fail_later),
    "returned": lambda: wrap(SubmitRecords, "end", None, die),
}

#: The test's simulator takes long to answer a create call of the one, and to render the other.
TOOLS = {"unanswered": "ai-meme-generator", "lives": "ai-qr-code-generator"}


class KilledOperator(MagicHourGenerateOperator):
    """A task that kills itself in its first try."""

    def _arm(self, context: Any) -> None:
        step = self.body["name"].partition(" ")[0]
        if context["ti"].try_number == 1 and step in STEPS:
            STEPS[step]()
        elif step == "wiped":
            context["task_state_store"].clear()

    def execute(self, context: Any) -> Any:
        """Die somewhere in the first half."""
        self._arm(context)
        return super().execute(context)

    def execute_complete(self, context: Any, event: Any = None, **carried: Any) -> Any:
        """Die somewhere in the second half."""
        self._arm(context)
        return super().execute_complete(context, event, **carried)


@dag(schedule=None)
def killed() -> None:
    @task
    def plan(mode: str, dag_run: Any = None) -> list[dict[str, Any]]:
        steps = dag_run.conf.get(mode, [])
        return [
            {
                "tool": TOOLS.get(step, "ai-image-generator"),
                "body": {
                    "name": f"{step} {mode} {position}",
                    "image_count": 1,
                    "content": step,
                    "style": {"prompt": step, "topic": step, "template": "Random", "art_style": step},
                },
            }
            for position, step in enumerate(steps)
        ]

    for mode in ("sync", "deferred"):
        KilledOperator.partial(
            task_id=mode,
            magichour_conn_id="magichour_killed",
            destination="{{ dag_run.conf.destination }}",
            deferrable=mode == "deferred",
            defer_after=0,
            poll_interval=0.5,
            timeout=240,
            retries=1,
            retry_delay=timedelta(seconds=1),
        ).expand_kwargs(plan.override(task_id=f"plan_{mode}")(mode))


@dag(schedule=None)
def killed_on_purpose() -> None:
    MagicHourGenerateOperator(
        task_id="generate",
        magichour_conn_id="magichour_killed",
        tool=TOOLS["lives"],
        body={"content": "x", "style": {"art_style": "x"}},
        deferrable=True,
        defer_after=0,
        poll_interval=0.5,
        delete_on_kill=True,
    )


@dag(schedule=None)
def stopped_and_cleared() -> None:
    MagicHourCreateProjectOperator(
        task_id="list",
        magichour_conn_id="magichour_killed",
        tool=TOOLS["lives"],
        body=[{"name": f"list {n}", "content": "x", "style": {"art_style": "x"}} for n in range(40)],
    )
    KilledOperator(
        task_id="up_for_retry",
        magichour_conn_id="magichour_killed",
        tool="ai-image-generator",
        body={"name": "raises", "image_count": 1, "style": {"prompt": "x"}},
        poll_interval=0.5,
        retries=1,
        retry_delay=timedelta(seconds=20),
    )
    task(task_id="other")(lambda: None)()


killed()
stopped_and_cleared()
killed_on_purpose()

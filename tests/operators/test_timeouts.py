"""The end of a task by a timeout or a kill: during a pause, a rate limit, or the start of a submit."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_magichour import exceptions
from airflow_provider_magichour._polling import wait
from airflow_provider_magichour.operators import _generate
from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import CREATE, bodies, execute, generate, only_project, operator, posts, wait_for
from tests.support.tasks import TaskStateStore, run_task, task_context


@pytest.mark.parametrize("deferrable", [False, True])
def test_timeout_is_not_delayed_by_a_rate_limit(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    monkeypatch.setattr(_generate, "LATE_SECONDS", 1.0)
    monkeypatch.setattr(wait, "LAST_CHECK_SECONDS", 1.0)
    sim.faults({"match": {"route": "get_project"}, "status": 429, "headers": {"Retry-After": "300"}})
    begun = time.monotonic()
    with pytest.raises(exceptions.MagicHourTimeoutError, match="Timed out waiting for project"):
        run_task(generate(deferrable=deferrable, timeout=2), task_context("generate", store=TaskStateStore()))
    assert time.monotonic() - begun < 100


def test_kill_ends_the_pause_of_the_account_call(sim: Simulator) -> None:
    """The first call is the check of the account; the second one, for ``keep_credits``, is on a thread."""
    account = {"route": "get_account"}
    sim.faults({"match": account, "skip": 1, "status": 429, "headers": {"Retry-After": "120"}})
    task = operator(keep_credits=1)
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(execute, task, task_context(store=TaskStateStore()))
        wait_for(lambda: len(sim.requests("get_account")) == 2)
        begun = time.monotonic()
        task.on_kill()
        with pytest.raises(exceptions.MagicHourError):
            running.result(200)
    assert time.monotonic() - begun < 60
    assert posts(sim) == 0


def test_timeout_at_the_start_of_a_thread_waits_for_its_call(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The executor does not know a thread yet whose start was interrupted."""
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if thread.name.startswith("magichour-submit"):
            wait_for(lambda: posts(sim) == 1)
            raise AirflowTaskTimeout

    sim.faults({"match": CREATE, "delay_after": 1})
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(exceptions.MagicHourUnrecordedSubmitError) as caught:
        operator(bodies(40)).execute(task_context())
    assert only_project(sim) in str(caught.value)

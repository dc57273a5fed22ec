"""The tools of the tests. A test is only as good as its tools."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseOperator, TaskDeferred
from airflow.triggers.base import BaseTrigger, TriggerEvent

from tests.support.loopback import LeftTheMachineError
from tests.support.tasks import TaskStateStore, run_task, task_context


class CountingTrigger(BaseTrigger):
    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "tests.test_support.CountingTrigger", {"start": self.start}

    async def run(self) -> Any:
        await asyncio.sleep(0)
        yield TriggerEvent({"count": self.start + 1})


class CountingOperator(BaseOperator):
    def execute(self, context: Any) -> Any:
        self.defer(trigger=CountingTrigger(1), method_name="again", kwargs={"rounds": 1})

    def again(self, context: Any, event: Any = None, rounds: int = 0) -> Any:
        if rounds < 3:
            raise TaskDeferred(
                trigger=CountingTrigger(event["count"]), method_name="again", kwargs={"rounds": rounds + 1}
            )
        context["ti"].xcom_push(key="rounds", value=rounds)
        return event["count"]


def test_deferred_task_is_resumed_until_it_ends() -> None:
    context = task_context("count")
    assert run_task(CountingOperator(task_id="count"), context) == 4
    assert context["ti"].xcom_pull(task_ids="count", key="rounds") == 3


def test_no_test_leaves_the_machine() -> None:
    with socket.socket() as sock, pytest.raises(LeftTheMachineError):
        sock.connect(("192.0.2.1", 80))
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("magichour.ai", 443)


def test_airflow_home_is_temporary() -> None:
    assert Path(os.environ["AIRFLOW_HOME"]).is_relative_to(tempfile.gettempdir())


def test_state_store_accepts_only_what_airflow_accepts() -> None:
    store = TaskStateStore()
    store.set("key", {"a": [1]})
    assert store.get("key") == {"a": [1]}
    with pytest.raises(AssertionError, match="too large"):
        store.set("key", "x" * 70_000)
    with pytest.raises(ValueError, match="None"):
        store.set("key", None)
    store.delete("key")
    assert store.get("key", 5) == 5

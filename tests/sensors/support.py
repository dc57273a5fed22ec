"""What the tests of the sensor share."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:
    from airflow.exceptions import AirflowRescheduleException

from airflow_provider_magichour.sensors import MagicHourProjectSensor
from tests.support.tasks import run_task, task_context

__all__ = ["AirflowRescheduleException", "deferred", "run", "sensor"]


def sensor(mode: str, project_id: Any, **arguments: Any) -> MagicHourProjectSensor:
    how: dict[str, Any] = (
        {"deferrable": True} if mode == "deferrable" else {"mode": mode, "deferrable": False}
    )
    arguments = {"kind": "image", "poll_interval": 0.05, "timeout": 120, **how, **arguments}
    return MagicHourProjectSensor(task_id="wait", project_id=project_id, **arguments)


def run(task: MagicHourProjectSensor, **context: Any) -> Any:
    """Run the sensor to its end, as Airflow does in its mode."""
    around = task_context("wait", **context)
    first = around["ti"].start_date
    while True:
        try:
            return run_task(task, around)
        except AirflowRescheduleException as again:
            around["ti"].get_first_reschedule_date = lambda context: first
            time.sleep(max((again.reschedule_date - datetime.now(UTC)).total_seconds(), 0))


def deferred(task: MagicHourProjectSensor, context: Any) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        task.execute(context)
    return caught.value

"""A task's surroundings without a scheduler: its context, and what happens when it defers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from airflow.providers.common.compat.sdk import TaskDeferred

#: The most that Airflow stores for one value of the task state store, in bytes.
MAX_STATE_BYTES = 65_535


class RefusedError(Exception):
    """As Airflow's own store raises it in a try that another one has replaced (``AirflowRuntimeError``)."""

    def __init__(self) -> None:
        super().__init__("API_SERVER_ERROR: 404")
        self.error = SimpleNamespace(detail={"status_code": 404})


class TaskStateStore:
    """Airflow 3.3's ``task_state_store`` in memory: JSON values by key, bounded as the real one."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any, *, retention: object = None) -> None:
        if value is None:
            raise ValueError("Cannot set value as None")
        stored = json.dumps(value, allow_nan=False)
        assert json.loads(stored) == value, f"{key} is no plain JSON, which the real store refuses: {value}"
        assert len(stored.encode()) <= MAX_STATE_BYTES, f"{key} is too large for the task state store"
        assert len(key) <= 512, f"the key is too long: {key}"
        self.values[key] = stored

    def delete(self, key: str) -> None:
        self.values.pop(key, None)

    def clear(self, *, all_map_indices: bool = False) -> None:
        self.values.clear()


class XComs:
    """The XComs of a run: what a task pushed, by task and key, kept as JSON like in Airflow."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], str] = {}

    def push(self, task_id: str, key: str, value: Any) -> None:
        self.values[task_id, key] = json.dumps(value)

    def pull(self, task_id: str, key: str = "return_value") -> Any:
        stored = self.values.get((task_id, key))
        return None if stored is None else json.loads(stored)


def task_context(
    task_id: str = "task",
    *,
    dag_id: str = "dag",
    run_id: str = "run",
    try_number: int = 1,
    max_tries: int = 0,
    map_index: int = -1,
    store: TaskStateStore | None = None,
    xcoms: XComs | None = None,
    start_date: datetime | None = None,
    first_start_date: datetime | None = None,
    **more: Any,
) -> Any:
    """
    Return a context as ``execute`` gets it.

    :param store: the task state store; None leaves it out, as before Airflow 3.3.
    :param xcoms: where pushed values go; a fresh one if None. It is at ``context["ti"].xcoms``.
    :param first_start_date: when the task's first try started, for what asks the task instance for it.
    """
    xcoms = xcoms if xcoms is not None else XComs()
    started = start_date or datetime.now(UTC)
    ti = SimpleNamespace(
        id=f"{dag_id}-{run_id}-{task_id}-{map_index}",
        task_id=task_id,
        dag_id=dag_id,
        run_id=run_id,
        try_number=try_number,
        max_tries=max_tries,
        map_index=map_index,
        start_date=started,
        xcoms=xcoms,
        xcom_push=lambda key, value: xcoms.push(task_id, key, value),
        xcom_pull=lambda task_ids=task_id, key="return_value", **_: xcoms.pull(task_ids, key),
        get_first_reschedule_date=lambda context: first_start_date,
        get_task_reschedule_start_date=lambda *args, **kwargs: first_start_date,
    )
    dag_run = SimpleNamespace(
        run_id=run_id, dag_id=dag_id, logical_date=started, run_after=started, start_date=started, conf={}
    )
    context: dict[str, Any] = {
        "ti": ti,
        "task_instance": ti,
        "dag_run": dag_run,
        "run_id": run_id,
        "logical_date": started,
        "params": {},
        "outlet_events": {},
        **more,
    }
    if store is not None:
        context["task_state_store"] = store
    return context


def stored(value: Any) -> Any:
    """Return what Airflow makes of a trigger's arguments between the worker and the triggerer."""
    try:
        from airflow.sdk.serde import deserialize, serialize
    except ImportError:
        from airflow.serialization.serialized_objects import BaseSerialization

        return BaseSerialization.deserialize(json.loads(json.dumps(BaseSerialization.serialize(value))))
    return deserialize(json.loads(json.dumps(serialize(value))))


def rebuilt(trigger: Any) -> Any:
    """Return the trigger as the triggerer builds it: from its class path and its stored arguments."""
    from airflow.providers.common.compat.module_loading import import_string

    path, arguments = trigger.serialize()
    return import_string(path)(**stored(arguments))


async def first_event(trigger: Any) -> Any:
    """Run a trigger until its event, and return the event's payload after a round trip through storage."""
    events = trigger.run()
    try:
        event = await anext(events)
    finally:
        await events.aclose()
    return stored(event.payload)


def run_trigger(trigger: Any, timeout: float = 60) -> Any:
    """Do what the triggerer does with a trigger, and return the event's payload."""

    async def run() -> Any:
        built = rebuilt(trigger)
        try:
            return await first_event(built)
        finally:
            await built.cleanup()

    return asyncio.run(asyncio.wait_for(run(), timeout))


def run_task(operator: Any, context: Mapping[str, Any], timeout: float = 60) -> Any:
    """Execute an operator; where it defers, run its triggers and resume it until it ends."""
    try:
        return operator.execute(context)
    except TaskDeferred as deferred:
        current = deferred
    while True:
        event = run_trigger(current.trigger, timeout)
        resume = getattr(operator, current.method_name)
        try:
            return resume(context, event=event, **stored(current.kwargs or {}))
        except TaskDeferred as deferred:
            current = deferred

"""What the tests of submit records share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_magichour.exceptions import MagicHourUncertainSubmitError
from airflow_provider_magichour.operators._clear_or_retry import UNCERTAIN
from airflow_provider_magichour.operators._submit_record import Record
from airflow_provider_magichour.operators._submit_records import SubmitRecords
from tests.support.tasks import task_context

Open = Callable[..., SubmitRecords]


def context_of(clear_number: int | None = 0, **changes: Any) -> Any:
    context = task_context(**changes)
    if clear_number is not None:
        context["dag_run"].clear_number = clear_number
    return context


def write_intent(records: SubmitRecords, body: str = "b", account: str | None = None) -> Record:
    return records.write_intent(records.start({0: body}, account)[0])


def submit(records: SubmitRecords, body: str = "b", project_id: str = "p1", charged: Any = 5) -> Record:
    return records.record_id(write_intent(records, body, "account-1"), project_id, charged, name="t")


def fail(
    records: SubmitRecords, record: Record, error: type[Exception] = MagicHourUncertainSubmitError
) -> None:
    """Let a try report a submit, and end with an error."""

    def work() -> None:
        with records.ending(lambda: False):
            records.mark_reported(record, UNCERTAIN)
            records.has_asked = True
            raise error

    with pytest.raises(error):
        work()

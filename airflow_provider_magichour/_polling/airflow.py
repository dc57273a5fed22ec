"""What Airflow does not document, in one place, each with the versions it was tried on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: The method that a task is resumed with whose deferral failed: it lasted longer than its ``timeout``, or
#: its trigger raised an error. Tried on Airflow 2.11.2, 3.1.8 and 3.3.2; the words for the reason differ.
FAILED_DEFERRAL = "__fail__"


def is_first_poke(context: Mapping[str, Any]) -> bool:
    """
    Return whether a rescheduled sensor runs for the first time in this try.

    Tried on Airflow 2.11.0 and 3.3.2: the task instance has ``get_first_reschedule_date`` from 3.0 on; it is
    None at the first start. Where it is missing, each poke counts as the first.
    """
    first_date = getattr(context.get("ti"), "get_first_reschedule_date", None)
    return first_date is None or first_date(context) is None

"""Tasks that are cleared in each way, for tests/real_airflow; the retries of some are read from a file."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import AirflowException
from airflow.sdk import dag

from airflow_provider_magichour.operators import (
    MagicHourCreateProjectOperator,
    MagicHourGenerateOperator,
)
from airflow_provider_magichour.operators._submit_records import SubmitRecords

FILE = Path(os.environ["AIRFLOW_HOME"], "retries_of_cleared.json")
#: Made by the test when the task below may fail.
MAY_FAIL = Path(os.environ["AIRFLOW_HOME"], "cleared_may_fail")
RETRIES: dict[str, int] = json.loads(FILE.read_text()) if FILE.exists() else {}


def arguments(name: str, **more: Any) -> dict[str, Any]:
    """Return what all tasks here have."""
    return {
        "task_id": name,
        "magichour_conn_id": "magichour_cleared",
        "tool": "ai-image-generator",
        "body": {"name": name, "image_count": 1, "style": {"prompt": "x"}},
        "retries": RETRIES.get(name, 0),
        "retry_delay": timedelta(seconds=1),
        **more,
    }


class FailsAfterSubmitOperator(MagicHourCreateProjectOperator):
    """Fails in its first try, once the project is recorded and the test has made a file."""

    def execute(self, context: Any) -> Any:
        """Submit, and fail once."""
        if context["ti"].try_number == 1:
            record_id = SubmitRecords.record_id

            def and_fail(*args: Any, **kwargs: Any) -> Any:
                record_id(*args, **kwargs)
                ends = time.monotonic() + 400
                while not MAY_FAIL.exists() and time.monotonic() < ends:
                    time.sleep(0.1)
                raise AirflowException("this try fails")

            SubmitRecords.record_id = and_fail  # type: ignore[method-assign]
        return super().execute(context)


@dag(schedule=None)
def cleared() -> None:
    for name in ("more_retries", "fewer_retries", "as_many_tries"):
        MagicHourCreateProjectOperator(**arguments(name))


@dag(schedule=None)
def cleared_by_cli() -> None:
    MagicHourCreateProjectOperator(**arguments("by_cli"))


@dag(schedule=None)
def cleared_as_a_run() -> None:
    for name in ("one", "another"):
        MagicHourCreateProjectOperator(**arguments(name))


@dag(schedule=None)
def marked_and_cleared() -> None:
    body = {"name": "marked", "content": "x", "style": {"art_style": "x"}}
    MagicHourGenerateOperator(
        **arguments("marked", tool="ai-qr-code-generator", body=body, poll_interval=0.5, retries=2)
    )


@dag(schedule=None)
def behind_a_proxy() -> None:
    body = {"name": "proxied", "style": {"topic": "x", "template": "Random"}}
    MagicHourCreateProjectOperator(**arguments("proxied", tool="ai-meme-generator", body=body, retries=2))


@dag(schedule=None)
def other_account() -> None:
    FailsAfterSubmitOperator(**arguments("kept", retries=1))


cleared()
cleared_by_cli()
cleared_as_a_run()
marked_and_cleared()
behind_a_proxy()
other_account()

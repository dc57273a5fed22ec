"""A DAG without this provider: for the tests of the real Airflow that the other tests run in."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task


@dag(schedule=None)
def plain() -> None:
    @task(retries=2, retry_delay=timedelta(seconds=1))
    def work(ti: Any = None, dag_run: Any = None) -> dict[str, Any]:
        print("try", ti.try_number)
        if ti.try_number == 1:
            time.sleep(dag_run.conf.get("sleep", 0))
        return {"try": ti.try_number, "conf": dag_run.conf}

    work()


plain()

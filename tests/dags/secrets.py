"""Every way in which the provider could leak a key. Each task tries one, and some tasks must fail."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from airflow_provider_magichour.operators import MagicHourCreateProjectOperator, MagicHourGenerateOperator
from airflow_provider_magichour.sensors import MagicHourProjectSensor

NAMES = ("good", "wrong", "echo", "refused", "printed")
GOOD, WRONG, ECHO, REFUSED, PRINTED = (f"secrets_{name}" for name in NAMES)
IMAGE: dict[str, Any] = {
    "tool": "ai-image-generator",
    "body": {"image_count": 1, "style": {"prompt": "a lighthouse"}},
    "destination": "{{ dag_run.conf['destination'] }}",
    "poll_interval": 0.5,
}


# A worker that a busy machine loses is no concern of this test.
@dag(schedule=None, default_args={"retries": 2, "retry_delay": timedelta(seconds=1)})
def secrets() -> None:
    MagicHourGenerateOperator(task_id="generate", deferrable=False, magichour_conn_id=GOOD, **IMAGE)
    MagicHourGenerateOperator(task_id="generate_deferred", deferrable=True, magichour_conn_id=GOOD, **IMAGE)
    for name, how in {
        "poke": {"mode": "poke", "deferrable": False},
        # Airflow may fail a task that is started again every second (apache/airflow#72716)
        "reschedule": {"mode": "reschedule", "deferrable": False, "poll_interval": 10},
        "deferred": {"deferrable": True},
    }.items():
        MagicHourProjectSensor(
            task_id=name,
            project_id="{{ dag_run.conf['project_id'] }}",
            kind="image",
            magichour_conn_id=GOOD,
            timeout=600,
            **{"poll_interval": 1, **how},  # type: ignore[arg-type]
        )
    for conn_id in (WRONG, ECHO):
        MagicHourProjectSensor(
            task_id=f"wait_{conn_id}",
            project_id="p1",
            kind="image",
            magichour_conn_id=conn_id,
            deferrable=True,
        )
    for conn_id in (ECHO, REFUSED):
        MagicHourCreateProjectOperator(
            task_id=f"create_{conn_id}",
            retries=0,
            tool=IMAGE["tool"],
            body=IMAGE["body"],
            magichour_conn_id=conn_id,
        )

    @task
    def printed(key: str, webhook_secret: str) -> str:
        print(f"the key is {key}, the secret is {webhook_secret}")
        logging.getLogger(__name__).warning("the key is %s, the secret is %s", key, webhook_secret)
        return "done"

    printed(
        f"{{{{ conn.{PRINTED}.password }}}}",
        f"{{{{ conn.{PRINTED}.extra_dejson.webhook_secret }}}}",
    )


secrets()

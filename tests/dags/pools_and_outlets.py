"""Generating with what any Airflow operator takes: a pool, and outlets."""

from __future__ import annotations

from airflow.sdk import Asset, dag

from airflow_provider_magichour.operators import MagicHourGenerateOperator


@dag(schedule=None)
def pools_and_outlets() -> None:
    for name in ("sync", "deferred"):
        MagicHourGenerateOperator(
            task_id=name,
            tool="ai-image-generator",
            body={"image_count": 1, "aspect_ratio": "1:1", "style": {"prompt": "a lighthouse"}},
            destination="{{ dag_run.conf['destination'] }}",
            poll_interval=0.2,
            deferrable=name == "deferred",
            pool="magichour",
            outlets=[Asset(f"magichour-tests://made/{name}")],
        )


pools_and_outlets()

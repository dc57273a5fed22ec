"""What every operator takes works with ours: pools and outlets, on a worker and deferred."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour.simulator import Simulator
from tests.support.airflow import IS_AIRFLOW_3

DAG_FILE = Path(__file__).parents[1] / "dags" / "pools_and_outlets.py"


@pytest.mark.xdist_group("dag_test")
@pytest.mark.skipif(not IS_AIRFLOW_3, reason="assets are of Airflow 3")
def test_pool_limits_and_outlets_emit_events(
    run_dag: Callable[..., Any], sim: Simulator, tmp_path: Path
) -> None:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    run = run_dag(DAG_FILE, "pools_and_outlets", {"destination": str(tmp_path)})
    instances = {ti.task_id: ti for ti in run.get_task_instances()}
    assert {name: str(ti.state) for name, ti in instances.items()} == {
        "sync": "success",
        "deferred": "success",
    }
    assert {ti.pool for ti in instances.values()} == {"magichour"}
    with create_session() as session:
        events = session.scalars(select(AssetEvent)).all()
        told = sorted((event.asset.uri, event.source_task_id) for event in events)
    assert told == [(f"magichour-tests://made/{name}", name) for name in ("deferred", "sync")]

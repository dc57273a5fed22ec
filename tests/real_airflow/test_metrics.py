"""Metrics of a real Airflow, over its StatsD client: from tasks, the triggerer and the API server."""

from __future__ import annotations

import time

import requests

from benchmarks.load_server import KEY, load_server, project_id
from scripts.local import LocalAirflow
from scripts.local.client import wait_until
from tests.support.metrics import Metric

DAG = "magichour_modes"


def test_task_triggerer_and_api_server_send_theirs(
    real_airflow: LocalAirflow, statsd: tuple[dict[str, str], list[Metric]]
) -> None:
    found = statsd[1]
    earlier = len(found)  # other tests use the same Airflow

    def values(name: str, **tags: str) -> list[float]:
        return [one.value for one in found[earlier:] if one.name == name and tags.items() <= one.tags.items()]

    with load_server() as server:
        connection = {
            "connection_id": "magichour_metrics",
            "conn_type": "magichour",
            "host": server.url,
            "password": KEY,
        }
        real_airflow.api("POST", "/connections", json=connection)
        rendering = project_id("metrics", 75, time.time())
        conf = {"ids": rendering, "kind": "video", "conn_id": "magichour_metrics"}
        run = real_airflow.trigger(DAG, conf)
        state = real_airflow.wait_for_run(DAG, run)
        assert state == "success", "".join(
            real_airflow.task_log(DAG, run, task) for task in ("poke", "reschedule", "deferred")
        )
        for task in ("poke", "reschedule", "deferred"):
            tags = {"kind": "video", "dag_id": DAG, "task_id": task, "outcome": "complete"}
            assert values("projects", **tags) == [1]
        waiting = {"connection": "magichour_metrics"}
        wait_until(lambda: 0 in values("poller.waiting", **waiting), 120, "the end of the wait")
        assert max(values("poller.waiting", **waiting)) == 1  # of the triggerer; the other two have their own
        assert min(values("poller.late_seconds", **waiting)) >= 0
        rendered = [
            one for one in found[earlier:] if one.name == "render_seconds" and "dag_id" not in one.tags
        ]
        assert rendered
        assert all(74_000 < one.value < 400_000 for one in rendered)
    url = f"{real_airflow.url}/magichour/webhooks/magichour_default"
    assert requests.post(url, data=b"{}", timeout=30).status_code == 401
    wait_until(lambda: values("webhook.refused") == [1], 60, "the API server's metric")
    assert not [one for one in found[earlier:] if rendering in repr(one)]

"""What README.md's comparison says of the Python SDK and of HTTP tasks, shown against the simulator."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import magic_hour
import pytest

from airflow_provider_magichour.simulator import Simulator
from tests.simulator.support import IMAGE


@pytest.fixture
def sdk(magichour_simulator: Simulator) -> Iterator[magic_hour.Client]:
    with httpx.Client(timeout=60) as http:
        yield magic_hour.Client(
            token=magichour_simulator.api_key, base_url=magichour_simulator.url, httpx_client=http
        )


@pytest.fixture
def lost_response(magichour_simulator: Simulator) -> None:
    """Let the first create call be accepted and charged, and lose its response."""
    magichour_simulator.faults(
        {"match": {"route": "create_project"}, "status": 502, "html": True, "process": True, "times": 1}
    )


def paid(simulator: Simulator) -> int:
    return sum(simulator.state()["created"].values())


@pytest.mark.usefixtures("lost_response")
def test_sdk_pays_twice_when_its_task_is_retried(
    magichour_simulator: Simulator, sdk: magic_hour.Client
) -> None:
    with pytest.raises(Exception, match="502"):
        sdk.v1.ai_image_generator.create(**IMAGE)
    sdk.v1.ai_image_generator.create(**IMAGE)  # the retry
    assert paid(magichour_simulator) == 2


@pytest.mark.usefixtures("lost_response")
def test_http_task_pays_twice_when_it_is_retried(
    magichour_simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    http = pytest.importorskip("airflow.providers.http.operators.http", reason="`make install` has it")
    monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", magichour_simulator.url)
    task = http.HttpOperator(
        task_id="create",
        endpoint="/v1/ai-image-generator",
        data=json.dumps(IMAGE),
        headers={
            "Authorization": f"Bearer {magichour_simulator.api_key}",
            "Content-Type": "application/json",
        },
    )
    with pytest.raises(Exception, match="502"):
        task.execute({})
    task.execute({})  # the retry
    assert paid(magichour_simulator) == 2


def test_http_sensor_fails_at_the_first_failed_status_check(
    magichour_simulator: Simulator, sdk: magic_hour.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    http = pytest.importorskip("airflow.providers.http.sensors.http", reason="`make install` has it")
    monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", magichour_simulator.url)
    project = sdk.v1.ai_image_generator.create(**IMAGE)
    magichour_simulator.faults({"match": {"route": "get_project"}, "status": 503, "times": 1})
    sensor = http.HttpSensor(
        task_id="wait",
        endpoint=f"/v1/image-projects/{project.id}",
        headers={"Authorization": f"Bearer {magichour_simulator.api_key}"},
    )
    with pytest.raises(Exception, match="503"):
        sensor.poke({})


def test_sdk_stops_waiting_at_the_first_failed_status_check(
    magichour_simulator: Simulator, sdk: magic_hour.Client
) -> None:
    project = sdk.v1.ai_image_generator.create(**IMAGE)
    magichour_simulator.faults({"match": {"route": "get_project"}, "status": 503, "times": 1})
    with pytest.raises(Exception, match="503"):
        sdk.v1.image_projects.check_result(id=project.id, wait_for_completion=True, download_outputs=False)


def test_sdk_holds_the_worker_without_a_limit_and_checks_every_half_second() -> None:
    with Simulator(duration=3600) as slow, httpx.Client(timeout=60) as http:
        client = magic_hour.Client(token=slow.api_key, base_url=slow.url, httpx_client=http)
        project = client.v1.ai_image_generator.create(**IMAGE)
        ended: list[str] = []

        def wait() -> None:
            ended.append(
                client.v1.image_projects.check_result(
                    id=project.id, wait_for_completion=True, download_outputs=False
                ).status
            )

        waiting = threading.Thread(target=wait)
        started = time.monotonic()
        waiting.start()
        while len(slow.requests("get_project")) < 5:
            assert time.monotonic() - started < 60
            time.sleep(0.05)
        assert time.monotonic() - started >= 3 * 0.5
        assert not ended
        slow.end_project(project.id, "complete")
        waiting.join(60)
        assert ended == ["complete"]


def test_sdk_overwrites_files_of_the_same_name(sdk: magic_hour.Client, tmp_path: Path) -> None:
    paths = [
        path
        for _ in range(2)
        for path in sdk.v1.ai_image_generator.generate(
            **IMAGE | {"image_count": 1},
            wait_for_completion=True,
            download_outputs=True,
            download_directory=str(tmp_path),
        ).downloaded_paths
    ]
    assert paths[0] == paths[1]

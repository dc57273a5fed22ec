"""
Nothing lost, nothing doubled: webhooks while API server, receiver and PostgreSQL are killed in between.

A few deliveries by default, which takes about two minutes; MAGICHOUR_TEST_DELIVERIES=1000 sends as many.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_provider_magichour.simulator import Simulator
from scripts.local import LocalAirflow
from scripts.local.client import wait_until
from scripts.local.processes import free_port
from scripts.local.services import Services, ServicesError, start_services
from scripts.local.webhooks import start_receiver
from tests.support.airflow import AIRFLOW_VERSION

pytestmark = [
    pytest.mark.real_airflow,
    pytest.mark.xdist_group("real_airflow"),
    pytest.mark.skipif(
        AIRFLOW_VERSION < (3, 3), reason="before 3.3 a run does not know where the last one ended"
    ),
    pytest.mark.timeout(3600),
]

DELIVERIES = int(os.environ.get("MAGICHOUR_TEST_DELIVERIES", "60"))
CONN_ID, SECRET, DAG_ID = "magichour_default", "whsec_restarts", "saves_what_webhooks_name"
VOICE = {"style": {"prompt": "hello", "voice_name": "Elon Musk"}}

#: The example with a schedule of every minute instead of every hour, for voices alone.
DAG_FILE = """
import math
import os
from datetime import timedelta

from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, dag, task
from airflow_provider_magichour.operators import MagicHourDownloadOperator
from airflow_provider_magichour.webhooks import magichour_asset, triggering_projects

AUDIO = magichour_asset("audio", conn_id="magichour_default")


@dag(
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("* * * * *", timezone="UTC"), assets=AUDIO),
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(seconds=5)},
)
def saves_what_webhooks_name():
    @task(inlets=[AUDIO])
    def completed(**context):
        ids = [project["id"] for project in triggering_projects(context, "completed")]
        return [{"project_id": ids}] if ids else []

    MagicHourDownloadOperator.partial(
        task_id="download", kind="audio", destination="file://" + os.environ["MAGICHOUR_TEST_FOLDER"]
    ).expand_kwargs(completed())


saves_what_webhooks_name()
"""


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    try:
        with start_services(tmp_path_factory.mktemp("services")) as found:
            if not found.can_restart:
                pytest.skip("PostgreSQL is not this run's own, so that it cannot be restarted")
            yield found
    except ServicesError as error:
        pytest.skip(str(error))


@pytest.fixture
def simulator(free_receiver_port: int) -> Iterator[Simulator]:
    """A Magic Hour that sends each webhook three times, out of order, until it is accepted."""
    with Simulator(
        duration=0.5,
        credits=10_000_000,
        webhook_url=f"http://127.0.0.1:{free_receiver_port}/magichour/webhooks/{CONN_ID}",
        webhook_secret=SECRET,
        webhook_duplicates=2,
        webhook_shuffle=20.0,
    ) as found:
        yield found


@pytest.fixture
def free_receiver_port() -> int:
    return free_port()


@pytest.fixture
def airflow(services: Services, simulator: Simulator, tmp_path: Path) -> Iterator[LocalAirflow]:
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "saves.py").write_text(DAG_FILE)
    (tmp_path / "saved").mkdir()
    with LocalAirflow(
        tmp_path / "home",
        [dags],
        database_url=services.database_url,
        connections={CONN_ID: simulator.connection_uri},
        env={"MAGICHOUR_TEST_FOLDER": str(tmp_path / "saved")},
    ) as found:
        found.unpause(DAG_ID)
        yield found


def make(simulator: Simulator) -> str:
    response = requests.post(
        f"{simulator.url}/v1/ai-voice-generator",
        json=VOICE,
        headers={"Authorization": f"Bearer {simulator.api_key}"},
        timeout=60,
    )
    response.raise_for_status()
    return str(response.json()["id"])


def saved(folder: Path) -> dict[str, int]:
    """Return how many media files each project has."""
    found: dict[str, int] = {}
    for path in folder.glob("*/*.wav"):
        found[path.parent.name] = found.get(path.parent.name, 0) + 1
    return found


def test_every_projects_file_is_saved_exactly_once(
    airflow: LocalAirflow, services: Services, simulator: Simulator, free_receiver_port: int, tmp_path: Path
) -> None:
    start_receiver(airflow, {CONN_ID: SECRET}, free_receiver_port)
    projects: list[str] = []

    def make_some(share: float) -> None:
        with ThreadPoolExecutor(4) as executor:
            count = math.ceil(DELIVERIES / 3 * share)
            projects.extend(executor.map(lambda _: make(simulator), range(count)))

    make_some(0.25)
    time.sleep(5)
    airflow.processes.kill("webhooks")
    make_some(0.25)
    start_receiver(airflow, {CONN_ID: SECRET}, free_receiver_port)
    time.sleep(5)
    airflow.kill("api-server")
    make_some(0.25)
    airflow.start("api-server")
    time.sleep(15)
    services.restart_postgresql()
    airflow.restart_dead()
    make_some(0.25)

    folder = tmp_path / "saved"

    def all_saved() -> bool:
        airflow.restart_dead()
        return set(projects) <= set(saved(folder))

    wait_until(all_saved, 240 + DELIVERIES, "all files", every=1)
    assert saved(folder) == dict.fromkeys(projects, 1)
    wait_until(lambda: accepted(simulator) >= 3 * len(projects), 240 + DELIVERIES, "all deliveries", every=1)
    state = simulator.state()
    fetched = Counter(state["projects"][project_id]["downloads"] for project_id in projects)
    attempts = Counter(each["status"] for each in state["webhooks"] if each["type"] == "audio.completed")
    print(f"{len(projects)} projects; downloads of each: {dict(fetched)}; responses: {dict(attempts)}")


def accepted(simulator: Simulator) -> int:
    sent: list[dict[str, Any]] = simulator.state()["webhooks"]
    return sum(each["status"] == 200 for each in sent if each["type"] == "audio.completed")

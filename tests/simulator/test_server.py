"""Starting, stopping, and what happens to connections meanwhile."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.simulator import Simulator
from airflow_provider_magichour.simulator.__main__ import main
from tests.simulator.support import create, get, session


def test_the_fixture_sets_the_default_connection(magichour_simulator: Simulator) -> None:
    assert magichour_simulator.api_key in os.environ["AIRFLOW_CONN_MAGICHOUR_DEFAULT"]
    assert MagicHourHook().get_account()["credits"] == 100_000


def test_a_missing_package_names_the_extra() -> None:
    code = "import sys; sys.modules['PIL'] = None; import airflow_provider_magichour.simulator"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith(
        "needs the package PIL: pip install 'airflow-provider-magichour[simulator]'"
    )


def test_stop_frees_the_ports_and_ends_the_thread() -> None:
    simulator = Simulator(duration=0).start()
    ports = [int(url.rsplit(":", 1)[1]) for url in (simulator.url, simulator.downloads_url)]
    create(simulator)
    simulator.stop()
    simulator.stop()
    assert "magichour-simulator" not in {thread.name for thread in threading.enumerate()}
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1)
    with pytest.raises(RuntimeError, match="not running"):
        simulator.state()


def test_stop_does_not_wait_for_slow_responses(caplog: pytest.LogCaptureFixture) -> None:
    with Simulator() as simulator:
        simulator.faults({"delay": 300})
        errors: list[Exception] = []

        def ask() -> None:
            try:
                requests.get(simulator.url, timeout=300)
            except requests.RequestException as error:
                errors.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        while not simulator.state()["in_flight"]["now"]:
            time.sleep(0.01)
        start = time.monotonic()
    asking.join(100)
    assert time.monotonic() - start < 100
    assert len(errors) == 1
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


def test_a_simulator_can_start_again_but_not_twice_at_once() -> None:
    simulator = Simulator()
    for _ in range(2):
        with simulator:
            assert simulator.state()["requests"] == {}
            with pytest.raises(RuntimeError, match="running already"):
                simulator.start()


def test_a_taken_port_is_an_error() -> None:
    with Simulator() as first, pytest.raises(OSError, match="in use"):
        Simulator(port=int(first.url.rsplit(":", 1)[1])).start()


def test_offline_refuses_connections_and_remembers_everything() -> None:
    with Simulator(duration=0) as simulator:
        project_id = create(simulator)
        with session(simulator) as http:
            http.get(f"{simulator.url}/v1/account")
            with simulator.offline(), pytest.raises(requests.ConnectionError):
                http.get(f"{simulator.url}/v1/account")
            with simulator.offline(), pytest.raises(requests.ConnectionError, match="refused"):
                requests.get(simulator.downloads_url, timeout=60)
            assert http.get(f"{simulator.url}/v1/account").status_code == 200
        assert get(simulator, "image", project_id)["id"] == project_id


def test_connections_and_requests_are_counted(magichour_simulator: Simulator) -> None:
    with session(magichour_simulator) as http:
        for _ in range(3):
            http.get(f"{magichour_simulator.url}/v1/account")
        http.get(f"{magichour_simulator.url}/v1/image-projects/missing", headers={"Range": "bytes=1-"})
    state = magichour_simulator.state()
    assert state["connections"]["opened"] == 1
    assert state["requests"] == {"GET /v1/account": 3, "GET /v1/image-projects/{id}": 1}
    assert state["statuses"] == {"200": 3, "404": 1}
    (entry,) = magichour_simulator.requests("get_project")
    assert entry["path"] == "/v1/image-projects/missing"
    assert entry["headers"]["range"] == "bytes=1-"
    assert "authorization" not in entry["headers"]
    magichour_simulator.reset()
    assert magichour_simulator.state()["requests"] == {}


def test_admin_calls_work_over_http(magichour_simulator: Simulator) -> None:
    base = f"{magichour_simulator.url}/_simulator"
    project_id = create(magichour_simulator)
    ended = requests.post(f"{base}/projects/{project_id}", json={"status": "canceled"}, timeout=60).json()
    assert ended["status"] == "canceled"
    assert requests.post(f"{base}/projects/none", json={}, timeout=60).status_code == 404
    wrong = requests.post(f"{base}/faults", json=[{"stattus": 503}], timeout=60)
    assert wrong.status_code == 422
    assert "stattus" in wrong.text
    right = requests.post(f"{base}/faults", json=[{"status": 503}], timeout=60).json()
    assert right[0]["fault"] == {"status": 503}
    assert requests.get(f"{base}/faults", timeout=60).json() == right
    assert requests.get(f"{magichour_simulator.url}/v1/account", timeout=60).status_code == 503
    requests.delete(f"{base}/faults", timeout=60)
    assert requests.get(f"{magichour_simulator.url}/v1/account", timeout=60).status_code == 401
    state = requests.get(f"{base}/state", params={"projects": False}, timeout=60).json()
    assert "projects" not in state
    assert len(requests.get(f"{base}/requests?route=get_account&limit=1", timeout=60).json()) == 1
    requests.post(f"{base}/reset", timeout=60)
    assert requests.get(f"{base}/state", timeout=60).json()["projects"] == {}


@pytest.mark.parametrize("faults", [None, "{", '{"status": 503}', '[{"stattus": 503}]'])
def test_command_line_refuses_wrong_faults(
    tmp_path: Path, faults: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "faults.json"
    if faults is not None:
        file.write_text(faults)
    with pytest.raises(SystemExit):
        main(["--faults", str(file)])
    assert "error: " in capsys.readouterr().err


def test_command_line_explains_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "seconds by which each response is delayed" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_line_starts_and_stops(tmp_path: Path, number: signal.Signals) -> None:
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "airflow_provider_magichour.simulator", "--duration", "0"]
    command += ["--ready-file", str(ready), "--credits", "7", "--api-key", "mhk_other"]
    faults = tmp_path / "faults.json"
    faults.write_text('[{"match": {"route": "get_account"}, "status": 503, "times": 1}]')
    command += ["--faults", str(faults)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            until = time.monotonic() + 60
            while not ready.exists():
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
            found = json.loads(ready.read_text("utf-8"))
            assert found["url"] in line
            assert found["pid"] == process.pid
            headers = {"Authorization": "Bearer mhk_other"}
            first, second = (
                requests.get(f"{found['url']}/v1/account", headers=headers, timeout=60) for _ in range(2)
            )
            assert (first.status_code, second.json()["credits"]) == (503, 7)
            os.kill(process.pid, number)
            assert process.wait(120) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--speed-up", "0"],
        ["--latency", "-1"],
        ["--webhook-url", "http://x"],
        ["--tier", "gold"],
    ],
)
def test_command_line_names_wrong_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert arguments[0].strip("-").replace("-", "_") in capsys.readouterr().err.replace("-", "_")

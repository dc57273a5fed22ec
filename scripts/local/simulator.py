"""The simulator as its own process, next to a real Airflow."""

from __future__ import annotations

import json
import sys
import time

from scripts.local.processes import ProcessError, Processes


def start_simulator(processes: Processes, *, name: str = "simulator", **settings: object) -> str:
    """
    Start a local Magic Hour among the processes, and return an Airflow connection to it.

    :param settings: the simulator's settings, such as ``duration=2``.
    :raises ProcessError: if it does not start.
    """
    ready = processes.log_folder / f"{name}.json"
    ready.unlink(missing_ok=True)
    options = [f"--{option.replace('_', '-')}={value}" for option, value in settings.items()]
    processes.start(
        name,
        [sys.executable, "-m", "airflow_provider_magichour.simulator", "--ready-file", str(ready), *options],
    )
    deadline = time.monotonic() + 60
    while not ready.exists():
        if not processes.is_running(name) or time.monotonic() > deadline:
            raise ProcessError(f"the simulator did not start:\n{processes.log_text(name)}")
        time.sleep(0.05)
    return str(json.loads(ready.read_text())["connection_uri"])

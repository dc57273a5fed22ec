"""``make airflow``: Airflow's UI with the examples and a local Magic Hour, to try out."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

from scripts.local import LocalAirflow
from scripts.local.processes import ProcessError, only_one
from scripts.local.simulator import start_simulator

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".airflow-playground"
BANNER = """
  Airflow:     {url}   (no password)
  Magic Hour:  a local one that costs nothing; see the connection magichour_default in Admin > Connections
  Files:       go to /tmp/magichour, unless you choose another folder when you trigger a DAG
  Database:    {home}/; runs, logs and variables are still there the next time. The local Magic Hour
               starts empty each time, so let runs finish before you stop.
  Try:         open the DAG magichour_media_pipeline and press Trigger
  Media:       {url}/magichour/view/, or "Magic Hour" in the menu, shows what was made

Ctrl-C stops it."""


def main() -> int:
    """Run until Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        with only_one("playground", ROOT):
            return _run()
    except KeyboardInterrupt:
        return 0
    except ProcessError as error:
        print(error, file=sys.stderr)
        return 1


def _run() -> NoReturn:
    # where the examples store by default, and where `make demo` does
    env = {"AIRFLOW__MAGICHOUR__VIEW_ROOTS": f"/tmp/magichour, {ROOT / 'media'}"}  # noqa: S108
    airflow = LocalAirflow(HOME, [ROOT / "example_dags"], port=_default_port(), grace=4, env=env)
    with contextlib.ExitStack() as ending:
        ending.callback(airflow.stop)
        ending.callback(print, "\nStopping...", flush=True)
        connection = start_simulator(airflow.processes, speed_up=5)
        print("Starting Airflow, which takes about half a minute...", flush=True)
        airflow.migrate()
        airflow.store_connection("magichour_default", connection)  # first: triggers of the last time go on
        airflow.start()
        airflow.wait_until_healthy(report=lambda part: print(f"  {part} is ready", flush=True))
        print(BANNER.format(url=airflow.url, home=HOME.name), flush=True)
        while True:
            airflow.check_running()
            time.sleep(2)


def _default_port() -> int | None:
    """Return Airflow's usual port where it is free, so that a bookmark works."""
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 8080))
        return 8080
    return None


if __name__ == "__main__":
    sys.exit(main())

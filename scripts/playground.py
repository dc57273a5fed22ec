"""``make airflow``: Airflow's UI with the examples and a local Magic Hour, to try out."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import time
from pathlib import Path

from scripts.local import LocalAirflow
from scripts.local.processes import ProcessError
from scripts.local.simulator import start_simulator

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".airflow-playground"
BANNER = """
  Airflow:     {url}   (no password)
  Magic Hour:  a local one that costs nothing; see the connection magichour_default in Admin > Connections
  Files:       go to /tmp/magichour, unless you choose another folder when you trigger a DAG
  Database:    {home}/; runs, logs and variables are still there the next time. Projects at the local
               Magic Hour are not.
  Try:         open the DAG magichour_media_pipeline and press Trigger
  Media:       {url}/magichour/view/, or "Magic Hour" in the menu, shows what was made

Ctrl-C stops it."""


def main() -> int:
    """Run until Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    # where the examples store by default, and where `make demo` does
    env = {"AIRFLOW__MAGICHOUR__VIEW_ROOTS": f"/tmp/magichour, {ROOT / 'media'}"}  # noqa: S108
    airflow = LocalAirflow(HOME, [ROOT / "example_dags"], port=_default_port(), grace=4, env=env)
    try:
        connection = start_simulator(airflow.processes, speed_up=5)
        print("Starting Airflow, which takes about half a minute...", flush=True)
        airflow.migrate()
        airflow.start()
        airflow.wait_until_healthy(report=lambda part: print(f"  {part} is ready", flush=True))
        airflow.replace_connection("magichour_default", connection)
        print(BANNER.format(url=airflow.url, home=HOME.name), flush=True)
        while True:
            airflow.check_running()
            time.sleep(2)
    except KeyboardInterrupt:
        print("\nStopping...", flush=True)
        return 0
    except ProcessError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        airflow.stop()


def _default_port() -> int | None:
    """Return Airflow's usual port where it is free, so that a bookmark works."""
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 8080))
        return 8080
    return None


if __name__ == "__main__":
    sys.exit(main())

"""Runs the receiver: ``python -m airflow_provider_magichour.webhooks``. Needs no Airflow."""

from __future__ import annotations

import argparse
import logging
import sys

import uvicorn

from airflow_provider_magichour.webhooks.receiver import create_app
from airflow_provider_magichour.webhooks.settings import SettingsError


def main() -> int:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(
        description="Receive Magic Hour's webhooks and hand them to Airflow as asset events. Settings are "
        "environment variables: MAGICHOUR_WEBHOOKS_AIRFLOW_URL, ..._USERNAME and ..._PASSWORD or ..._TOKEN, "
        "..._SECRETS; or keys of these names in lower case in a TOML file that ..._CONFIG names."
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8090, help="the port (default: %(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs each call
    try:
        app = create_app()
    except SettingsError as error:
        sys.exit(f"{parser.prog}: {error}")
    uvicorn.run(app, host=arguments.host, port=arguments.port, access_log=False, log_config=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())

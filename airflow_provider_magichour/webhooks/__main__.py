"""Runs the receiver: ``python -m airflow_provider_magichour.webhooks``. It needs no Airflow."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from airflow_provider_magichour.webhooks.receiver import create_app
from airflow_provider_magichour.webhooks.settings import SettingsError

#: Seconds within which the headers of a connection's first request must arrive.
HEADER_SECONDS = 5.0
ABOUT = """\
Receive Magic Hour's webhooks and create asset events in Airflow. Set the environment variables
MAGICHOUR_WEBHOOKS_AIRFLOW_URL, ..._SECRETS, and ..._USERNAME with ..._PASSWORD, or ..._TOKEN. Or set
MAGICHOUR_WEBHOOKS_CONFIG to the path of a TOML file with the same names in lower case."""


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc,valid-type,unused-ignore]
    """Closes connections without a request, because the number of open connections is limited."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override,unused-ignore]
        super().connection_made(transport)
        asyncio.get_running_loop().call_later(HEADER_SECONDS, self._close_unused, transport)

    def _close_unused(self, transport: asyncio.Transport) -> None:
        if getattr(self, "cycle", None) is None:
            transport.close()


def main() -> None:
    """Run the receiver until a signal ends it."""
    packed = sys.argv[0].endswith(".pyz")  # as `make dist` builds it
    command = "magichour-webhooks.pyz" if packed else "python -m airflow_provider_magichour.webhooks"
    parser = argparse.ArgumentParser(prog=command, description=ABOUT)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8090, help="the port (default: %(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # httpx logs each call
    try:
        app = create_app()
    except SettingsError as error:
        sys.exit(f"{parser.prog}: {error}")
    uvicorn.run(app, **vars(arguments), http=_Protocol, access_log=False, log_config=None)


if __name__ == "__main__":
    main()

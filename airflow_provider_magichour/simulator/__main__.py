"""The command line: ``python -m airflow_provider_magichour.simulator``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from airflow_provider_magichour.simulator.server import Simulator
from airflow_provider_magichour.simulator.settings import Settings

_HELP = {
    "host": "address to listen on",
    "port": "port of the API, 0 for any free one",
    "downloads_port": "port of signed download and upload URLs, 0 for any free one",
    "public_host": "host name in URLs, where clients reach the simulator under another one",
    "api_key": "API key to accept",
    "more_api_keys": "another API key, an account of its own; may be repeated",
    "credits": "credits of each account at the start",
    "tier": "the accounts' plan",
    "duration": "seconds from create to complete, for all tools",
    "speed_up": "be this many times faster than Magic Hour's real medians",
    "jitter": "let projects take up to this share longer or shorter, 0 to 1",
    "queue_share": "share of the duration that a project is queued, 0 to 1",
    "max_rendering": "how many projects of an account render at once",
    "deleted_projects": "what a GET of a deleted project gives: it with enabled: false, or 404",
    "url_lifetime": "seconds until a signed URL expires",
    "output_bytes": "pad each output to this many bytes",
    "rate_limit": "requests per second and account; more are answered 429",
    "webhook_url": "where to send webhooks",
    "webhook_secret": "secret that webhooks are signed with",
    "webhook_retry_seconds": "wait after a webhook's first failed delivery; it doubles with each",
    "webhook_timeout": "seconds to wait for the answer to a webhook",
    "webhook_duplicates": "how many times each webhook is sent again although it was accepted",
    "webhook_shuffle": "send webhooks late and out of order, by up to this many seconds",
    "seed": "make ids, jitter and random faults the same in each run",
}
_TYPES = {"int": int, "float": float}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_magichour.simulator",
        description="A local Magic Hour: the whole API, real media files, and faults on request.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    types = get_type_hints(Settings)
    for one in fields(Settings):
        option = "--" + one.name.replace("_", "-")
        if one.name == "more_api_keys":
            parser.add_argument("--more-api-key", dest=one.name, action="append", help=_HELP[one.name])
        elif get_origin(types[one.name]) is Literal:
            choices = get_args(types[one.name])
            parser.add_argument(option, choices=choices, default=one.default, help=_HELP[one.name])
        else:
            kind = _TYPES.get(str(one.type).split(" | ", maxsplit=1)[0], str)
            parser.add_argument(option, type=kind, default=one.default, help=_HELP[one.name])
    parser.add_argument(
        "--ready-file", type=Path, default=None, help="write the URLs there as JSON once it listens"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a simulator until it is told to stop (Ctrl-C or SIGTERM)."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    ready_file: Path | None = options.pop("ready_file")
    options["more_api_keys"] = tuple(options["more_api_keys"] or ())
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        simulator = Simulator(**options).start()
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        _announce(simulator, ready_file)
        stop.wait()
    finally:
        simulator.stop()
    return 0


def _announce(simulator: Simulator, ready_file: Path | None) -> None:
    found = {
        "url": simulator.url,
        "downloads_url": simulator.downloads_url,
        "connection_uri": simulator.connection_uri,
        "pid": os.getpid(),
    }
    print(
        f"Magic Hour simulator: API {simulator.url}, files {simulator.downloads_url}. "
        f"Ctrl-C stops it. For Airflow:\n"
        f"export AIRFLOW_CONN_MAGICHOUR_DEFAULT='{simulator.connection_uri}'",
        flush=True,
    )
    if ready_file is not None:
        # Under its final name only when it is whole, for who waits for it.
        draft = ready_file.with_name(f"{ready_file.name}.{os.getpid()}")
        draft.write_text(json.dumps(found), "utf-8")
        draft.replace(ready_file)


if __name__ == "__main__":
    sys.exit(main())

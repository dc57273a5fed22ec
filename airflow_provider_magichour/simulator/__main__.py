"""The command line: ``python -m airflow_provider_magichour.simulator``."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter

from airflow_provider_magichour.simulator.faults import Fault
from airflow_provider_magichour.simulator.server import Simulator
from airflow_provider_magichour.simulator.settings import Settings

_TYPES = {"int": int, "float": float}


def _help() -> dict[str, str]:
    """Return the description of each setting, from the docstring of the settings."""
    found = re.findall(r":param (\w+): (.*?)(?=\n *:param|\Z)", Settings.__doc__ or "", re.DOTALL)
    return {name: " ".join(text.replace("``", "").split()).rstrip(".") for name, text in found}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_magichour.simulator",
        description="A local server that behaves like Magic Hour, with real media files.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    types, texts = get_type_hints(Settings), _help()
    for one in fields(Settings):
        option = "--" + one.name.replace("_", "-")
        if one.name == "more_api_keys":
            text = "another API key, with its own account"
            parser.add_argument("--more-api-key", dest=one.name, action="append", help=text)
        elif get_origin(types[one.name]) is Literal:
            choices = get_args(types[one.name])
            parser.add_argument(option, choices=choices, default=one.default, help=texts[one.name])
        else:
            kind = _TYPES.get(str(one.type).split(" | ", maxsplit=1)[0], str)
            parser.add_argument(option, type=kind, default=one.default, help=texts[one.name])
    parser.add_argument("--faults", type=Path, help="a JSON file with a list of faults")
    parser.add_argument(
        "--ready-file",
        type=Path,
        default=None,
        help="a file for the URLs, which is written as JSON when the simulator is ready",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a simulator until Ctrl-C or SIGTERM."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    ready_file: Path | None = options.pop("ready_file")
    faults_file: Path | None = options.pop("faults")
    options["more_api_keys"] = tuple(options["more_api_keys"] or ())
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        faults = json.loads(faults_file.read_text("utf-8")) if faults_file else []
        faults = TypeAdapter(list[Fault]).validate_python(faults)
        simulator = Simulator(**options).start()
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        simulator.faults(*faults)
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
        # Another program may wait for this file, so it gets its final name only when it is complete.
        draft = ready_file.with_name(f"{ready_file.name}.{os.getpid()}")
        draft.write_text(json.dumps(found), "utf-8")
        draft.replace(ready_file)


if __name__ == "__main__":
    sys.exit(main())

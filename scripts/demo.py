"""
``make demo``: make an image, a video and a voice in a real Airflow.

Without ``MAGIC_HOUR_API_KEY`` they are made by a local Magic Hour (the simulator). With it they are made by
Magic Hour itself, which costs credits: it says so and asks first, unless ``CONFIRM=yes``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from scripts.local import FINISHED, LocalAirflow
from scripts.local.processes import ProcessError, only_one
from scripts.local.simulator import start_simulator
from scripts.media import NotMediaError, describe

ROOT = Path(__file__).resolve().parents[1]
DAG = "magichour_media_pipeline"
KINDS = ("image", "video", "audio")
LONGEST_RUN = 60 * 60
NEXT = f"""
What to try next:
  make airflow
      Airflow's UI with all examples and a local Magic Hour; "Magic Hour" in its menu shows these files
  example_dags/{DAG}.py
      the DAG that ran just now; the other examples are beside it
  docs/tutorial.md
      your own first DAG, in ten minutes
  MAGIC_HOUR_API_KEY=... make smoke
      one image at Magic Hour itself, 10 credits at most"""

_started = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT, help="where Airflow's home and the media go")
    folder = parser.parse_args(arguments).folder.resolve()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        with only_one("demo", folder):
            return _demo(folder)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except (ProcessError, NotMediaError, OSError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _demo(folder: Path) -> int:
    connection = _real_connection()
    home = folder / ".airflow-demo"
    shutil.rmtree(home, ignore_errors=True)
    airflow = LocalAirflow(home, [ROOT / "example_dags"], parallelism=3, grace=4)
    with contextlib.ExitStack() as ending:
        ending.callback(airflow.stop)
        if connection is None:
            _say("starting a local Magic Hour (no MAGIC_HOUR_API_KEY is set, so this costs nothing)")
            connection = start_simulator(airflow.processes, speed_up=10)
        airflow.connect("magichour_default", connection)
        _say("making Airflow's database")
        airflow.migrate()
        _say("starting Airflow: API server, scheduler, DAG processor, triggerer")
        airflow.start()
        airflow.wait_until_healthy(report=lambda part: _say(f"  {part} is ready"))
        _say(f"Airflow runs at {airflow.url}; starting the DAG {DAG}")
        run = airflow.trigger(DAG, {"destination": str(folder / "media")})
        state = _follow(airflow, run)
        if state != "success":
            print(f"\nThe DAG run ended as {state}.\n{airflow.failed_task_logs(DAG, run)}", file=sys.stderr)
            return 1
        files = [(kind, file) for kind in KINDS for file in _xcom(airflow, run, kind, "download")]
        deleted = [(kind, one) for kind in KINDS for one in _xcom(airflow, run, kind, "delete")["deleted"]]
    _say("Airflow has stopped")
    _print_files(folder, files)
    _print_deleted(deleted)
    print(NEXT)
    return 0


def _say(what: str) -> None:
    print(f"[{time.monotonic() - _started:4.0f} s] {what}", flush=True)


def _xcom(airflow: LocalAirflow, run: str, kind: str, task: str) -> Any:
    found = airflow.xcom(DAG, run, f"{kind}.{task}")
    if not found:
        raise ProcessError(f"task {kind}.{task} returned nothing")
    return found


def _follow(airflow: LocalAirflow, run: str) -> str:
    """Print each change of a task until the run ends, and return its state."""
    seen: dict[str, str] = {}
    deadline = time.monotonic() + LONGEST_RUN
    while time.monotonic() < deadline:
        state = str(airflow.run(DAG, run)["state"])
        for task in airflow.task_instances(DAG, run):
            name, now = task["task_id"], task["state"] or "waiting for its turn"
            if seen.get(name, "waiting for its turn") != now and now not in {"scheduled", "queued"}:
                word = "deferred: waits in the triggerer" if now == "deferred" else now
                _say(f"  {name:16} {word}")
            seen[name] = now
        if state in FINISHED:
            return state
        time.sleep(1)
    raise ProcessError(f"the DAG run did not end within {LONGEST_RUN} s")


# ------------------------------------------------------------------------------------- Magic Hour itself


def _real_connection() -> str | None:
    """Return a connection to Magic Hour itself, once that is confirmed; None if no key is set."""
    key = os.environ.get("MAGIC_HOUR_API_KEY", "").strip()
    if not key:
        return None
    from airflow_provider_magichour import DEFAULT_BASE_URL
    from airflow_provider_magichour._client import api
    from airflow_provider_magichour._client.settings import Settings
    from airflow_provider_magichour._client.transport import Sender
    from airflow_provider_magichour.exceptions import MagicHourError

    host = os.environ.get("MAGIC_HOUR_BASE_URL", DEFAULT_BASE_URL)
    try:
        account = Sender(Settings(api_key=key, base_url=host)).send(api.get_account())
    except MagicHourError as error:
        raise ProcessError(str(error)) from None
    print(
        f"MAGIC_HOUR_API_KEY is set, so this runs at {host} and costs credits of {account.get('email')}:\n"
        "  the image about 5, the video some hundred, the voice a few.\n"
        f"  The account has {account.get('credits')} credits. "
        "The projects are deleted there once their files are here.\n"
        "  (Unset MAGIC_HOUR_API_KEY to run against a local Magic Hour for nothing.)"
    )
    if os.environ.get("CONFIRM", "").lower() != "yes":
        if not sys.stdin.isatty():
            raise ProcessError("set CONFIRM=yes to go on without being asked")
        if input("Go on? [yes/no] ").strip().lower() not in {"yes", "y"}:
            raise ProcessError("not confirmed; nothing was sent")
    return json.dumps({"conn_type": "magichour", "host": host, "password": key})


# ------------------------------------------------------------------------------------------- the results


def _print_files(folder: Path, files: list[tuple[str, dict[str, Any]]]) -> None:
    rows = [("kind", "path", "bytes", "sha256", "dimensions or duration")]
    for kind, file in files:
        path = Path(str(file["path"]).removeprefix("file://"))
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != file["sha256"]:
            raise ProcessError(f"{path} is not what was downloaded: its sha256 is {digest}")
        shown = path.relative_to(folder) if path.is_relative_to(folder) else path
        rows.append((kind, str(shown), str(len(content)), digest, describe(path)))
    print(f"\nFiles under {folder}:")
    _print_table(rows)


def _print_deleted(deleted: list[tuple[str, str]]) -> None:
    print("\nDeleted at Magic Hour:")
    _print_table([("kind", "project"), *deleted])


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))


if __name__ == "__main__":
    sys.exit(main())

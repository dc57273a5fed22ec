"""
Measures the clean-up: its time over what the rate limit allows, its memory and its XCom.

    python -m benchmarks.cleanup                 print the figures
    python -m benchmarks.cleanup --write         and write their section of docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.file_server import connection_to
from benchmarks.report import Figure, at_most, figures_table, write_section

MIB = 2**20
RATE = 500


# ---------------------------------------------------------------------------------------------- history


def write_history(
    folder: Path, count: int, name: str, *, due: bool, same_day: bool = False, whole: int | None = None
) -> None:
    """
    Write entries as downloads leave them: over the last 28 days, or 31 days old and with their files.

    :param same_day: whether all are of one day.
    :param whole: of how many the files are there, the newest first; None for all that are due.
    """
    from airflow_provider_magichour._transfer import catalogue, receipts
    from airflow_provider_magichour._transfer.storage import Storage

    root = Storage(str(folder), str(folder))
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for n in range(count):
        project_id = f"1.1.0.0.{name}{n}"
        minutes = timedelta(minutes=n * 1439 // count if same_day else n % (28 * 24 * 60))
        at = today - timedelta(days=31) + minutes if due else today - minutes
        receipt = receipts.make(
            {"created_at": receipts.timestamp(at)},
            project_id,
            "image",
            receipts.Writer("magichour_default", lambda: "benchmark"),
            root=root,
            destination=root,
            files=[{"path": f"{project_id}/output.png", "bytes": 1, "sha256": "0" * 64}],
            downloaded_at=at,
        )
        path = folder / catalogue.path_of(receipt)
        if n % 1000 == 0 or not same_day:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(receipts.dump(receipt.data))
        if due and (whole is None or n >= count - whole):
            (folder / project_id).mkdir(parents=True)
            (folder / project_id / "output.png").write_text("x")


# ----------------------------------------------------------------------------------------------- server


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Give the account, and delete whatever is requested."""
    account = b'{"id": "benchmark", "credits": 1}'
    ok = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(account)
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            deleted = head.startswith(b"DELETE")
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n" if deleted else ok + account)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _server() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def _magic_hour() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.cleanup", "--server"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()


# -------------------------------------------------------------------------------------------- the child


def clean_up(folder: str, limit: str) -> None:
    """Clean up in this process, after a run that has nothing to do; print what it took."""
    import logging
    from types import SimpleNamespace

    from airflow_provider_magichour.operators import MagicHourCleanupOperator
    from benchmarks.files import measured

    logging.disable(logging.INFO)
    pushed: dict[str, Any] = {}
    context: Any = {"ti": SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value}))}

    def run(older_than: timedelta, limit: str | None) -> Any:
        operator = MagicHourCleanupOperator(
            task_id="c", destination=folder, older_than=older_than, limit=limit
        )
        return operator.execute(context)

    operator_run: Callable[..., Any] = run
    operator_run(timedelta(days=3000), None)
    operator_run(timedelta(days=30), "1")
    with measured():
        outcome = operator_run(timedelta(days=30), None if limit == "None" else limit)
    found = {"counts": pushed["counts"], "xcom": len(json.dumps(outcome))}
    print(json.dumps(found), file=sys.stderr)


def _child(folder: Path, url: str, limit: int | None) -> dict[str, Any]:
    env = {
        **os.environ,
        "AIRFLOW_CONN_MAGICHOUR_DEFAULT": connection_to(url),
        "AIRFLOW_HOME": str(folder.parent / "home"),
    }
    command = [sys.executable, "-m", "benchmarks.cleanup", "--child", str(folder), str(limit)]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return {**json.loads(done.stdout.splitlines()[-1]), **json.loads(done.stderr.splitlines()[-1])}


# ---------------------------------------------------------------------------------------------- figures


def measure(folder: Path, count: int, limit: int | None) -> list[Figure]:
    """Clean up projects of one day."""
    write_history(folder, count + 1, "due", due=True, same_day=True, whole=10 * limit if limit else None)
    with _magic_hour() as url:
        found = _child(folder, url, limit)
    expected = limit or count
    assert found["counts"] == {"deleted": expected, "missing": 0, "kept": 0}, found
    what = f"{count:,} due of one day" + (f", limit={limit}" if limit else "")
    over = found["seconds"] - expected / RATE
    return [
        at_most(f"{what}: time over what {RATE} requests a second allow", over, 2 + expected / RATE / 5, "s"),
        at_most(f"{what}: peak memory growth", found["growth"] / MIB, 32, "MiB", 1),
        at_most(f"{what}: returned value", found["xcom"] / 1024, 64, "KiB", 1),
    ]


METHOD = """\
The entries and files are on a local disk, and a server of the benchmark responds at once. The clean-up runs
in its own process, after one that deletes a single project. Memory is the growth of the peak resident set.
"""


def main() -> int:
    """Measure and print, or run one side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--part", type=int, default=1, help="divide the numbers of projects, to try it out")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--server", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.server:
        asyncio.run(_server())
    if arguments.child:
        clean_up(*arguments.child)
        return 0
    figures: list[Figure] = []
    for count, limit in ((200_000, 100), (20_000, None)):
        with tempfile.TemporaryDirectory() as name:
            figures += measure(Path(name) / "media", count // arguments.part, limit)
        print(figures_table(figures), flush=True)
    if arguments.write:
        write_section("Clean-up", f"{METHOD}\n{figures_table(figures)}\n")
    return 0 if all(one.met for one in figures) else 1


if __name__ == "__main__":
    sys.exit(main())

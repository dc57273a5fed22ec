"""
How files are fetched and projects deleted, against curl and the official SDK, on this machine.

    python -m benchmarks.files [--only NAME ...] [--write]

Each figure is a ratio within one run: both sides take the same bytes from the same server, in turn.
``--write`` puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import object_files
from benchmarks.cleanup import write_history
from benchmarks.file_server import connection_to, file_server
from benchmarks.report import Figure, at_least, at_most, figures_table, write_section

MIB = 1024 * 1024
GIB = 1024 * MIB
ROUNDS = 3


@dataclass
class Bench:
    """
    Where the benchmarks run.

    :param url: the server's base URL.
    :param folder: where files go, emptied after each.
    """

    url: str
    folder: Path

    def project(self, files: int, size: int, rate: int = 0, latency_ms: int = 0, name: str = "p") -> str:
        """Return the id of a project of that shape."""
        return f"{files}.{size}.{rate}.{latency_ms}.{name}"

    def child(self, side: str, *arguments: str) -> dict[str, float]:
        """Run one side in its own process; return its ``seconds`` and ``growth`` in bytes."""
        target = self.folder / "out"
        target.mkdir()
        env = {
            **os.environ,
            "AIRFLOW_CONN_MAGICHOUR_DEFAULT": connection_to(self.url),
            "AIRFLOW_HOME": str(self.folder / "home"),
            "BENCH_URL": self.url,
        }
        try:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.files", "--side", side, str(target), *arguments],
                env=env,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            return dict(json.loads(done.stdout.splitlines()[-1]))
        finally:
            shutil.rmtree(target)

    def curl(self, project_id: str) -> float:
        """Return the seconds that ``curl -o`` takes for the project's first file."""
        target = self.folder / "curl.out"
        started = time.perf_counter()
        curl = shutil.which("curl") or "curl"
        subprocess.run(
            [curl, "--silent", "--fail", "-o", str(target), f"{self.url}/{project_id}/output-0.png"],
            check=True,
        )
        seconds = time.perf_counter() - started
        target.unlink()
        return seconds


# ------------------------------------------------------------------------------- one side, in a child


@contextmanager
def measured() -> Iterator[None]:
    """Print how long it took, and by how much the process's memory grew at most."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before = _status("VmRSS")
    started, started_cpu = time.perf_counter(), time.process_time()
    yield
    seconds = time.perf_counter() - started
    cpu = time.process_time() - started_cpu
    print(json.dumps({"seconds": seconds, "cpu": cpu, "growth": _status("VmHWM") - before}))


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def hook() -> Any:
    import logging

    from airflow_provider_magichour.hooks import MagicHourHook

    logging.getLogger("airflow_provider_magichour").setLevel(logging.WARNING)
    return MagicHourHook()


def ours(target: str, *ids: str) -> None:
    """Download projects with the hook."""
    mine = hook()
    mine.download_project("image", "1.1000.0.0.warm", f"{target}/warm")
    with measured():
        mine.download_project("image", list(ids), target)


def sdk(target: str, *ids: str) -> None:
    """Download projects with the official SDK, one after the other, as it does."""
    client = _sdk_client()
    client.v1.image_projects.check_result("1.1000.0.0.warm", True, True, target)
    with measured():
        for project_id in ids:
            client.v1.image_projects.check_result(project_id, True, True, target)


def _sdk_client() -> Any:
    from magic_hour import Client

    return Client(token="mhk_benchmark", base_url=os.environ["BENCH_URL"])


def delete_ours(_target: str, count: str, latency_ms: str) -> None:
    """Delete projects with the hook."""
    mine = hook()
    mine.delete_project("image", "1.1.0.0.warm")
    with measured():
        mine.delete_project("image", [f"1.1.0.{latency_ms}.{n}" for n in range(int(count))])


def delete_sdk(_target: str, count: str, latency_ms: str) -> None:
    """Delete projects with the official SDK, one by one."""
    client = _sdk_client()
    client.v1.image_projects.delete(id="1.1.0.0.warm")
    with measured():
        for n in range(int(count)):
            client.v1.image_projects.delete(id=f"1.1.0.{latency_ms}.{n}")


def clean_up(_target: str, folder: str) -> None:
    """Clean up a destination where 100 projects are due."""
    from datetime import timedelta
    from types import SimpleNamespace

    from airflow_provider_magichour.operators import MagicHourCleanupOperator

    mine = hook()
    mine.delete_project("image", "1.1.0.0.warm")
    operator = MagicHourCleanupOperator(task_id="c", destination=folder, older_than=timedelta(days=30))
    context: Any = {"ti": SimpleNamespace(xcom_push=lambda key, value: None)}
    with measured():
        outcome = operator.execute(context)
    assert len(outcome["deleted"]) == 100, outcome


SIDES: dict[str, Callable[..., None]] = {
    **object_files.SIDES,
    **{one.__name__: one for one in (ours, sdk, delete_ours, delete_sdk, clean_up)},
}

# --------------------------------------------------------------------------------------------- figures


def one_large_file(bench: Bench) -> list[Figure]:
    """Fetch 1 GiB, in turn with curl, ours and the SDK; the best of each counts."""
    project_id = bench.project(1, GIB)
    curl, mine, theirs = [], [], []
    for _ in range(ROUNDS):
        curl.append(bench.curl(project_id))
        mine.append(bench.child("ours", project_id))
        theirs.append(bench.child("sdk", project_id))
    best = min(one["seconds"] for one in mine)
    their_best = min(one["seconds"] for one in theirs)
    growth, their_growth = max(one["growth"] for one in mine), min(one["growth"] for one in theirs)
    ours_speed, curl_speed, sdk_speed = (GIB / one / 1e6 for one in (best, min(curl), their_best))
    large = "1 GiB to local disk, verified with sha256"
    memory = f"({growth / MIB:.1f} MiB) against the SDK's ({their_growth / MIB:.0f} MiB)"
    return [
        at_least(
            f"{large} ({ours_speed:.0f} MB/s), against `curl -o` without ({curl_speed:.0f} MB/s): speed",
            min(curl) / best,
            0.5,
            "x",
        ),
        at_least(
            f"the same against the SDK's download ({sdk_speed:.0f} MB/s): speed", their_best / best, 4, "x"
        ),
        at_most(f"the same: peak memory growth {memory}", growth / their_growth, 1 / 20, digits=4),
        at_most("peak memory growth, 1 GiB to local disk", growth / MIB, 64, "MiB", 1),
    ]


def many_files(bench: Bench) -> list[Figure]:
    """Fetch eight projects over connections with 20 ms of latency and 30 MB/s each."""
    ids = [bench.project(1, 128 * MIB, 30_000_000, 20, f"p{n}") for n in range(8)]
    mine, theirs = bench.child("ours", *ids)["seconds"], bench.child("sdk", *ids)["seconds"]
    what = "8 x 128 MiB, 20 ms of latency and 30 MB/s per connection, against the SDK's one after the other"
    return [at_least(f"{what} ({mine:.1f} s, {theirs:.1f} s): speed", theirs / mine, 3.5, "x")]


def many_deletes(bench: Bench) -> list[Figure]:
    """Delete 2,000 projects at 50 ms of latency."""
    mine, theirs = (bench.child(side, "2000", "50")["seconds"] for side in ("delete_ours", "delete_sdk"))
    what = "2,000 deletes at 50 ms of latency, against the SDK's one by one"
    return [at_least(f"{what} ({mine:.1f} s, {theirs:.1f} s): speed", theirs / mine, 12, "x")]


def much_history(bench: Bench) -> list[Figure]:
    """Clean up 100 due projects, with a short history and a long one."""
    seconds = {}
    for count in (1_000, 100_000):
        times = []
        for number in range(ROUNDS):
            folder = bench.folder / f"receipts-{count}"
            if number == 0:
                write_history(folder, count - 100, "new", due=False)
            write_history(folder, 100, f"due{number}-", due=True)
            times.append(bench.child("clean_up", str(folder))["seconds"])
        seconds[count] = min(times)
        shutil.rmtree(folder)
    short, long = seconds[1_000], seconds[100_000]
    what = "a clean-up of 100 due projects among 100,000 receipts, against 100 among 1,000"
    return [at_most(f"{what} ({long:.2f} s, {short:.2f} s): time", long / short, 1.5)]


FIGURES: dict[str, Callable[[Bench], list[Figure]]] = {
    **{one.__name__: one for one in (one_large_file, many_files)},
    **object_files.FIGURES,
    **{one.__name__: one for one in (many_deletes, much_history)},
}


METHODS = {
    "Files": """\
- **Server.** One process serves the files with `sendfile`, and responds to the API's calls as Magic Hour
  does.
- **Sides.** Each side runs in its own process, after a small download to warm up. For 1 GiB, curl, this
  package and the SDK run three times in turn, and the best of each counts. Only this package ends with an
  `fsync`.
- **Memory** is the growth of the peak resident set during the download: the largest of this package, the
  smallest of the SDK.
""",
    "Object storage": """\
- **Server.** The benchmark has its own S3 (`benchmarks/store_server.py`). It accepts 40 MB/s on each
  connection for large files, and takes 20 to 60 ms for each request for small ones. It shares the processor
  with the file host and the side that is measured.
- **The other side** is boto3's `upload_fileobj` for large files. For small files it is requests with
  `put_object`, which also reads the project, and writes one JSON object for each file.
- **Best of three.** Both sides run three times in turn, and the best of each counts.
- **Checksums.** This package computes the sha256 of all files, and the other side does not. On a busy
  machine, this makes a larger difference.
""",
}


def main() -> int:
    """Measure and print, or run one side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder by default")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--side", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        SIDES[arguments.side[0]](*arguments.side[1:])
        return 0
    figures: dict[str, list[Figure]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        content = Path(folder, "content")
        with content.open("wb") as file:
            for _ in range(GIB // (16 * MIB)):
                file.write(os.urandom(16 * MIB))
        with file_server(content) as url:
            for name in arguments.only:
                section = "Object storage" if name in object_files.FIGURES else "Files"
                found = FIGURES[name](Bench(url, Path(folder)))
                figures.setdefault(section, []).extend(found)
                print(f"{figures_table(found)}\nload average {os.getloadavg()[1]:.1f}", flush=True)
    for section, found in figures.items() if arguments.write else ():
        write_section(section, f"{METHODS[section]}\n{figures_table(found)}\n")
    return 0 if all(one.met for found in figures.values() for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())

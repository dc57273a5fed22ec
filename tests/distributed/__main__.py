"""
``make test-distributed``: chaos tests of the provider on Airflow with Celery, PostgreSQL and Redis.

The short form makes 200 projects in one run with all faults mixed. ``--full`` makes 500 in each run: each
fault alone, then all mixed. Exit codes: 0 if every invariant holds, 1 if not, 2 if there is no PostgreSQL or
Redis.
"""

from __future__ import annotations

import argparse
import configparser
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.local import LocalAirflow
from scripts.local.services import Services, ServicesError, start_services
from tests.distributed.faults import FAULTS
from tests.distributed.invariants import Invariant
from tests.distributed.report import table, write_page
from tests.distributed.run import Cluster, Report, run_chaos
from tests.distributed.secret_search import find_in_database, find_in_files

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "tests" / "distributed" / "dags"


def main() -> int:
    """Run the tests, and return the exit code."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM cleans up, too
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    runs = [[name] for name in FAULTS] if options.full else []
    runs.append(list(FAULTS))
    if options.faults:
        runs = [options.faults]
    projects = options.projects or (500 if options.full else 200)
    home = Path(tempfile.mkdtemp(prefix="magichour-distributed-"))
    say(f"seed {seed}; {projects} projects in each of {len(runs)} runs; logs in {home}")
    try:
        with start_services(home / "services") as services:
            say(services.source)
            reports = _run(home, services, runs, projects, seed)
    except ServicesError as error:
        print(error, file=sys.stderr)
        shutil.rmtree(home)
        return 2
    except KeyboardInterrupt:
        say(f"stopped; the logs are in {home}")
        return 130
    if not all(report.holds for report in reports):
        say(f"invariants were violated; the logs are in {home}. The same faults: --seed {seed}")
        return 1
    shutil.rmtree(home)
    if options.write:
        write_page(reports)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make test-distributed", description=__doc__)
    parser.add_argument("--full", action="store_true", help="each fault alone, then all mixed")
    parser.add_argument("--faults", nargs="*", choices=FAULTS, help="one run with these faults")
    parser.add_argument("--projects", type=int, help="how many projects in each run")
    parser.add_argument("--seed", type=int, help="the seed of all random choices")
    parser.add_argument("--write", action="store_true", help="write the table into the documentation")
    return parser.parse_args()


def _run(
    home: Path, services: Services, runs: Sequence[Sequence[str]], projects: int, seed: int
) -> list[Report]:
    airflow = LocalAirflow(
        home / "airflow",
        [DAGS],
        triggerers=2,
        celery_workers=2,
        broker_url=services.broker_url,
        result_backend=services.result_backend,
        parallelism=8,
        database_url=services.database_url,
        env={
            "MAGICHOUR_CHAOS_FOLDER": str(home / "airflow" / "media"),
            "AIRFLOW__MAGICHOUR__WEBHOOKS_CONNECTIONS": ",".join(
                f"magichour_chaos_{number}" for number in range(1, len(runs) + 1)
            ),
        },
    )
    reports = []
    with airflow:
        airflow.unpause("chaos_webhooks")
        say("the cluster is healthy")
        cluster = Cluster(airflow, services, _fernet_key(airflow), say)
        for number, faults in enumerate(runs, start=1):
            say(f"run {number}: {', '.join(faults)}")
            reports.append(run_chaos(cluster, number, projects, faults, seed + number))
            say(f"run {number} has ended")
            print(table(reports[-1:]), flush=True)
        secrets = [secret for report in reports for secret in report.secrets]
        last = _no_secret(airflow, services, secrets)
        reports[-1].invariants.append(last)
        say(f"{last.name}: {last.found}; {'; '.join(last.violations) or 'none found'}")
    return reports


def _no_secret(airflow: LocalAirflow, services: Services, secrets: Sequence[str]) -> Invariant:
    """No key and no webhook secret is in any log, any other file of the run, or any table."""
    found = find_in_files(airflow.home, secrets)
    found += find_in_database(services.database_url, secrets, fernet_key=_fernet_key(airflow))
    files = sum(1 for path in airflow.home.rglob("*") if path.is_file())
    return Invariant("no key in any log, XCom, table or file", f"{files} files and all tables", found)


def _fernet_key(airflow: LocalAirflow) -> str:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(airflow.home / "airflow.cfg")
    return settings.get("core", "fernet_key")


_BEGAN = time.monotonic()


def say(what: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"[{time.monotonic() - _BEGAN:6.1f} s, load {os.getloadavg()[0]:4.1f}] {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

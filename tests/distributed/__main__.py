"""
``make test-distributed``: the provider on a cluster of Airflow with Celery, PostgreSQL and Redis, under fire.

The short form makes 200 projects in one round with all fires mixed. ``--full`` makes 500 in each round:
each fire alone, then all mixed. Exit codes: 0 if every promise was kept, 1 if not, 2 if there is no
PostgreSQL or Redis.
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

from scripts.local_airflow import LocalAirflow
from scripts.services import Services, ServicesError, start_services
from tests.distributed.fires import FIRES
from tests.distributed.promises import Promise
from tests.distributed.report import table, write_page
from tests.distributed.round import Cluster, Report, burn
from tests.distributed.secret_search import find_in_database, find_in_files

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "tests" / "distributed" / "dags"


def main() -> int:
    """Run it and return the exit code."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops it, all is ended
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    rounds = [[name] for name in FIRES] if options.full else []
    rounds.append(list(FIRES))
    if options.fires:
        rounds = [options.fires]
    projects = options.projects or (500 if options.full else 200)
    home = Path(tempfile.mkdtemp(prefix="magichour-distributed-"))
    say(f"seed {seed}; {projects} projects in each of {len(rounds)} rounds; logs in {home}")
    try:
        with start_services(home / "services") as services:
            say(services.source)
            reports = _run(home, services, rounds, projects, seed)
    except ServicesError as error:
        print(error, file=sys.stderr)
        shutil.rmtree(home)
        return 2
    except KeyboardInterrupt:
        say(f"stopped; the logs are in {home}")
        return 130
    if not all(report.kept for report in reports):
        say(f"promises were broken; the logs are in {home}. The same fires: --seed {seed}")
        return 1
    shutil.rmtree(home)
    if options.write:
        write_page(reports)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make test-distributed", description=__doc__)
    parser.add_argument("--full", action="store_true", help="each fire alone, then all mixed")
    parser.add_argument("--fires", nargs="*", choices=FIRES, help="one round with these fires")
    parser.add_argument("--projects", type=int, help="how many projects in each round")
    parser.add_argument("--seed", type=int, help="what all chances come from")
    parser.add_argument("--write", action="store_true", help="write the table into the documentation")
    return parser.parse_args()


def _run(
    home: Path, services: Services, rounds: Sequence[Sequence[str]], projects: int, seed: int
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
        env={"MAGICHOUR_FIRE_FOLDER": str(home / "airflow" / "media")},
    )
    reports = []
    with airflow:
        airflow.unpause("fire_webhooks")
        say("the cluster is healthy")
        cluster = Cluster(airflow, services, _fernet_key(airflow), say)
        for number, fires in enumerate(rounds, start=1):
            say(f"round {number}: {', '.join(fires)}")
            reports.append(burn(cluster, number, projects, fires, seed + number))
            say(f"round {number} has ended")
            print(table(reports[-1:]), flush=True)
        secrets = [secret for report in reports for secret in report.secrets]
        last = _no_secret(airflow, services, secrets)
        reports[-1].promises.append(last)
        say(f"{last.name}: {last.found}; {'; '.join(last.broken) or 'none found'}")
    return reports


def _no_secret(airflow: LocalAirflow, services: Services, secrets: Sequence[str]) -> Promise:
    """No key and no webhook secret is in any log, any other file of the run, or any table."""
    found = find_in_files(airflow.home, secrets)
    found += find_in_database(services.database_url, secrets, fernet_key=_fernet_key(airflow))
    files = sum(1 for path in airflow.home.rglob("*") if path.is_file())
    return Promise("no key in any log, XCom, table or file", f"{files} files and all tables", found)


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

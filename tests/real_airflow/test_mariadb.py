"""Ten thousand ids on MariaDB: what a deferral stores fits into MySQL's column."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.local.client import wait_until
from scripts.local.processes import Processes

SERVER = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")

pytestmark = [
    pytest.mark.real_airflow,
    pytest.mark.skipif(SERVER is None, reason="needs MariaDB (Debian: apt-get install mariadb-server)"),
]

STAND_IN = """
import sys
import pymysql.converters
pymysql.install_as_MySQLdb()
pymysql.converters.DateTime2literal = pymysql.converters.escape_datetime
sys.modules["MySQLdb.converters"] = pymysql.converters
"""

#: Stores triggers in the database of this process's Airflow, as its API server does for a deferral.
STORE = """
import json, sys, time
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from airflow_provider_magichour._polling.deferral import split_ids
from airflow_provider_magichour.triggers import MagicHourProjectTrigger

ids = [f"cmgx1y2z3{number:06d}abcdefghij" for number in range(10_000)]
parts = split_ids(ids) if sys.argv[1] == "split" else [ids]
found, longest = [], 0
for part in parts:
    until = time.time() + 3600
    trigger = MagicHourProjectTrigger("video", part, "magichour_default", until, tool="text-to-video")
    path, kwargs = trigger.serialize()
    with create_session() as session:
        row = Trigger(classpath=path, kwargs=kwargs)
        session.add(row)
        session.flush()
        number = row.id
    with create_session() as session:
        row = session.get(Trigger, number)
        found += row.kwargs["project_ids"]
        longest = max(longest, len(row.encrypted_kwargs))
print(json.dumps({"parts": len(parts), "all": found == ids, "longest": longest}))
"""


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Yield the environment of an Airflow whose database is on its own MariaDB."""
    folder = tmp_path_factory.mktemp("mariadb")
    data, socket = folder / "data", Path("/tmp") / f"magichour-{os.getpid()}.sock"  # noqa: S108  # short enough
    install = [
        "mariadb-install-db",
        "--no-defaults",
        f"--datadir={data}",
        "--auth-root-authentication-method=normal",
    ]
    user = f"--user={getpass.getuser()}"
    subprocess.run([*install, user], check=True, capture_output=True)
    processes = Processes(folder / "processes", dict(os.environ))
    try:
        processes.start(
            "mariadb",
            [
                str(SERVER),
                "--no-defaults",
                f"--datadir={data}",
                f"--socket={socket}",
                user,
                "--skip-networking",
            ],
        )
        wait_until(socket.exists, 60, "MariaDB")
        env = airflow_environment(folder, socket)
        run(env, "-m", "airflow", "db", "migrate")
        yield env
    finally:
        processes.stop_all()
        with contextlib.suppress(FileNotFoundError):
            socket.unlink()


def airflow_environment(folder: Path, socket: Path) -> dict[str, str]:
    import pymysql

    with pymysql.connect(unix_socket=str(socket), user="root") as connection, connection.cursor() as cursor:
        cursor.execute("create database airflow character set utf8mb4 collate utf8mb4_unicode_ci")
    # Airflow requests mysqlclient, which needs a compiler; PyMySQL stands in for it.
    (folder / "sitecustomize.py").write_text(STAND_IN)
    return {
        **os.environ,
        "PYTHONPATH": str(folder),
        "AIRFLOW_HOME": str(folder / "home"),
        "AIRFLOW__CORE__FERNET_KEY": "YlCImzjge_TeZc7jPJ7Jz2pgOtb4yTssA1pVyqIADWg=",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"mysql+pymysql://root@localhost/airflow?unix_socket={socket}",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"sqlite+aiosqlite:///{folder / 'unused.db'}",
    }


def run(env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def stored(env: dict[str, str], how: str) -> dict[str, Any]:
    return dict(json.loads(run(env, "-c", STORE, how).strip().splitlines()[-1]))


def test_ten_thousand_ids_fit_in_parts(mariadb: dict[str, str]) -> None:
    found = stored(mariadb, "split")
    assert found["all"]
    assert found["parts"] <= 10
    assert found["longest"] <= 60_000


def test_ten_thousand_ids_do_not_fit_at_once(mariadb: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match="Data too long for column"):
        stored(mariadb, "whole")

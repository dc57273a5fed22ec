"""
PostgreSQL and Redis for one run, which leaves nothing behind.

    with start_services(folder) as services:
        LocalAirflow(..., database_url=services.database_url, broker_url=services.broker_url)

In this order: servers of its own, where their programs are installed; those that
``MAGICHOUR_TEST_POSTGRESQL_URL`` and ``MAGICHOUR_TEST_REDIS_URL`` name; containers.
``MAGICHOUR_TEST_SERVICES`` chooses one: ``own``, ``given`` or ``compose``.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.local.processes import Processes, free_port

POSTGRESQL_URL = "MAGICHOUR_TEST_POSTGRESQL_URL"
REDIS_URL = "MAGICHOUR_TEST_REDIS_URL"
CHOICE = "MAGICHOUR_TEST_SERVICES"
COMPOSE_FILE = Path(__file__).resolve().parents[2] / "tests" / "distributed" / "compose.yaml"

#: What marks a Redis database as taken by a run.
CLAIM = "magichour-test-run"

#: How long a server may take to start, to recover after a crash, or to stop.
PATIENCE = 60.0

_NOWHERE = f"""\
PostgreSQL and Redis are needed. One of these:
  install their servers, and the run starts its own (Debian: apt-get install postgresql redis-server);
  set {POSTGRESQL_URL} (postgresql://user:password@host:5432/postgres, a user who may create databases)
  and {REDIS_URL} (redis://host:6379);
  run Docker with its compose plugin."""


class ServicesError(RuntimeError):
    """PostgreSQL or Redis is missing, or failed."""


@dataclass(frozen=True)
class Services:
    """
    A PostgreSQL database and a Redis database that belong to one run.

    :param database_url: SQLAlchemy URL of an empty database.
    :param broker_url: URL of an empty Redis database.
    :param source: where they came from, for a report.
    """

    database_url: str
    broker_url: str
    source: str
    _restart: Callable[[], None] | None = None

    @property
    def result_backend(self) -> str:
        """Return where Celery keeps results: in the database."""
        return f"db+{self.database_url}"

    @property
    def can_restart(self) -> bool:
        """Return whether PostgreSQL is the run's own, so that it may be restarted."""
        return self._restart is not None

    def restart_postgresql(self) -> None:
        """
        Let PostgreSQL crash and start it again; return once it has recovered.

        To be called from the main thread, as :meth:`Processes.start`.

        :raises ServicesError: if it is not ours, or does not come back.
        """
        if self._restart is None:
            raise ServicesError(f"PostgreSQL cannot be restarted: {self.source}")
        self._restart()


@contextlib.contextmanager
def start_services(folder: Path, env: Mapping[str, str] | None = None) -> Iterator[Services]:
    """
    Give a PostgreSQL and a Redis database for as long as the block runs.

    :param folder: where the servers' logs go; made where missing.
    :param env: what to choose by; this process's environment if None.
    :raises ServicesError: if there is no way to get them.
    """
    env = os.environ if env is None else env
    choice = env.get(CHOICE) or _first_possible(env)
    if choice == "own":
        servers = _own(folder)
    elif choice == "given":
        servers = _given(env)
    elif choice == "compose":
        servers = _compose()
    else:
        raise ServicesError(f"{CHOICE} is own, given or compose, not {choice}")
    with servers as services:
        yield services


def _first_possible(env: Mapping[str, str]) -> str:
    if all(_program(name) for name in ("initdb", "postgres", "redis-server")):
        return "own"
    if env.get(POSTGRESQL_URL) and env.get(REDIS_URL):
        return "given"
    if _responds("docker", "info") and _responds("docker", "compose", "version"):
        return "compose"
    raise ServicesError(_NOWHERE)


# ------------------------------------------------------------------------------------------ own servers


@contextlib.contextmanager
def _own(folder: Path) -> Iterator[Services]:
    user = _unprivileged_user()
    password = secrets.token_hex(16)
    with (
        # Not below the run's folder, which PostgreSQL's user may be unable to enter.
        tempfile.TemporaryDirectory(prefix="magichour-services-") as name,
        Processes(folder, os.environ) as processes,
    ):
        home = Path(name)
        postgresql = _OwnPostgresql(home, processes, user, password)
        try:
            postgresql.start()
            _administer(postgresql.url, "CREATE DATABASE airflow")
            broker_url = _start_redis(home, processes, password)
            yield Services(
                database_url=postgresql.url.removesuffix("/postgres") + "/airflow",
                broker_url=broker_url,
                source=f"own servers ({_version('postgres')}; {_version('redis-server')})",
                _restart=postgresql.restart,
            )
        finally:
            postgresql.stop(signal.SIGINT)


class _OwnPostgresql:
    """A PostgreSQL server in a new data folder; only loopback, no socket file."""

    def __init__(self, home: Path, processes: Processes, user: str, password: str) -> None:
        self.processes = processes
        self.user = user
        self.data = home / "postgresql"
        port = free_port()
        self.url = f"postgresql+psycopg2://airflow:{password}@127.0.0.1:{port}/postgres"
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "port": port,
            "max_connections": 200,
            # Survives a crash of the server, and not one of the machine, which nobody needs here.
            "fsync": "off",
        }
        self.command = [_require("postgres"), "-D", str(self.data)]
        self.command += [f"--{name}={value}" for name, value in settings.items()]
        password_file = home / "password"
        password_file.write_text(password)
        for path in (home, password_file):
            if user:
                shutil.chown(path, user)
        options = ["--username=airflow", "--auth=scram-sha-256", f"--pwfile={password_file}"]
        options += ["--encoding=UTF8", "--no-locale", "--no-sync", str(self.data)]
        processes.start("initdb", [_require("initdb"), *options], user=user)
        _wait(lambda: processes.exit_code("initdb") is not None, "initdb")
        if processes.exit_code("initdb") != 0:
            raise ServicesError(f"initdb failed:\n{processes.log_text('initdb')}")

    def start(self) -> None:
        """Start it and wait until it takes statements."""
        self.processes.start("postgresql", self.command, user=self.user)
        _wait(self._is_ready, "PostgreSQL")

    def restart(self) -> None:
        """Let it crash, and start it again."""
        self.stop(signal.SIGQUIT)
        self.start()

    def stop(self, sig: int) -> None:
        """Stop it: SIGINT sends its clients away, SIGQUIT leaves everything as it is."""
        if self.processes.is_running("postgresql"):
            self.processes.kill("postgresql", sig, PATIENCE)

    def _is_ready(self) -> bool:
        if not self.processes.is_running("postgresql"):
            # While it was down, some client's outgoing connection may have been given its port.
            self.processes.start("postgresql", self.command, user=self.user)
        return _is_up(self.url)


def _start_redis(home: Path, processes: Processes, password: str) -> str:
    import redis

    port = free_port()
    # In a file, because everybody on the machine can read a command line.
    settings = home / "redis.conf"
    settings.touch(0o600)
    settings.write_text(f'bind 127.0.0.1\nport {port}\nsave ""\ndir {home}\nrequirepass {password}\n')
    processes.start("redis", [_require("redis-server"), str(settings)])
    url = f"redis://:{password}@127.0.0.1:{port}/0"

    def is_ready() -> bool:
        with (
            contextlib.suppress(redis.ConnectionError),
            contextlib.closing(redis.Redis.from_url(url)) as client,
        ):
            return bool(client.ping())
        return False

    _wait(is_ready, "Redis")
    return url


def _unprivileged_user() -> str:
    """Return whom PostgreSQL shall run as: it refuses to run as root."""
    if os.geteuid() != 0:
        return ""
    known = {user.pw_name for user in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return name
    raise ServicesError("PostgreSQL does not run as root, and there is no user postgres or nobody")


# --------------------------------------------------------------------------------------- given servers


@contextlib.contextmanager
def _given(env: Mapping[str, str]) -> Iterator[Services]:
    from sqlalchemy.engine import make_url

    missing = [name for name in (POSTGRESQL_URL, REDIS_URL) if not env.get(name)]
    if missing:
        raise ServicesError(f"{' and '.join(missing)} must be set")
    server = make_url(env[POSTGRESQL_URL]).set(drivername="postgresql+psycopg2")
    database = f"magichour_{secrets.token_hex(6)}"
    admin = server.render_as_string(hide_password=False)
    with _given_redis(env[REDIS_URL]) as broker_url:
        _administer(admin, f"CREATE DATABASE {database}")
        try:
            yield Services(
                database_url=server.set(database=database).render_as_string(hide_password=False),
                broker_url=broker_url,
                source=f"given servers ({POSTGRESQL_URL}, {REDIS_URL})",
            )
        finally:
            _administer(admin, f"DROP DATABASE {database} WITH (FORCE)")


@contextlib.contextmanager
def _given_redis(server: str) -> Iterator[str]:
    """Yield the URL of a database number that was empty, and empty it at the end."""
    import redis
    from sqlalchemy.engine import make_url

    for number in range(1, 16):
        url = make_url(server).set(database=str(number)).render_as_string(hide_password=False)
        with contextlib.closing(redis.Redis.from_url(url)) as client:
            try:
                # The claim keeps out another run that checks at the same moment.
                taken = client.dbsize() or not client.set(CLAIM, "1", nx=True)
            except redis.RedisError as error:
                raise ServicesError(f"Redis does not respond: {error}") from error
            if taken:
                continue
            try:
                yield url
            finally:
                client.flushdb()
            return
    raise ServicesError(f"{REDIS_URL}: none of the databases 1 to 15 is empty")


# ------------------------------------------------------------------------------------------ containers


@contextlib.contextmanager
def _compose() -> Iterator[Services]:
    password = secrets.token_hex(16)
    ports = {"POSTGRESQL_PORT": str(free_port()), "REDIS_PORT": str(free_port())}
    env = {**os.environ, **ports, "PASSWORD": password}
    compose = ["docker", "compose", "--file", str(COMPOSE_FILE)]
    compose += ["--project-name", f"magichour-{secrets.token_hex(4)}"]
    database_url = f"postgresql+psycopg2://airflow:{password}@127.0.0.1:{ports['POSTGRESQL_PORT']}/airflow"

    def run(*arguments: str) -> None:
        command = [*compose, *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)  # noqa: S603  # our own arguments
        if done.returncode != 0:
            raise ServicesError(f"docker compose {' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")

    def restart() -> None:
        run("kill", "--signal", "SIGQUIT", "postgresql")
        run("up", "--detach", "postgresql")
        _wait(lambda: _is_up(database_url), "PostgreSQL")

    try:
        run("up", "--detach")
        _wait(lambda: _is_up(database_url), "PostgreSQL")
        yield Services(
            database_url=database_url,
            broker_url=f"redis://:{password}@127.0.0.1:{ports['REDIS_PORT']}/0",
            source="containers (docker compose)",
            _restart=restart,
        )
    finally:
        run("down", "--volumes")


# ----------------------------------------------------------------------------------------------- parts


def _program(name: str) -> str | None:
    """Return where a server program is: on the path, or where Debian puts the newest PostgreSQL."""
    newest_first = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda path: (len(path.parent.name), path),
        reverse=True,
    )
    folders = [os.environ.get("PATH", os.defpath), *map(str, newest_first)]
    return shutil.which(name, path=os.pathsep.join(folders))


def _require(name: str) -> str:
    path = _program(name)
    if path is None:
        raise ServicesError(f"the program {name} was not found")
    return path


def _version(name: str) -> str:
    done = subprocess.run([_require(name), "--version"], capture_output=True, text=True, check=True)  # noqa: S603  # a server program
    return " ".join(done.stdout.split()[:3])


def _responds(*command: str) -> bool:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0  # noqa: S603  # docker
    return False


def _administer(url: str, statement: str) -> None:
    """Execute a statement outside of a transaction."""
    import sqlalchemy.exc

    engine = sqlalchemy.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        poolclass=sqlalchemy.NullPool,
        connect_args={"connect_timeout": 10},
    )
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
    except sqlalchemy.exc.DBAPIError as error:
        raise ServicesError(f"PostgreSQL: {error.orig}") from error


def _is_up(url: str) -> bool:
    try:
        _administer(url, "SELECT 1")
    except ServicesError:
        return False
    return True


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise ServicesError(f"timed out after {PATIENCE:.0f} s waiting for {what}")
        time.sleep(0.05)

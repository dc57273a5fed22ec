"""PostgreSQL and Redis for one run: each way to get them, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from scripts.local import services
from scripts.local.services import Services, ServicesError, start_services

psycopg2 = pytest.importorskip("psycopg2")
redis = pytest.importorskip("redis")

needs_programs = pytest.mark.skipif(
    not all(services._program(name) for name in ("initdb", "postgres", "redis-server")),
    reason="the server programs of PostgreSQL and Redis are not installed",
)


def query(database_url: str, statement: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(psycopg2.connect(database_url.replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def redis_client(url: str) -> Any:
    return contextlib.closing(redis.Redis.from_url(url))


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="module")
def own(logs: Path) -> Iterator[Services]:
    with start_services(logs, {services.CHOICE: "own"}) as running:
        yield running


@pytest.mark.xdist_group("services")
@needs_programs
class TestOwn:
    def test_committed_data_survives_a_crash(self, own: Services, logs: Path) -> None:
        query(own.database_url, "CREATE TABLE kept AS SELECT 7 AS number")
        with contextlib.closing(psycopg2.connect(own.database_url.replace("+psycopg2", ""))) as client:
            assert own.can_restart
            own.restart_postgresql()
            with pytest.raises(psycopg2.OperationalError):
                client.cursor().execute("SELECT 1")
        assert query(own.database_url, "SELECT number FROM kept") == [(7,)]
        assert "database system was not properly shut down" in (logs / "postgresql.log").read_text()

    def test_restart_waits_for_the_port(self, own: Services, logs: Path) -> None:
        assert own._restart is not None
        server: Any = own._restart.__self__  # type: ignore[attr-defined]
        server.stop(signal.SIGQUIT)
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(("127.0.0.1", urlsplit(own.database_url).port))
            thief.listen()

            def leave() -> None:
                services._wait(lambda: "could not bind" in (logs / "postgresql.log").read_text(), "the clash")
                thief.close()

            leaving = threading.Thread(target=leave)
            leaving.start()
            server.start()
            leaving.join()
        assert query(own.database_url, "SELECT 1") == [(1,)]

    def test_redis_is_empty_and_works(self, own: Services) -> None:
        with redis_client(own.broker_url) as client:
            assert client.dbsize() == 0
            client.set("key", "value")
            assert client.get("key") == b"value"

    def test_own_servers_refuse_other_users(self, own: Services) -> None:
        other_client = redis.Redis(port=urlsplit(own.broker_url).port)
        with contextlib.closing(other_client), pytest.raises(redis.AuthenticationError):
            other_client.ping()
        with pytest.raises(psycopg2.OperationalError, match="password"):
            query(f"postgresql://airflow:no@127.0.0.1:{urlsplit(own.database_url).port}/airflow", "SELECT 1")

    def test_result_backend_names_the_database(self, own: Services) -> None:
        assert own.result_backend == f"db+{own.database_url}"

    def test_given_servers_are_left_unchanged(self, own: Services, tmp_path: Path) -> None:
        def read() -> tuple[Any, ...]:
            with redis_client(own.broker_url) as client:
                return query(own.database_url, "SELECT datname FROM pg_database"), client.info("keyspace")

        taken = own.broker_url.removesuffix("/0") + "/1"
        with redis_client(taken) as client:
            client.set("another", "user")
        before = read()
        env = {
            services.CHOICE: "given",
            services.POSTGRESQL_URL: own.database_url.replace("+psycopg2", ""),
            services.REDIS_URL: own.broker_url.removesuffix("/0"),
        }
        with start_services(tmp_path, env) as first, start_services(tmp_path, env) as second:
            assert first.database_url != second.database_url
            assert len({taken, first.broker_url, second.broker_url}) == 3
            with redis_client(first.broker_url) as client:
                client.set("key", "value")
            # A connection that somebody forgot does not keep the database.
            psycopg2.connect(first.database_url.replace("+psycopg2", ""))
            assert not first.can_restart
            with pytest.raises(ServicesError, match="cannot be restarted: given servers"):
                first.restart_postgresql()
        assert read() == before


@pytest.mark.xdist_group("services")
@needs_programs
def test_own_servers_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = Path(tempfile.mkdtemp(prefix="services-"))
    temporary.chmod(0o755)  # PostgreSQL's user has to enter it, as it cannot enter pytest's
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def interrupted() -> None:
        with start_services(tmp_path, {services.CHOICE: "own"}) as running:
            ports.extend(urlsplit(url).port for url in (running.database_url, running.broker_url))
            clients.append(psycopg2.connect(running.database_url.replace("+psycopg2", "")))
            raise KeyboardInterrupt

    ports: list[int | None] = []
    clients: list[Any] = []  # they stay
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    for port in ports:
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert [line for line in lines if str(temporary) in line] == []
    temporary.rmdir()  # which is empty
    assert "received fast shutdown request" in (tmp_path / "postgresql.log").read_text()


class TestChoice:
    @pytest.fixture(autouse=True)
    def _nothing_installed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(services, "_program", lambda name: None)
        monkeypatch.setenv("PATH", str(tmp_path))  # no docker either

    def test_error_without_servers_names_the_choices(self, tmp_path: Path) -> None:
        with pytest.raises(ServicesError) as caught, start_services(tmp_path, {}):
            pass
        for way in ("apt-get install", services.POSTGRESQL_URL, services.REDIS_URL, "Docker"):
            assert way in str(caught.value)

    def test_own_servers_come_before_given_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given = {services.POSTGRESQL_URL: "postgresql://host", services.REDIS_URL: "redis://host"}
        assert services._first_possible(given) == "given"
        monkeypatch.setattr(services, "_program", lambda name: f"/bin/{name}")
        assert services._first_possible(given) == "own"

    def test_containers_are_the_last_choice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        monkeypatch.setattr(services, "_responds", lambda *command: asked.append(command) is None)
        assert services._first_possible({services.REDIS_URL: "redis://host"}) == "compose"
        assert asked == [("docker", "info"), ("docker", "compose", "version")]

    @pytest.mark.parametrize(
        ("choice", "message"),
        [
            ("own", "postgres was not found|no user|initdb was not found"),
            ("given", f"{services.POSTGRESQL_URL} and {services.REDIS_URL} must be set"),
            ("other", "is own, given or compose, not other"),
        ],
    )
    def test_impossible_choice_is_an_error(self, tmp_path: Path, choice: str, message: str) -> None:
        with pytest.raises(ServicesError, match=message), start_services(tmp_path, {services.CHOICE: choice}):
            pass

    def test_unreachable_given_servers_are_an_error(self, tmp_path: Path) -> None:
        env = {services.POSTGRESQL_URL: "postgresql://127.0.0.1:1", services.REDIS_URL: "redis://127.0.0.1:1"}
        with pytest.raises(ServicesError, match="Redis does not respond"), start_services(tmp_path, env):
            pass

    def test_containers_are_taken_down(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        docker = tmp_path / "docker"
        docker.write_text(f'#!/bin/sh\nshift 5\necho "$@" >> {tmp_path}/calls\n')
        docker.chmod(0o755)
        monkeypatch.setattr(services, "_is_up", lambda url: True)
        with start_services(tmp_path, {services.CHOICE: "compose"}) as running:
            assert running.can_restart
            running.restart_postgresql()
        assert (tmp_path / "calls").read_text().splitlines() == [
            "up --detach",
            "kill --signal SIGQUIT postgresql",
            "up --detach postgresql",
            "down --volumes",
        ]

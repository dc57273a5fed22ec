"""A planted secret is found in every form and place, and the report does not repeat it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import re
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from tests.distributed.secret_search import (
    Search,
    find_in_database,
    find_in_files,
    find_in_processes,
    trigger_kwargs,
)

SECRET = 'mhk_kä/"x+ y?1234\\'
OTHER = "whsec_c2VjcmV0"
FERNET_KEY = Fernet.generate_key().decode()

FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": json.dumps,
    "JSON, not ASCII": lambda secret: json.dumps(secret, ensure_ascii=False),
    "JSON of JavaScript": lambda secret: json.dumps(secret).replace("/", "\\/"),
    "JSON in JSON": lambda secret: json.dumps({"x": json.dumps({"key": secret})}),
    "repr": repr,
    "repr of bytes": lambda secret: repr(secret.encode()),
    "path": quote,
    "query": lambda secret: quote(secret, safe=""),
    "query, small letters": lambda secret: re.sub("%..", lambda m: m[0].lower(), quote(secret, safe="")),
    "Basic": lambda secret: "Basic " + base64.b64encode(f":{secret}".encode()).decode(),
    "Basic with a user": lambda secret: base64.b64encode(f"me:{secret}".encode()).decode(),
    "base64": lambda secret: base64.b64encode(f"{secret} and more".encode()).decode(),
    "base64 of URLs": lambda secret: base64.urlsafe_b64encode(f"{secret}?".encode()).decode(),
    "hex": lambda secret: secret.encode().hex(),
    "HEX": lambda secret: secret.encode().hex().upper(),
}


def check_report(found: list[str], *parts: str) -> None:
    assert found
    for part in parts:
        assert any(part in each for each in found), found
    for form in FORMS.values():
        assert form(SECRET) not in "".join(found)


@pytest.mark.parametrize("form", FORMS)
def test_every_encoding_is_found_in_a_file(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "logs" / "dag_id=x"
    folder.mkdir(parents=True)
    (folder / "clean.log").write_text("nothing here\n" * 1000)
    assert find_in_files(tmp_path, [OTHER, SECRET]) == []
    (folder / "attempt=1.log").write_text("header\n" * 1000 + f"Authorization: {FORMS[form](SECRET)}\n")
    check_report(find_in_files(tmp_path, [OTHER, SECRET]), "attempt=1.log: secret 2, ")


@given(
    secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=8, max_size=60),
    before=st.binary(max_size=5),
    after=st.binary(max_size=5),
)
def test_secret_is_found_within_base64(secret: str, before: bytes, after: bytes) -> None:
    content = before + secret.encode() + after
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        assert Search([secret])("x", encode(content))


def test_secret_is_found_in_a_file_name(tmp_path: Path) -> None:
    (tmp_path / "run_id=mhk_key-1234").write_text("")
    found = find_in_files(tmp_path, ["mhk_key-1234"])
    assert len(found) == 1
    assert "mhk_key-1234" not in found[0]


def test_files_that_hold_it_on_purpose_and_links_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "simulator.json").write_text(SECRET)
    (tmp_path / "linked.log").symlink_to(tmp_path / "simulator.json")
    assert find_in_files(tmp_path, [SECRET], ignored=["simulator.json"]) == []
    assert len(find_in_files(tmp_path, [SECRET])) == 1


def test_search_without_secrets_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        find_in_files(tmp_path / "missing", [SECRET])
    with pytest.raises(ValueError, match="no secrets"):
        find_in_files(tmp_path, [])
    with pytest.raises(ValueError, match="8 bytes"):
        find_in_files(tmp_path, ["abc"])


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give an empty database with tables such as Airflow's."""
    made = contextlib.nullcontext(f"sqlite:///{tmp_path / 'airflow.db'}")
    with made if request.param == "sqlite" else postgresql() as url:
        binary, js = ("BLOB", "TEXT") if request.param == "sqlite" else ("BYTEA", "JSON")
        execute(
            url,
            "CREATE TABLE connection (id INTEGER PRIMARY KEY, password TEXT, extra TEXT)",
            "CREATE TABLE trigger (id INTEGER PRIMARY KEY, classpath TEXT, kwargs TEXT)",
            f"CREATE TABLE xcom (dag_id TEXT, key TEXT, value {js}, PRIMARY KEY (dag_id, key))",
            f"CREATE TABLE celery_taskmeta (id INTEGER PRIMARY KEY, result {binary})",
            f"CREATE TABLE rendered_task_instance_fields (ti_id TEXT, rendered_fields {js})",
            "INSERT INTO rendered_task_instance_fields VALUES ('ti', NULL)",
        )
        yield url


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    server = os.environ.get("MAGICHOUR_TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432")
    name = f"magichour_test_{uuid.uuid4().hex[:8]}"
    server = server.replace("postgresql:", "postgresql+psycopg2:")  # the driver that the others use, too
    admin = sqlalchemy.create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    try:
        connection = admin.connect()
    except sqlalchemy.exc.OperationalError:
        pytest.skip(f"no PostgreSQL at {server}")
    with connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
        try:
            yield f"{server}/{name}"
        finally:
            connection.execute(sqlalchemy.text(f"DROP DATABASE {name}"))
    admin.dispose()


def execute(url: str, *statements: str, **values: object) -> None:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement), values)


@pytest.mark.parametrize("form", FORMS)
def test_every_encoding_is_found_in_a_column(tmp_path: Path, form: str) -> None:
    url = f"sqlite:///{tmp_path / 'any.db'}"
    execute(url, "CREATE TABLE log (id INTEGER PRIMARY KEY, event TEXT)")
    execute(url, "INSERT INTO log VALUES (1, 'clean')")
    assert find_in_database(url, [SECRET]) == []
    execute(url, "INSERT INTO log VALUES (7, :event)", event=f"x {FORMS[form](SECRET)} y")
    check_report(find_in_database(url, [SECRET]), "log.event of id 7: secret 1, ")


def test_secret_is_found_in_an_xcom(url: str) -> None:
    execute(url, "INSERT INTO xcom VALUES ('d', 'clean', :value)", value=json.dumps({"id": "p1"}))
    assert find_in_database(url, [SECRET]) == []
    execute(url, "INSERT INTO xcom VALUES ('d', 'r', :value)", value=json.dumps({"a": [{"b": SECRET}]}))
    check_report(find_in_database(url, [SECRET]), "xcom.value of dag_id d, key r: ")
    assert find_in_database(url, [SECRET], ignored=["xcom.value"]) == []
    assert find_in_database(url, [SECRET], ignored=["xcom"]) == []


def test_secret_is_found_in_pickled_bytes(url: str) -> None:
    execute(url, "INSERT INTO celery_taskmeta VALUES (3, :result)", result=pickle.dumps({"error": SECRET}))
    check_report(find_in_database(url, [SECRET]), "celery_taskmeta.result of id 3: secret 1, plain")


def test_rendered_fields_without_primary_key_are_searched(url: str) -> None:
    execute(
        url,
        "INSERT INTO rendered_task_instance_fields VALUES ('ti', :fields)",
        fields=json.dumps({"body": f"Bearer {SECRET}"}),
    )
    check_report(find_in_database(url, [SECRET]), "rendered_task_instance_fields.rendered_fields of row 2: ")


def test_finding_does_not_repeat_the_secret(url: str) -> None:
    execute(url, "INSERT INTO xcom VALUES (:key, 'k', NULL)", key=SECRET)
    check_report(find_in_database(url, [SECRET]), "xcom.dag_id of dag_id ***, key k: ")


def test_encrypted_columns_are_searched(url: str) -> None:
    fernet = Fernet(FERNET_KEY)
    encrypted = fernet.encrypt(SECRET.encode()).decode()
    execute(url, "INSERT INTO connection VALUES (1, :it, :it)", it=encrypted)
    waits = fernet.encrypt(b'{"project_ids": ["p1"]}').decode()
    execute(url, "INSERT INTO trigger VALUES (1, 'a.b.Trigger', :kwargs)", kwargs=waits)
    assert find_in_database(url, [SECRET], fernet_key=FERNET_KEY) == []
    assert trigger_kwargs(url, FERNET_KEY) == {"id 1": '{"project_ids": ["p1"]}'}

    execute(url, "INSERT INTO trigger VALUES (2, 'a.b.Trigger', :kwargs)", kwargs=encrypted)
    assert find_in_database(url, [SECRET]) == []
    check_report(
        find_in_database(url, [SECRET], fernet_key=FERNET_KEY), "trigger.kwargs (decrypted) of id 2: "
    )
    execute(url, "INSERT INTO connection VALUES (2, :it, NULL)", it=SECRET)
    check_report(find_in_database(url, [SECRET]), "connection.password of id 2: ")


def test_unencrypted_triggers_are_searched(url: str) -> None:
    execute(url, "INSERT INTO trigger VALUES (1, 'a.b.Trigger', :kwargs)", kwargs='{"key": "mhk_key-1"}')
    for key in (None, FERNET_KEY):
        assert trigger_kwargs(url, key) == {"id 1": '{"key": "mhk_key-1"}'}
    assert len(find_in_database(url, ["mhk_key-1"])) == 1


def test_search_does_not_lock_the_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'any.db'}"
    execute(url, "CREATE TABLE log (id INTEGER PRIMARY KEY, event TEXT)")
    find_in_database(url, [SECRET])
    with contextlib.closing(sqlite3.connect(tmp_path / "any.db", timeout=0)) as connection, connection:
        connection.execute("INSERT INTO log VALUES (1, 'x')")


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_secret_is_found_in_processes() -> None:
    wait, pipe = [sys.executable, "-c", "print(flush=True); input()"], subprocess.PIPE
    shown = subprocess.Popen([*wait, SECRET], stdin=pipe, stdout=pipe)
    inherits = subprocess.Popen(wait, stdin=pipe, stdout=pipe, env={**os.environ, "KEY": SECRET})
    pids = [shown.pid, inherits.pid]
    try:
        for process in (shown, inherits):  # while it starts, its environment is empty
            assert process.stdout is not None
            process.stdout.readline()
        found = find_in_processes(pids, [SECRET])
        check_report(found, f"cmdline of process {shown.pid}: ")
        assert len(found) == 1
        assert len(find_in_processes(pids, [SECRET], environments=True)) == 2
    finally:
        for process in (shown, inherits):
            process.communicate(b"\n")
    assert find_in_processes(pids, [SECRET]) == []

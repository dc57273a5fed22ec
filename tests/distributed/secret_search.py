"""
Looks for secrets in what a run of Airflow left behind: files, databases and processes.

A secret is found in plain, quoted for a URL, escaped for JSON, in base64 at any alignment (so inside
``Basic ...`` as well) and in hexadecimal. What is returned says where, and never what.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import sqlalchemy
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

#: Anything shorter could be any word.
SHORTEST = 8
#: Encrypted columns that are there to hold secrets: nothing but their plain form is searched.
ENCRYPTED_ON_PURPOSE = frozenset({"connection.password", "connection.extra"})


class Search:
    """
    The search for some secrets.

    :param secrets: what must be nowhere.
    :raises ValueError: if there is none, or one is too short to be searched.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        found = [(number, *form) for number, secret in enumerate(secrets, 1) for form in _forms(secret)]
        if not found:
            raise ValueError("there are no secrets to search for")
        self._forms = found

    def __call__(self, where: str, content: bytes) -> list[str]:
        """Return where a content holds which of the secrets, in which form."""
        return [
            f"{self.hide(where)}: secret {number}, {name}, at byte {content.index(form)}"
            for number, name, form in self._forms
            if form in content
        ]

    def hide(self, text: str) -> str:
        """Return a text without the secrets: they may be in a file's name or a row's key."""
        raw = text.encode(errors="surrogateescape")
        for _, _, form in self._forms:
            raw = raw.replace(form, b"***")
        return raw.decode(errors="backslashreplace")


def _forms(secret: str) -> Iterator[tuple[str, bytes]]:
    """Yield the forms of a secret with their names, each form once."""
    raw = secret.encode()
    if len(raw) < SHORTEST:
        raise ValueError(f"a secret of less than {SHORTEST} bytes cannot be searched")
    escaped = [json.dumps(secret, ensure_ascii=pure)[1:-1] for pure in (True, False)]
    escaped += [each.replace("/", "\\/") for each in escaped]
    quoted = [quote(secret), quote(secret, safe=""), quote_plus(secret)]
    named = [("plain", raw)]
    named += [("JSON", text.encode()) for text in escaped]
    named += [("JSON in JSON", json.dumps(text)[1:-1].encode()) for text in escaped]
    named += [("repr", repr(raw)[2:-1].encode()), ("repr", repr(secret)[1:-1].encode())]
    named += [("URL", text.encode()) for text in quoted]
    named += [("URL", _lower_escapes(text).encode()) for text in quoted]
    named += [("base64", form) for offset in range(3) for form in _base64(raw, offset)]
    named += [("hex", raw.hex().encode()), ("hex", raw.hex().upper().encode())]
    yield from {form: (name, form) for name, form in reversed(named)}.values()


def _lower_escapes(text: str) -> str:
    first, *rest = text.split("%")
    return "%".join([first, *(each[:2].lower() + each[2:] for each in rest)])


def _base64(raw: bytes, offset: int) -> Iterator[bytes]:
    """Yield what stands in a longer text's base64 for bytes at an offset, whatever is around them."""
    first = -(-offset * 8 // 6)  # the characters before hold bits of what is before
    last = (offset + len(raw)) * 8 // 6  # and the one at the end, of what comes after
    padded = bytes(offset) + raw + bytes(3)
    yield base64.b64encode(padded)[first:last]
    yield base64.urlsafe_b64encode(padded)[first:last]


def find_in_files(folder: Path, secrets: Iterable[str], *, ignored: Collection[str] = ()) -> list[str]:
    """
    Return where the files below a folder hold a secret, their names included; empty if nowhere.

    Links are not followed: what they lead to is searched where it is, if it is below.

    :param ignored: patterns of paths, such as ``simulator.json``, that hold one on purpose.
    :raises OSError: if there is no such folder, or a file cannot be read: unread is not clean.
    """
    search = Search(secrets)
    found = []
    for parent, _, names in os.walk(folder, onerror=_raise):
        for path in (Path(parent) / name for name in names):
            if path.is_symlink() or not path.is_file() or any(path.match(pattern) for pattern in ignored):
                continue
            found += search(f"name of {path}", os.fsencode(path.name))
            with suppress(FileNotFoundError):  # removed meanwhile
                found += search(str(path), path.read_bytes())
    return found


def _raise(error: OSError) -> None:
    raise error


def find_in_database(
    url: str, secrets: Iterable[str], *, ignored: Collection[str] = (), fernet_key: str | None = None
) -> list[str]:
    """
    Return where any row of any table of a database holds a secret; empty if nowhere.

    :param url: SQLAlchemy URL, of PostgreSQL (``postgresql+psycopg2://``) or SQLite.
    :param ignored: tables, or columns as ``table.column``, that are not searched.
    :param fernet_key: Airflow's; with it, what is encrypted is searched as well, such as the arguments of
        triggers, but for what connections hold.
    """
    search = Search(secrets)
    fernet = _fernet(fernet_key)
    found = []
    for table, key, column, value in _values(url):
        name = f"{table}.{column}"
        if table in ignored or name in ignored:
            continue
        content = _content(value)
        found += search(f"{name} of {key}", content)
        if fernet and name not in ENCRYPTED_ON_PURPOSE and content.startswith(b"gAAAA"):
            with suppress(InvalidToken):
                found += search(f"{name} (decrypted) of {key}", fernet.decrypt(content))
    return found


def trigger_kwargs(url: str, fernet_key: str | None) -> dict[str, str]:
    """
    Return the arguments of the triggers that wait, in plain, by the triggers' ids.

    Airflow encrypts them or not, by the way that they came.

    :raises cryptography.fernet.InvalidToken: if it is another key.
    """
    fernet = _fernet(fernet_key)
    found = {}
    for table, key, column, value in _values(url, "trigger"):
        if (table, column) == ("trigger", "kwargs"):
            plain = value.startswith("{") or fernet is None
            found[key] = value if plain else fernet.decrypt(value).decode()
    return found


def _fernet(key: str | None) -> MultiFernet | None:
    return MultiFernet([Fernet(each) for each in key.split(",")]) if key else None


def _values(url: str, only: str | None = None) -> Iterator[tuple[str, str, str, Any]]:
    """Yield each value of a database with its table, its row's key and its column, as the driver gives it."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    inspector = sqlalchemy.inspect(engine)
    with engine.connect() as connection:
        for schema in inspector.get_schema_names():
            if schema == "information_schema":
                continue
            for table in inspector.get_table_names(schema):
                if only not in (None, table):
                    continue
                columns = [column["name"] for column in inspector.get_columns(table, schema)]
                keys = inspector.get_pk_constraint(table, schema)["constrained_columns"]
                # Columns without types: what is stored, not what Airflow's classes would make of it.
                statement = sqlalchemy.select(*map(sqlalchemy.column, columns)).select_from(
                    sqlalchemy.table(table, schema=schema)
                )
                for number, row in enumerate(connection.execute(statement), 1):
                    values = dict(zip(columns, row, strict=True))
                    key = ", ".join(f"{name} {values[name]}" for name in keys) or f"row {number}"
                    for column, value in values.items():
                        if value is not None:
                            yield table, key, column, value
    engine.dispose()


def _content(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str).encode(errors="surrogatepass")
    return str(value).encode(errors="surrogatepass")


def find_in_processes(
    pids: Sequence[int], secrets: Iterable[str], *, environments: bool = False
) -> list[str]:
    """
    Return which processes' command lines hold a secret; Linux only.

    :param environments: whether to search their environments too, where Airflow's connections may be.
    """
    search = Search(secrets)
    found = []
    for pid in pids:
        for part in ("cmdline", "environ") if environments else ("cmdline",):
            with suppress(FileNotFoundError, ProcessLookupError):
                found += search(f"{part} of process {pid}", Path(f"/proc/{pid}/{part}").read_bytes())
    return found

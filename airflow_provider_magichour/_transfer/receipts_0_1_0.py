"""
Reads the records of version 0.1.0: a receipt beside each project's files, and an index.

    {destination}/{project_id}/.magichour-receipt.json
    {destination}/.magichour-index/{connection}/2026-11-21/10/20261121T102730Z_{project_id}.json

Nothing new is written in this form, except the new place of a moved file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

from airflow_provider_magichour._transfer import receipts
from airflow_provider_magichour._transfer.receipts import MAX_BYTES, Receipt
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour._validation.projects import check_id

FILE_NAME = ".magichour-receipt.json"
INDEX = ".magichour-index"

_HINT = re.compile(r"([0-9]{8}T[0-9]{6}Z)_(.+)\.json")


@dataclass(frozen=True, order=True)
class Hint:
    """
    An entry of the old index.

    :param downloaded_at: when the project was downloaded, according to the entry's name.
    :param path: the entry, relative to the destination.
    """

    downloaded_at: datetime
    project_id: str
    path: str


def path_of(project_id: str) -> str:
    """Return where the receipt of a project is, relative to the destination."""
    return f"{project_id}/{FILE_NAME}"


def read(storage: Storage, project_id: str) -> Receipt | None:
    """
    Return a project's receipt, or None if there is none.

    :raises ReceiptError: if it cannot be trusted.
    """
    data = storage.read(path_of(check_id(project_id)), MAX_BYTES)
    return None if data is None else receipts.parse_stored(data, project_id)


def remove(storage: Storage, receipt: Receipt) -> None:
    """Remove a receipt that an entry of the catalogue replaces."""
    remove_hint(storage, hint_path(receipt))
    storage.remove(path_of(receipt.project_id))


def add_moved(storage: Storage, receipt: Receipt, moved_to: Mapping[str, str]) -> None:
    """
    Write the new places of moved files into a receipt.

    :param moved_to: the new place of each file, by its name.
    """
    files = [
        {**file, "moved_to": moved_to[name]} if (name := receipts.file_name(file)) in moved_to else file
        for file in receipt.files
    ]
    _write(storage, receipt, files=files)


def add_account(storage: Storage, receipt: Receipt, account_id: str) -> None:
    """Write the account of the project into a receipt. Version 0.1.0 did not know it."""
    _write(storage, receipt, account_id=account_id)


def _write(storage: Storage, receipt: Receipt, **changes: Any) -> None:
    content = json.dumps({**receipt.data, **changes}, indent=2, ensure_ascii=False)
    storage.write(path_of(receipt.project_id), f"{content}\n".encode("utf-8", "backslashreplace"))


def hint_path(receipt: Receipt) -> str:
    """Return the path of the index entry for a receipt."""
    at = receipt.downloaded_at
    return f"{index_of(receipt.conn_id)}/{at:%Y-%m-%d}/{at:%H}/{at:%Y%m%dT%H%M%SZ}_{receipt.project_id}.json"


def remove_hint(storage: Storage, path: str) -> None:
    """Remove an entry of the index, and its folders if they are then empty."""
    storage.remove(path)
    for _ in range(2):
        path = path.rpartition("/")[0]
        storage.prune(path)


def connections(storage: Storage) -> list[str]:
    """Return the connections that have an index."""
    return [unquote(name) for name in storage.names(INDEX)]


def days(storage: Storage, conn_id: str) -> list[str]:
    """Return the days of a connection's index in order, as ``2026-11-21``."""
    names = storage.names(index_of(conn_id))
    return [name for name in names if re.fullmatch(r"\d{4}-\d{2}-\d{2}", name, re.ASCII)]


def hints(storage: Storage, conn_id: str, day: str) -> Iterator[Hint]:
    """Yield the entries of a day of a connection's index, the oldest first."""
    folder = f"{index_of(conn_id)}/{day}"
    for hour in storage.names(folder):
        for name in storage.scan(f"{folder}/{hour}"):
            if hint := _hint(f"{folder}/{hour}/{name}"):
                yield hint


def index_of(conn_id: str) -> str:
    """Return the folder of a connection's index."""
    return f"{INDEX}/{quote(conn_id, safe='').replace('.', '%2E')[:120]}"


def _hint(path: str) -> Hint | None:
    match = _HINT.fullmatch(path.rpartition("/")[2])
    if not match:
        return None
    try:
        at = datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return Hint(at, check_id(match[2]), path)
    except ValueError:
        return None

"""
The record of what was downloaded, so that a clean-up can delete safely. The format: ``docs/receipts.md``.

A receipt lies beside its project's files, and is the one truth about them. Below the destination an index
holds a hint at each receipt, under its connection and the hour of the download, so that a clean-up
lists only what can be due. A hint is written before its receipt and removed after the receipt's last change:
whatever crashes in between, a receipt is never without a hint, and a hint too many does no harm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour._validation import check_id
from airflow_provider_magichour.exceptions import MagicHourArgumentError
from airflow_provider_magichour.tools import Kind, check_kind

VERSION = 1
#: Names that no output can have: an output's name never begins with a dot, nor does a project's id.
FILE_NAME = ".magichour-receipt.json"
INDEX = ".magichour-index"
#: The largest receipt that is read, in bytes; real ones are a few KiB.
MAX_BYTES = 4 * 1024 * 1024

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_HINT = re.compile(r"([0-9]{8}T[0-9]{6}Z)_(.+)\.json")


class ReceiptError(ValueError):
    """A receipt cannot be trusted; the message says why."""


class NewerReceiptError(ReceiptError):
    """A newer version of this package wrote the receipt, so it is left as it is."""


@dataclass(frozen=True)
class Receipt:
    """
    A project that was downloaded.

    :param project_id: the project.
    :param kind: its kind.
    :param conn_id: the Airflow connection it was downloaded over.
    :param downloaded_at: when, to the second, in UTC.
    :param files: ``path`` relative to the destination, ``bytes``, ``sha256``, ``content_type``.
    :param data: the whole receipt.
    """

    project_id: str
    kind: Kind
    conn_id: str
    downloaded_at: datetime
    files: Sequence[Mapping[str, Any]]
    data: Mapping[str, Any]

    @property
    def deleted_at(self) -> str | None:
        """Return when a clean-up deleted the project at Magic Hour, None if none did."""
        value = self.data.get("deleted_at")
        return value if isinstance(value, str) else None

    @property
    def hint(self) -> str:
        """Return where the index hints at this receipt."""
        return hint_path(self.conn_id, self.downloaded_at, self.project_id)


def path_of(project_id: str) -> str:
    """Return where the receipt of a project is, relative to the destination."""
    return f"{project_id}/{FILE_NAME}"


def make(
    project: Mapping[str, Any],
    *,
    project_id: str,
    kind: Kind,
    conn_id: str,
    files: Sequence[Mapping[str, Any]],
    downloaded_at: datetime,
    downloaded_by: Mapping[str, Any] | None,
) -> Receipt:
    """
    Return the receipt of a project whose files are all in place.

    :param project: the project as the API gives it.
    :param files: the files, their paths relative to the destination.
    :param downloaded_by: the Airflow task that did it: ``dag_id``, ``run_id`` and so on.
    """
    data = {
        "version": VERSION,
        "project_id": project_id,
        "kind": kind,
        "type": project.get("type"),
        "name": project.get("name"),
        "created_at": project.get("created_at"),
        "credits_charged": project.get("credits_charged"),
        "magichour_conn_id": conn_id,
        "downloaded_at": downloaded_at.astimezone(UTC).strftime(_TIME),
        "downloaded_by": dict(downloaded_by) if downloaded_by else None,
        "files": [dict(file) for file in files],
        "deleted_at": None,
    }
    return parse(json.dumps(data).encode(), project_id)


def parse(data: bytes, project_id: str) -> Receipt:
    """
    Read a receipt, which anybody may have written.

    :param project_id: the project whose folder it lies in.
    :raises ReceiptError: if it is not a receipt of this project, or names anything outside its folder.
    :raises NewerReceiptError: if a newer version of this package wrote it.
    """
    if len(data) > MAX_BYTES:
        raise ReceiptError(f"the receipt is larger than {MAX_BYTES} bytes")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise ReceiptError("the receipt is not JSON") from None
    if not isinstance(content, dict):
        raise ReceiptError("the receipt is not a JSON object")
    _check_version(content.get("version"))
    if content.get("project_id") != project_id:
        raise ReceiptError("the receipt names another project than its folder")
    conn_id, files = content.get("magichour_conn_id"), content.get("files")
    if not isinstance(conn_id, str) or not conn_id:
        raise ReceiptError("the receipt names no connection")
    if not isinstance(files, list) or not files:
        raise ReceiptError("the receipt names no file")
    try:
        kind = check_kind(content.get("kind"))
        downloaded_at = datetime.strptime(content.get("downloaded_at", ""), _TIME).replace(tzinfo=UTC)
    except (MagicHourArgumentError, ValueError, TypeError):
        raise ReceiptError("the receipt has no kind, or no time of download") from None
    for file in files:
        _check_file(file, project_id)
    return Receipt(project_id, kind, conn_id, downloaded_at, files, content)


def _check_version(version: object) -> None:
    if type(version) is not int or version < VERSION:
        raise ReceiptError(
            f"the receipt has version {str(version)[:20]!r}, and this provider reads {VERSION}"
        )
    if version > VERSION:
        raise NewerReceiptError(
            f"the receipt has version {str(version)[:20]}, and this airflow-provider-magichour reads "
            f"{VERSION}: update it"
        )


def _check_file(file: object, project_id: str) -> None:
    if not isinstance(file, Mapping):
        raise ReceiptError("the receipt lists something that is not a file")
    path, size = file.get("path"), file.get("bytes")
    folder, _, name = path.rpartition("/") if isinstance(path, str) else ("", "", "")
    if folder != project_id or not name or name.startswith(".") or "\\" in name or not name.isprintable():
        raise ReceiptError("the receipt names a file outside its project's folder")
    if type(size) is not int or size <= 0 or not re.fullmatch(r"[0-9a-f]{64}", str(file.get("sha256"))):
        raise ReceiptError("the receipt lists a file without its size or sha256")


# --------------------------------------------------------------------------------------------- storage


def read(storage: Storage, project_id: str) -> Receipt | None:
    """
    Return a project's receipt, None where there is none.

    :raises ReceiptError: if there is one that cannot be trusted.
    """
    data = storage.read(path_of(check_id(project_id)), MAX_BYTES)
    return None if data is None else parse(data, project_id)


def write(storage: Storage, receipt: Receipt) -> None:
    """
    Store a receipt and its hint in place of the one that is there.

    :raises NewerReceiptError: if that is of a newer version, whose facts must not be lost.
    """
    try:
        old = read(storage, receipt.project_id)
    except NewerReceiptError:
        raise
    except ReceiptError:
        old = None
    storage.write(receipt.hint, _hint_content(receipt))
    _store(storage, receipt)
    if old and old.hint != receipt.hint:
        _remove_hint(storage, old.hint)


def ensure_hint(storage: Storage, receipt: Receipt) -> None:
    """Make sure that the index knows of a receipt, which a crash or a copied folder may have left without."""
    if storage.read(receipt.hint, MAX_BYTES) is None:
        storage.write(receipt.hint, _hint_content(receipt))


def _store(storage: Storage, receipt: Receipt) -> None:
    content = json.dumps(receipt.data, indent=2, ensure_ascii=False) + "\n"
    storage.write(path_of(receipt.project_id), content.encode("utf-8", "backslashreplace"))


def missing_file(storage: Storage, receipt: Receipt, *, check_sha256: bool = False) -> str | None:
    """
    Return why a receipt's files are not all safe, None if they are.

    A file that was moved away on purpose, and says so by ``moved_to``, is not looked for.

    :param check_sha256: whether to read the files, too.
    """
    sizes = storage.sizes(receipt.project_id)
    for file in receipt.files:
        name = _name(file)
        if isinstance(file.get("moved_to"), str) and file["moved_to"].strip():
            continue
        if name not in sizes:
            return f"{storage.shown(file['path'])} is not there"
        if sizes[name] != file["bytes"]:
            return f"{storage.shown(file['path'])} has {sizes[name]} bytes instead of {file['bytes']}"
        if check_sha256 and _sha256(storage, file["path"]) != file["sha256"]:
            return f"{storage.shown(file['path'])} has another sha256 than when it was downloaded"
    return None


def _sha256(storage: Storage, path: str) -> str:
    import hashlib

    digest = hashlib.sha256()
    for chunk in storage.chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def acknowledge_moved(storage: Storage, project_id: str, moved_to: Mapping[str, str]) -> None:
    """
    Record that files of a project were moved away on purpose, so that a clean-up does not look for them.

    :param moved_to: where each file went, by its name.
    :raises ReceiptError: if there is no receipt, or it does not know one of the files.
    """
    receipt = read(storage, project_id)
    if receipt is None:
        raise ReceiptError(f"there is no receipt {storage.shown(path_of(project_id))}")
    unknown = set(moved_to) - {_name(file) for file in receipt.files}
    if unknown or not all(isinstance(where, str) and where.strip() for where in moved_to.values()):
        raise ReceiptError(
            f"the receipt does not list {sorted(unknown)}, or it is not said where a file went"
        )
    files = [
        {**file, "moved_to": moved_to[_name(file)]} if _name(file) in moved_to else file
        for file in receipt.files
    ]
    _store(storage, Receipt(**{**vars(receipt), "data": {**receipt.data, "files": files}}))


def _name(file: Mapping[str, Any]) -> str:
    return str(file["path"]).rpartition("/")[2]


def mark_deleted(storage: Storage, project_id: str, hint: str, now: datetime) -> None:
    """
    Record that a project was deleted at Magic Hour, and take its hint out of the index.

    :raises NewerReceiptError: if its receipt is of a newer version, to which its hint is left.
    """
    try:
        receipt = read(storage, project_id)  # as it is now: it may have been downloaded again since
    except NewerReceiptError:
        raise
    except ReceiptError:
        receipt = None
    if receipt is not None and receipt.hint != hint:
        _remove_hint(storage, receipt.hint)
    if receipt is not None and receipt.deleted_at is None:
        data = {**receipt.data, "deleted_at": now.astimezone(UTC).strftime(_TIME)}
        _store(storage, Receipt(**{**vars(receipt), "data": data}))
    _remove_hint(storage, hint)


# ----------------------------------------------------------------------------------------------- index


def hint_path(conn_id: str, downloaded_at: datetime, project_id: str) -> str:
    """Return the path of a hint: the connection, the day, the hour, then the time and the project."""
    at = downloaded_at.astimezone(UTC)
    return f"{_index_of(conn_id)}/{at:%Y-%m-%d}/{at:%H}/{at:%Y%m%dT%H%M%SZ}_{project_id}.json"


def _index_of(conn_id: str) -> str:
    return f"{INDEX}/{quote(conn_id, safe='').replace('.', '%2E')[:120]}"


def _hint_content(receipt: Receipt) -> bytes:
    return json.dumps({"version": VERSION, "receipt": path_of(receipt.project_id)}).encode()


@dataclass(frozen=True, order=True)
class Hint:
    """
    An entry of the index.

    :param downloaded_at: when the project was downloaded, by the entry's name.
    :param project_id: the project.
    :param path: the entry, relative to the destination.
    """

    downloaded_at: datetime
    project_id: str
    path: str


def due(
    storage: Storage, conn_id: str, before: datetime, unreadable: Callable[[str, Exception], None]
) -> Iterator[Hint]:
    """
    Give the hints at what a connection downloaded until a moment, oldest first.

    :param unreadable: told of each day of the index that cannot be listed, and why; the others go on.
    """
    index, last = _index_of(conn_id), before.astimezone(UTC)
    for day in storage.names(index):
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", day, re.ASCII) or day > f"{last:%Y-%m-%d}":
            continue
        folder = f"{index}/{day}"
        try:
            if day < f"{last:%Y-%m-%d}":
                paths = storage.walk(folder)
            else:
                hours = [hour for hour in storage.names(folder) if hour <= f"{last:%H}"]
                paths = [f"{hour}/{path}" for hour in hours for path in storage.walk(f"{folder}/{hour}")]
        except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
            unreadable(folder, error)
            continue
        found = (_hint(f"{folder}/{path}") for path in paths)
        yield from sorted(hint for hint in found if hint and hint.downloaded_at <= last)


def _hint(path: str) -> Hint | None:
    match = _HINT.fullmatch(path.rpartition("/")[2])
    if not match:
        return None
    try:
        at = datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return Hint(at, check_id(match[2]), path)
    except ValueError:
        return None


def settle(storage: Storage, hint: Hint, receipt: Receipt) -> None:
    """Replace a hint that its receipt has outgrown by the receipt's own."""
    if hint.path != receipt.hint:
        storage.write(receipt.hint, _hint_content(receipt))
        _remove_hint(storage, hint.path)


def _remove_hint(storage: Storage, path: str) -> None:
    storage.remove(path)
    hour = path.rpartition("/")[0]
    storage.prune(hour)
    storage.prune(hour.rpartition("/")[0])

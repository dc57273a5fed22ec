"""
Receipts: which files of a project are stored, where, and for which account. See ``docs/receipts.md``.

A receipt is the entry of a project in the catalogue (:mod:`catalogue`), or the file that version 0.1.0 wrote
beside the project's files (:mod:`receipts_0_1_0`). Anybody may have written it, so it is checked when it is
read. It cannot name a file outside the folder of its own project.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour.exceptions import MagicHourArgumentError
from airflow_provider_magichour.tools import Kind, check_kind

VERSION = 2
#: The largest receipt that is read, in bytes. Real ones have a few KiB.
MAX_BYTES = 4 * 1024 * 1024

#: The fields about the Airflow task that wrote an entry.
TASK_FIELDS = ("dag_id", "task_id", "run_id", "map_index", "try_number")
#: The fields of the API for some kinds of media.
MEDIA_FIELDS = ("image_count", "width", "height", "start_seconds", "end_seconds", "fps")
#: The fields that only a caller may know. ``credits_estimated`` is from the response to the create call.
FACTS = ("tool", "finished_at", "body_fingerprint", "credits_estimated", "prompt")

_TIME = "%Y-%m-%dT%H:%M:%SZ"


class ReceiptError(ValueError):
    """A receipt cannot be trusted. The message says why."""


class NewerReceiptError(ReceiptError):
    """A newer version of this package wrote the receipt, so it must not be changed."""


@dataclass(frozen=True)
class Receipt:
    """
    A project whose files are stored.

    :param conn_id: the Airflow connection it was downloaded over.
    :param account_id: the account that it belongs to, None if it is not known.
    :param created_at: when it was created at Magic Hour, or when it was downloaded if that is not known.
    :param downloaded_at: when it was downloaded, to the second, in UTC.
    :param folder: its destination relative to the root of the catalogue; None if it is not below the root.
    :param destination: its destination, without a connection; None in receipts of 0.1.0.
    :param files: ``path`` relative to the destination, ``bytes``, ``sha256``, ``content_type``.
    """

    project_id: str
    kind: Kind
    conn_id: str
    account_id: str | None
    created_at: datetime
    downloaded_at: datetime
    folder: str | None
    destination: str | None
    files: Sequence[Mapping[str, Any]]
    data: Mapping[str, Any]

    def is_at(self, root: Storage, destination: Storage) -> bool:
        """Return whether the receipt is about files in this destination."""
        if self.folder is not None:
            return self.folder == root.relative(destination.url)
        return self.destination in {None, destination.url}


@dataclass(frozen=True)
class Writer:
    """
    The task and connection that write to the catalogue.

    :param read_account_id: returns the account that the key belongs to, None if it cannot be read: a
        clean-up then requests the project first.
    :param task: the Airflow task, by the names of :data:`TASK_FIELDS`; None if there is none.
    :param facts: by project, its further fields, see :data:`FACTS`.
    """

    conn_id: str
    read_account_id: Callable[[], str | None]
    task: Mapping[str, Any] | None = None
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def account_id(self) -> str | None:
        """Return the account of the key, or None if it cannot be read."""
        return self.read_account_id()


def run_of(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields about a task from its context."""
    return {name: getattr(context["ti"], name, None) for name in TASK_FIELDS}


def describe(project: Mapping[str, Any], project_id: str, kind: Kind, writer: Writer) -> dict[str, Any]:
    """
    Return the fields of any entry, however the project ended. See ``docs/catalogue.md``.

    :param project: the project as the API gives it.
    """
    facts, task, error = writer.facts.get(project_id, {}), writer.task or {}, project.get("error")
    error = error if isinstance(error, Mapping) else {}
    status = project.get("status")
    prompt = {"prompt": facts["prompt"]} if facts.get("prompt") else {}
    return {
        "version": VERSION,
        "event": None,
        "project_id": project_id,
        "kind": kind,
        "tool": facts.get("tool"),
        "type": project.get("type"),
        "name": project.get("name"),
        "status": status,
        "error_code": error.get("code") if status == "error" else None,
        "error_message": error.get("message") if status == "error" else None,
        "created_at": project.get("created_at"),
        "finished_at": facts.get("finished_at"),
        "seconds": _seconds_between(project.get("created_at"), facts.get("finished_at")),
        "credits_charged": project.get("credits_charged"),
        "credits_refunded": _refunded(project.get("credits_charged"), facts.get("credits_estimated")),
        "account_id": writer.account_id,
        "magichour_conn_id": writer.conn_id,
        **{name: task.get(name) for name in TASK_FIELDS},
        "body_fingerprint": facts.get("body_fingerprint"),
        **{name: project.get(name) for name in MEDIA_FIELDS},
        **prompt,
        "downloaded_at": None,
        "destination": None,
        "folder": None,
        "files": [],
    }


def make(
    project: Mapping[str, Any],
    project_id: str,
    kind: Kind,
    writer: Writer,
    *,
    root: Storage,
    destination: Storage,
    files: Sequence[Mapping[str, Any]],
    downloaded_at: datetime,
) -> Receipt:
    """
    Return the receipt of a project whose files are all stored.

    :param project: the project as the API gives it.
    :param files: the files, their paths relative to the destination.
    """
    data = {
        **describe(project, project_id, kind, writer),
        "status": "complete",
        "downloaded_at": timestamp(downloaded_at),
        "destination": destination.url,
        "folder": root.relative(destination.url),
        "files": [dict(file) for file in files],
    }
    return parse_stored(dump(data), project_id)


def upgrade(receipt: Receipt, account_id: str | None, root: Storage, destination: Storage) -> Receipt:
    """Return the entry for a receipt that version 0.1.0 wrote."""
    data = {
        **receipt.data,
        "version": VERSION,
        "event": None,
        "status": "complete",
        "account_id": account_id,
        **{name: (receipt.data.get("downloaded_by") or {}).get(name) for name in TASK_FIELDS},
        "destination": destination.url,
        "folder": root.relative(destination.url),
    }
    data.pop("deleted_at", None)
    data.pop("downloaded_by", None)
    return parse_stored(dump(data), receipt.project_id)


def dump(data: Mapping[str, Any]) -> bytes:
    """Return the stored form of a record: one line of JSON, for query engines."""
    return f"{json.dumps(data, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace")


def timestamp(at: datetime) -> str:
    """Return the form of a time in records: in UTC, to the second."""
    return at.astimezone(UTC).strftime(_TIME)


# ---------------------------------------------------------------------------------------------- reading


def parse_stored(data: bytes, project_id: str) -> Receipt:
    """
    Read a receipt.

    :param project_id: the project according to the name or folder of the receipt.
    :raises ReceiptError: if it belongs to another project, or names a file outside the project's folder.
    :raises NewerReceiptError: if a newer version of this package wrote it.
    """
    receipt = parse(data, project_id)
    if receipt is None:
        raise ReceiptError("the receipt is of a project without stored files")
    return receipt


def parse(data: bytes, project_id: str) -> Receipt | None:
    """Read an entry of the catalogue, or return None if it is not about stored files."""
    content = load(data)
    if content["version"] >= VERSION and (content.get("event") or not _is_stored(content)):
        return None
    if content.get("project_id") != project_id:
        raise ReceiptError("the receipt names another project than its path")
    conn_id, account_id = content.get("magichour_conn_id"), content.get("account_id")
    files, folder = content.get("files"), content.get("folder")
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
    _check_folder(folder)
    return Receipt(
        project_id=project_id,
        kind=kind,
        conn_id=conn_id,
        account_id=account_id if isinstance(account_id, str) and account_id else None,
        created_at=created_at(content, downloaded_at),
        downloaded_at=downloaded_at,
        folder=folder,
        destination=destination if isinstance(destination := content.get("destination"), str) else None,
        files=files,
        data=content,
    )


def load(data: bytes) -> dict[str, Any]:
    """
    Read a record of any kind, and check its version.

    :raises ReceiptError: if it is not a JSON object, or has a version that this package cannot read.
    """
    if len(data) > MAX_BYTES:
        raise ReceiptError(f"the receipt is larger than {MAX_BYTES} bytes")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise ReceiptError("the receipt is not JSON") from None
    if not isinstance(content, dict):
        raise ReceiptError("the receipt is not a JSON object")
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise ReceiptError(
            f"the receipt has version {str(version)[:20]!r}, and this provider reads {VERSION}"
        )
    if version > VERSION:
        raise NewerReceiptError(
            f"the receipt has version {str(version)[:20]}, and this airflow-provider-magichour reads "
            f"{VERSION}: update it"
        )
    return content


def created_at(project: Mapping[str, Any], downloaded_at: datetime) -> datetime:
    """Return when a project was created; when it was downloaded if the API's time is missing or wrong."""
    at = time_of_creation(project)
    return downloaded_at if at is None or at > downloaded_at + timedelta(days=1) else at


def time_of_creation(project: Mapping[str, Any]) -> datetime | None:
    """Return when a project was created according to Magic Hour, or None if that is not known."""
    try:
        at = datetime.fromisoformat(project["created_at"])
        return at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _is_stored(content: Mapping[str, Any]) -> bool:
    """Return whether an entry is about a downloaded project, not about one without stored files."""
    is_only_ended = content.get("files") == [] and content.get("downloaded_at") is None
    return content.get("status") == "complete" and not is_only_ended


def _refunded(charged: Any, estimated: Any) -> float | None:
    """Return the price in the response to the create call minus the final price."""
    if any(type(one) not in {int, float} for one in (charged, estimated)):
        return None
    return max(0.0, float(estimated - charged))


def _seconds_between(start: object, end: object) -> float | None:
    try:
        first, last = (datetime.fromisoformat(str(one)) for one in (start, end))
        return max(0.0, round((last - first).total_seconds(), 1))
    except (ValueError, TypeError):
        return None


def _check_file(file: object, project_id: str) -> None:
    if not isinstance(file, Mapping):
        raise ReceiptError("the receipt lists something that is not a file")
    path, size = file.get("path"), file.get("bytes")
    folder, _, name = path.rpartition("/") if isinstance(path, str) else ("", "", "")
    if folder != project_id or not name or name.startswith(".") or "\\" in name or not name.isprintable():
        raise ReceiptError("the receipt names a file outside its project's folder")
    if type(size) is not int or size <= 0 or not re.fullmatch(r"[0-9a-f]{64}", str(file.get("sha256"))):
        raise ReceiptError("the receipt lists a file without its size or sha256")


def _check_folder(folder: object) -> None:
    if folder is None or folder == "":
        return
    if not isinstance(folder, str) or {"", ".", ".."}.intersection(folder.split("/")) or "\0" in folder:
        raise ReceiptError("the receipt names a folder outside its root")


# ------------------------------------------------------------------------------------------------ files


def is_whole(receipt: Receipt, sizes: Mapping[str, int]) -> bool:
    """Return whether all files of a receipt are stored, according to the sizes in the project's folder."""
    return all(sizes.get(file_name(file)) == file["bytes"] for file in receipt.files)


def missing_file(
    storage: Storage, receipt: Receipt, moved: Mapping[str, str], *, check_sha256: bool = False
) -> str | None:
    """
    Return why the files of a receipt are not all stored, or None if they are.

    :param storage: the receipt's destination.
    :param moved: the new places of moved files, by name. These files are not checked.
    :param check_sha256: whether to read the files, too.
    """
    made = receipt.data.get("image_count")
    if type(made) is int and made > len(receipt.files):
        return f"Magic Hour made {made} images, and {len(receipt.files)} are stored: download it again"
    sizes = storage.sizes(receipt.project_id)
    for file in receipt.files:
        name, shown = file_name(file), storage.shown(file["path"])
        if moved.get(name) or _text(file.get("moved_to")):
            continue
        if name not in sizes:
            return f"{shown} is not there"
        if sizes[name] != file["bytes"]:
            return f"{shown} has {sizes[name]} bytes instead of {file['bytes']}"
        if check_sha256 and storage.sha256(file["path"]) != file["sha256"]:
            return f"{shown} has another sha256 than when it was downloaded"
    return None


def check_moved(receipt: Receipt, moved_to: Mapping[str, str]) -> None:
    """
    Check the new places of moved files from a user.

    :param moved_to: the new place of each file, by its name.
    :raises ReceiptError: if a file is not in the receipt, or has no new place.
    """
    unknown = set(moved_to) - {file_name(file) for file in receipt.files}
    if unknown or not all(map(_text, moved_to.values())):
        raise ReceiptError(f"the receipt does not list {sorted(unknown)}, or a file has no new place")


def saved_files(destination: Storage, files: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a receipt's files as tasks return them, with the paths that the user knows."""
    return [
        {
            "path": destination.shown(str(file["path"])),
            "bytes": file["bytes"],
            "sha256": file["sha256"],
            "content_type": file.get("content_type"),
        }
        for file in files
    ]


def file_name(file: Mapping[str, Any]) -> str:
    """Return the name of a receipt's file."""
    return str(file["path"]).rpartition("/")[2]


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())

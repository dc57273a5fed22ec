"""Receipts: what is written, what is believed, and what version 0.1.0 left."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._transfer import catalogue, receipts
from airflow_provider_magichour._transfer.catalogue import Catalogue, Entry
from airflow_provider_magichour._transfer.receipts import NewerReceiptError, ReceiptError, Writer
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.files import entries, write_old_receipt

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
FILE = {"path": "p1/output.png", "bytes": 3, "sha256": "a" * 64, "content_type": "image/png"}
FACTS = {
    "tool": "ai-image-generator",
    "finished_at": "2026-11-21T11:00:04.5Z",
    "body_fingerprint": "0123456789abcdef",
    "credits_estimated": 7,
}
PROJECT = {
    "type": "AI_IMAGE",
    "name": "a cat",
    "created_at": "2026-11-21T11:00:00Z",
    "credits_charged": 5,
    "image_count": 1,
}


@pytest.fixture
def root(tmp_path):
    return Storage(str(tmp_path), str(tmp_path))


def make(
    root=None, project_id="p1", created_at="2026-11-21T11:00:00Z", destination=None, files=None, facts=None
):
    root = root or Storage("/media", "/media")
    task = {"dag_id": "d", "run_id": "r"}
    return receipts.make(
        {**PROJECT, "created_at": created_at},
        project_id,
        "image",
        Writer("magichour_default", lambda: "account-1", task, {project_id: facts or {}}),
        root=root,
        destination=destination or root,
        files=files or [{**FILE, "path": f"{project_id}/output.png"}],
        downloaded_at=NOON,
    )


def test_entry_holds_all_that_is_known(root, tmp_path):
    receipt = make(root, destination=root.below("2026-11-21"), facts=FACTS)
    catalogue.write(root, receipt)
    path = tmp_path / "magichour-catalog" / "dt=2026-11-21" / "125959-p1.json"
    assert json.loads(path.read_text()) == {
        "version": 2,
        "event": None,
        "project_id": "p1",
        "kind": "image",
        "tool": "ai-image-generator",
        "type": "AI_IMAGE",
        "name": "a cat",
        "status": "complete",
        "error_code": None,
        "error_message": None,
        "created_at": "2026-11-21T11:00:00Z",
        "finished_at": "2026-11-21T11:00:04.5Z",
        "seconds": 4.5,
        "credits_charged": 5,
        "credits_refunded": 2,
        "account_id": "account-1",
        "magichour_conn_id": "magichour_default",
        "dag_id": "d",
        "task_id": None,
        "run_id": "r",
        "map_index": None,
        "try_number": None,
        "body_fingerprint": "0123456789abcdef",
        "image_count": 1,
        "width": None,
        "height": None,
        "start_seconds": None,
        "end_seconds": None,
        "fps": None,
        "downloaded_at": "2026-11-21T12:00:00Z",
        "destination": f"{tmp_path}/2026-11-21",
        "folder": "2026-11-21",
        "files": [FILE],
    }
    assert catalogue.read(root, catalogue.path_of(receipt), "p1") == receipt
    assert catalogue.find(root, PROJECT, "p1", NOON) == receipt
    assert catalogue.search(root, "p1") == receipt
    assert catalogue.find(root, PROJECT, "p2", NOON) is None
    assert catalogue.search(root, "p2") is None


@pytest.mark.parametrize(
    ("created_at", "path"),
    [
        ("2026-11-21T11:00:00Z", "dt=2026-11-21/125959-p1"),
        ("2026-11-21T11:00:00.987Z", "dt=2026-11-21/125959-p1"),
        ("2026-11-21T00:30:00+02:00", "dt=2026-11-20/012959-p1"),
        ("2026-11-21T11:00:00", "dt=2026-11-21/125959-p1"),
        ("0005-01-01T00:00:00Z", "dt=0005-01-01/235959-p1"),
        ("2026-11-21T12:00:07Z", "dt=2026-11-21/115952-p1"),  # Magic Hour's clock is a little ahead
        ("9999-12-31T23:59:59Z", "dt=2026-11-21/115959-p1"),
        ("0001-01-01T00:00:00+23:59", "dt=2026-11-21/115959-p1"),
        ("yesterday", "dt=2026-11-21/115959-p1"),
        (None, "dt=2026-11-21/115959-p1"),
        (1763726400, "dt=2026-11-21/115959-p1"),
    ],
)
def test_entry_lies_at_the_time_of_creation(created_at, path):
    assert catalogue.path_of(make(created_at=created_at)) == f"magichour-catalog/{path}.json"


def test_project_without_a_time_is_found_by_a_search(root):
    receipt = make(root, created_at=None)
    catalogue.write(root, receipt)
    assert catalogue.find(root, {"created_at": None}, "p1", NOON + timedelta(days=3)) == receipt


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 3}, "version"),
        ({"version": True}, "version"),
        ({"version": 0}, "version"),
        ({"version": None}, "version"),
        ({"project_id": "p2"}, "another project"),
        ({"kind": "document"}, "no kind"),
        ({"kind": None}, "no kind"),
        ({"downloaded_at": "yesterday"}, "no time"),
        ({"downloaded_at": None}, "no time"),
        ({"magichour_conn_id": ""}, "no connection"),
        ({"magichour_conn_id": 3}, "no connection"),
        ({"files": []}, "no file"),
        ({"files": "all"}, "no file"),
        ({"files": ["p1/output.png"]}, "not a file"),
        *(({"folder": folder}, "outside its root") for folder in ("..", "a/../..", "/etc", "a//b", ".", 3)),
        *(
            ({"files": [{**FILE, "path": path}]}, "outside its project")
            for path in (
                "../p1/output.png",
                "p1/../p2/output.png",
                "p2/output.png",
                "/etc/passwd",
                "p1/",
                "p1/..",
                "p1/.hidden",
                "output.png",
                "p1/a/b.png",
                "p1/a\\b.png",
                "p1/a\nb",
                None,
            )
        ),
        *(({"files": [{**FILE, "bytes": size}]}, "size") for size in (0, -1, True, "3", None, 3.0)),
        *(({"files": [{**FILE, "sha256": value}]}, "sha256") for value in (None, "", "A" * 64, "a" * 63)),
    ],
)
def test_untrusted_receipt_says_why(change, reason):
    data = json.dumps({**make().data, **change}).encode()
    with pytest.raises(ReceiptError, match=reason):
        receipts.parse(data, "p1")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_receipt_must_be_a_json_object(data):
    with pytest.raises(ReceiptError, match="JSON"):
        receipts.parse(data, "p1")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_no_json_breaks_the_reader(value):
    with pytest.raises(ReceiptError):
        receipts.parse(json.dumps(value).encode(), "p1")


@given(
    st.sampled_from([*make().data, "unknown"]),
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.lists(st.text())
    | st.lists(st.just(FILE), max_size=2),
)
def test_no_field_breaks_the_reader(name, value):
    data = {**make().data, name: value}
    try:
        receipt = receipts.parse(json.dumps(data).encode(), "p1")
    except ReceiptError:
        return
    if receipt is not None:
        assert receipt.project_id == "p1"
        assert all(file["path"] == "p1/output.png" for file in receipt.files)
        assert catalogue.path_of(receipt).startswith("magichour-catalog/dt=")


@pytest.mark.parametrize(
    "change",
    [
        {"status": "error", "files": []},
        {"files": [], "downloaded_at": None},
        {"event": "reused", "project_id": "x"},
    ],
)
def test_record_without_stored_files_is_no_receipt(change):
    assert receipts.parse(json.dumps({**make().data, **change}).encode(), "p1") is None


# ------------------------------------------------------------------------------------------- catalogue


def put(root, day, *names):
    for name in names:
        root.write(f"magichour-catalog/dt={day}/{name}", b"{}")


def test_newest_entries_of_a_day_come_first_with_their_events(root):
    put(
        root,
        "2026-11-21",
        "125959-b.json",
        "125959-a-1.json",
        "125959-a-1-deleted.json",
        "125959-a-1-moved.json",
        "000000-c.json",
        "235959-d-timed_out-0123abcd.json",
        "235959-d-timed_out.json",
        "235959-d.json",
        "235959-gone-deleted.json",
        "notes.txt",
        "999999-p.json",
        ".125959-a.json.0123456789abcdef0123456789abcdef.tmp",
        "125959-..json",
        "125959-a b.json",
    )
    put(root, "2026-11-20", "115959-e.json")
    put(root, "nonsense", "115959-e.json")
    assert catalogue.days(root) == ["2026-11-20", "2026-11-21"]
    assert list(catalogue.entries(root, "2026-11-21")) == [
        Entry("2026-11-21", "235959", "c"),
        Entry("2026-11-21", "110000", "a-1", frozenset({"deleted", "moved"})),
        Entry("2026-11-21", "110000", "b"),
        Entry("2026-11-21", "000000", "d", frozenset({"timed_out"})),
    ]
    until = [entry.project_id for entry in catalogue.entries(root, "2026-11-21", "110000")]
    assert until == ["a-1", "b", "d"]
    assert list(catalogue.entries(root, "2026-11-19")) == []


def test_large_folder_is_listed_in_parts(root, monkeypatch):
    monkeypatch.setattr("airflow_provider_magichour._transfer.storage._WINDOW", 3)
    names = [f"{number:06}-p.json" for number in range(10)]
    put(root, "2026-11-21", *reversed(names))
    assert list(root.scan("magichour-catalog/dt=2026-11-21")) == names
    assert list(root.scan("nowhere")) == []


def test_events_are_objects_of_their_own(root, tmp_path):
    receipt = make(root)
    catalogue.write(root, receipt)
    before = entries(tmp_path)
    Catalogue(root, root).add_deletion(receipt, "account-1", "deleted")
    after = entries(tmp_path)
    event = after.pop("125959-p1-deleted")
    assert after == before
    assert datetime.fromisoformat(event.pop("at")) <= datetime.now(UTC)
    assert event == {
        "version": 2,
        "event": "deleted",
        "project_id": "p1",
        "kind": "image",
        "tool": None,
        "account_id": "account-1",
        "magichour_conn_id": "magichour_default",
        "dag_id": "d",
        "task_id": None,
        "run_id": "r",
        "map_index": None,
        "try_number": None,
        "outcome": "deleted",
    }


# --------------------------------------------------------------------------------------- moved files


@pytest.mark.parametrize("old", [False, True])
def test_moved_files_are_acknowledged(root, tmp_path, old):
    if old:
        write_old_receipt(tmp_path, "p1", files=[FILE])
    else:
        catalogue.write(root, make(root))
    hook = MagicHourHook()
    hook.acknowledge_moved(str(tmp_path), "p1", {"output.png": "s3://archive/1.png"})
    if old:
        data = json.loads((tmp_path / "p1" / ".magichour-receipt.json").read_text())
        assert data["files"] == [{**FILE, "moved_to": "s3://archive/1.png"}]
    else:
        path = catalogue.path_of(make(root))
        assert catalogue.moved_files(root, path, make(root)) == {"output.png": "s3://archive/1.png"}
    for project_id, moved in (("p1", {"other.png": "x"}), ("p1", {"output.png": " "}), ("p2", {"a": "b"})):
        with pytest.raises(errors.MagicHourArgumentError, match="moved_to"):
            hook.acknowledge_moved(str(tmp_path), project_id, moved)


def test_moved_files_are_acknowledged_one_by_one(root, tmp_path):
    files = [{**FILE, "path": f"p1/{name}.png"} for name in "ab"]
    receipt = make(root, files=files, destination=Storage("/elsewhere", "/elsewhere"))
    catalogue.write(root, receipt)
    for name in "ab":
        MagicHourHook().acknowledge_moved("/elsewhere", "p1", {f"{name}.png": "there"}, index=str(tmp_path))
    moved = catalogue.moved_files(root, catalogue.path_of(receipt), receipt)
    assert moved == {"a.png": "there", "b.png": "there"}


def test_files_moved_before_another_download_are_looked_for(root, tmp_path):
    """The entry is replaced by the later download, and the record of the move stays."""
    first, path = make(root), catalogue.path_of(make(root))
    catalogue.write(root, first)
    MagicHourHook().acknowledge_moved(str(tmp_path), "p1", {"output.png": "tape 7"})
    assert catalogue.moved_files(root, path, first) == {"output.png": "tape 7"}
    elsewhere = make(root, destination=root.below("elsewhere"))
    later = dataclasses.replace(first, downloaded_at=datetime.now(UTC) + timedelta(seconds=2))
    for receipt in (elsewhere, later):
        assert catalogue.moved_files(root, path, receipt) == {}


def test_record_of_moved_files_must_be_trustworthy(root):
    path = catalogue.path_of(make(root))
    root.write(catalogue.event_path(path, "moved"), b'{"version": 2, "moved_to": ["output.png"]}')
    with pytest.raises(ReceiptError, match="moved files"):
        catalogue.moved_files(root, path, make(root))


def test_receipt_of_a_newer_version_is_left_alone(root, tmp_path):
    newer = json.dumps({**make().data, "version": 3, "bills": [1]})
    root.write(catalogue.path_of(make(root)), newer.encode())
    with pytest.raises(NewerReceiptError, match="update"):
        catalogue.find(root, PROJECT, "p1", NOON)
    with pytest.raises(errors.MagicHourArgumentError, match="update"):
        MagicHourHook().acknowledge_moved(str(tmp_path), "p1", {"output.png": "elsewhere"})
    assert root.read(catalogue.path_of(make(root)), 10_000) == newer.encode()


def test_write_survives_a_folder_pruned_at_that_moment(root, tmp_path):
    original = root.make_folder
    pruned = []

    def make_folder(folder):
        original(folder)
        if not pruned:
            pruned.append(folder)
            root.prune(folder)

    root.make_folder = make_folder
    root.write("a/b.json", b"{}")
    assert (tmp_path / "a" / "b.json").read_bytes() == b"{}"
    assert pruned == ["a"]

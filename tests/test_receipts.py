from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._transfer import receipts
from airflow_provider_magichour._transfer.receipts import NewerReceiptError, ReceiptError
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour.hooks import MagicHourHook

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
FILE = {"path": "p1/output.png", "bytes": 3, "sha256": "a" * 64, "content_type": "image/png"}


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path), "shown")


def make(project_id="p1", at=NOON, conn_id="magichour_default"):
    return receipts.make(
        {"type": "AI_IMAGE", "name": "a cat", "created_at": "2026-11-21T11:00:00Z", "credits_charged": 5},
        project_id=project_id,
        kind="image",
        conn_id=conn_id,
        files=[{**FILE, "path": f"{project_id}/output.png"}],
        downloaded_at=at,
        downloaded_by={"dag_id": "d", "run_id": "r"},
    )


def due(storage, before=NOON, conn_id="magichour_default"):
    return [hint.project_id for hint in receipts.due(storage, conn_id, before, unforeseen)]


def unforeseen(folder, error):
    raise AssertionError(folder) from error


def test_receipt_survives_a_round_trip(storage, tmp_path):
    receipts.write(storage, make())
    assert receipts.read(storage, "p1") == make()
    content = json.loads((tmp_path / "p1" / ".magichour-receipt.json").read_text())
    assert content == {
        "version": 1,
        "project_id": "p1",
        "kind": "image",
        "type": "AI_IMAGE",
        "name": "a cat",
        "created_at": "2026-11-21T11:00:00Z",
        "credits_charged": 5,
        "magichour_conn_id": "magichour_default",
        "downloaded_at": "2026-11-21T12:00:00Z",
        "downloaded_by": {"dag_id": "d", "run_id": "r"},
        "files": [FILE],
        "deleted_at": None,
    }
    assert receipts.read(storage, "p2") is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version"),
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
        *(
            ({"files": [{**FILE, "path": path}]}, "outside")
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
def test_untrusted_receipt_is_refused_with_the_reason(change, reason):
    data = json.dumps({**make().data, **change}).encode()
    with pytest.raises(ReceiptError, match=reason):
        receipts.parse(data, "p1")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_receipt_that_is_no_json_object_is_refused(data):
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
    st.sampled_from(["version", "project_id", "kind", "magichour_conn_id", "downloaded_at", "files"]),
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
    assert receipt.project_id == "p1"
    assert all(file["path"] == "p1/output.png" for file in receipt.files)


def test_index_lists_due_receipts_oldest_first(storage):
    ages = {"a": 0, "b": 1, "c": 59, "d": 61, "e": 60 * 24, "f": 60 * 24 * 40, "future": -1}
    for project_id, minutes in ages.items():
        receipts.write(storage, make(project_id, NOON - timedelta(minutes=minutes)))
    assert due(storage) == ["f", "e", "d", "c", "b", "a"]
    assert due(storage, NOON - timedelta(minutes=30)) == ["f", "e", "d", "c"]
    assert due(storage, NOON - timedelta(days=2)) == ["f"]
    assert due(storage, NOON - timedelta(days=41)) == []


@pytest.mark.parametrize("conn_id", ["a", "a.b", "a/b", "..", "a b", "é", "%2E", "x" * 300, "a:b\\c"])
def test_each_connection_has_an_index_of_its_own(storage, tmp_path, conn_id):
    receipts.write(storage, make("p1", conn_id=conn_id))
    receipts.write(storage, make("p2", conn_id="another"))
    assert due(storage, conn_id=conn_id) == ["p1"]
    assert {path.name for path in tmp_path.iterdir()} == {".magichour-index", "p1", "p2"}


def test_foreign_files_in_the_index_are_ignored(storage, tmp_path):
    receipts.write(storage, make())
    index = tmp_path / ".magichour-index" / "magichour_default"
    for name in (
        "2026-11-21/12/notes.txt",
        "2026-11-21/12/99999999T999999Z_p.json",
        "lost+found/x",
        "readme",
    ):
        (index / name).parent.mkdir(parents=True, exist_ok=True)
        (index / name).write_text("mine")
    (index / "2026-11-21" / "12" / "20261121T110000Z_..json").write_text("{}")
    assert due(storage) == ["p1"]


def test_new_receipt_moves_its_index_entry(storage, tmp_path):
    receipts.write(storage, make(at=NOON - timedelta(days=40)))
    receipts.write(storage, make())
    assert due(storage, NOON - timedelta(days=30)) == []
    assert due(storage) == ["p1"]
    assert len(list((tmp_path / ".magichour-index").rglob("*.json"))) == 1
    assert [path.name for path in (tmp_path / ".magichour-index" / "magichour_default").iterdir()] == [
        "2026-11-21"
    ]


def test_receipt_always_has_an_index_entry(storage, monkeypatch):
    """Whichever write a crash keeps from happening."""
    receipts.write(storage, make(at=NOON - timedelta(days=40)))
    written = []

    def crash(path, data):
        written.append(path)
        raise OSError("the power went")

    original = storage.write
    for survivors in range(2):
        calls = []

        def write(path, data, survivors=survivors, calls=calls):
            calls.append(path)
            return original(path, data) if len(calls) <= survivors else crash(path, data)

        monkeypatch.setattr(storage, "write", write)
        with pytest.raises(OSError, match="power"):
            receipts.write(storage, make())
        receipt = receipts.read(storage, "p1")
        assert storage.read(receipt.hint, 1000) is not None


def test_receipt_of_a_newer_version_is_not_changed(storage, tmp_path):
    receipts.write(storage, make())
    file = tmp_path / "p1" / ".magichour-receipt.json"
    newer = json.dumps({**make().data, "version": 2, "bills": [1]})
    file.write_text(newer)
    with pytest.raises(NewerReceiptError, match="update"):
        receipts.write(storage, make())
    with pytest.raises(NewerReceiptError, match="update"):
        receipts.mark_deleted(storage, "p1", make().hint, NOON)
    with pytest.raises(errors.MagicHourArgumentError, match="update"):
        MagicHourHook().acknowledge_moved(str(tmp_path), "p1", {"output.png": "elsewhere"})
    assert file.read_text() == newer
    assert due(storage) == ["p1"]


def test_moved_files_can_be_acknowledged(storage, tmp_path):
    receipts.write(storage, make())
    assert "is not there" in receipts.missing_file(storage, receipts.read(storage, "p1"))
    MagicHourHook().acknowledge_moved(str(tmp_path), "p1", {"output.png": "s3://archive/1.png"})
    receipt = receipts.read(storage, "p1")
    assert receipts.missing_file(storage, receipt) is None
    assert receipt.files[0]["moved_to"] == "s3://archive/1.png"
    for project_id, moved in (("p1", {"other.png": "x"}), ("p1", {"output.png": " "}), ("p2", {"a": "b"})):
        with pytest.raises(errors.MagicHourArgumentError, match="moved_to"):
            MagicHourHook().acknowledge_moved(str(tmp_path), project_id, moved)


def test_write_survives_a_concurrently_removed_folder(storage, tmp_path):
    original = storage.make_folder
    pruned = []

    def make_folder(folder):
        original(folder)
        if not pruned:
            pruned.append(folder)
            storage.prune(folder)

    storage.make_folder = make_folder
    storage.write("a/b.json", b"{}")
    assert (tmp_path / "a" / "b.json").read_bytes() == b"{}"
    assert pruned == ["a"]

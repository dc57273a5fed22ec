"""What is recorded at one place, the newest first, in few lists."""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_magichour._transfer import catalogue
from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour._transfer.newest import Record, newest
from airflow_provider_magichour._transfer.receipts import ReceiptError
from airflow_provider_magichour._transfer.storage import Storage
from tests.support.files import write_old_receipt
from tests.support.stores import S3Store

FOLDER = "media/magichour-catalog"


class ListOnly:
    """S3's lists over names in memory: what a page has, in S3's order, and how often it was asked."""

    def __init__(self, names: list[str], page: int) -> None:
        self.keys = sorted(f"{FOLDER}/{name}" for name in names)
        self.page = page
        self.calls = 0

    def split_path(self, path: str) -> tuple[str, str, None]:
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def call_s3(self, method: str, **asked: Any) -> dict[str, Any]:
        self.calls += 1
        prefix, after = asked["Prefix"], asked.get("ContinuationToken") or asked.get("StartAfter", "")
        rows: dict[str, bool] = {}
        for key in self.keys[bisect_left(self.keys, prefix) :]:
            if key.startswith(prefix):
                rest, delimiter = key.removeprefix(prefix), asked.get("Delimiter")
                head, found, _ = rest.partition(delimiter) if delimiter else (rest, "", "")
                row = prefix + head + found
                if row > after:
                    rows.setdefault(row, bool(found))
        page = sorted(rows)[: self.page]
        is_truncated = len(rows) > self.page
        return {
            "Contents": [{"Key": row, "Size": 1} for row in page if not rows[row]],
            "CommonPrefixes": [{"Prefix": row} for row in page if rows[row]],
            "IsTruncated": is_truncated,
            **({"NextContinuationToken": page[-1]} if is_truncated else {}),
        }


def listed(names: list[str], page: int = 1000) -> tuple[Storage, ListOnly]:
    fs = ListOnly(names, page)
    return Storage("bucket/media", "s3://bucket/media", fs, "s3"), fs


def at(seconds: int) -> str:
    return f"{seconds // 3600:02}{seconds // 60 % 60:02}{seconds % 60:02}"


def left(time: str) -> str:
    """Return the time that is left of the day, as it is in names; for that again the time."""
    return f"{235959 - int(time):06}"


def on(moments: Iterable[int]) -> list[str]:
    """Return entries at moments, in seconds since the start of 2026."""
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    times = [begun + timedelta(seconds=moment) for moment in moments]
    return [catalogue.entry_path(each, f"p{n}").partition("/")[2] for n, each in enumerate(times)]


DAY, N, RANDOM = 86_400, 10_000, random.Random(1)
SPREADS = {
    "a day": on(n * 8 for n in range(N)),
    "a day at random": on(RANDOM.randrange(DAY) for _ in range(N)),
    "seconds": on(range(N)),
    "seconds from ten on": on(range(36_000, 36_000 + N)),
    "office hours": on(RANDOM.randrange(8 * 3600, 18 * 3600) for _ in range(N)),
    "minutes": on(n * 60 for n in range(N)),
    "3 days": on(RANDOM.randrange(3 * DAY) for _ in range(N)),
    "10 days": on(RANDOM.randrange(10 * DAY) for _ in range(N)),
    "100 days": on(RANDOM.randrange(100 * DAY) for _ in range(N)),
    "400 days": on(RANDOM.randrange(400 * DAY) for _ in range(N)),
    "400 days, ever more": on(int(400 * DAY * RANDOM.random() ** 0.1) for _ in range(N)),
    "400 days, ever less": on(int(400 * DAY * RANDOM.random() ** 3) for _ in range(N)),
    "900 days": on(RANDOM.randrange(900 * DAY) for _ in range(N)),
    "one a day": on(n * DAY + 36_000 for n in range(900)),
    "one a week": on(n * 7 * DAY + 36_000 for n in range(140)),
    "every tenth day a batch": on(n // 500 * 10 * DAY + 36_000 + n % 500 // 5 for n in range(N)),
    "every tenth day a large batch": on(n // 2000 * 10 * DAY + 36_000 + n % 2000 // 5 for n in range(N)),
    "a batch, a long gap, and one": on([*(36_000 + n // 10 for n in range(N)), 700 * DAY]),
    "a day, a gap, and one a day": on([*(n * 8 for n in range(N)), *((60 + n) * DAY for n in range(20))]),
    "a minute": on(36_000 + n % 60 for n in range(N)),
    "a thousand seconds": on(36_000 + n // 10 for n in range(N)),
    "one second a day": on(n // 900 * DAY for n in range(N)),
    "a hundred thousand in a day": on(RANDOM.randrange(DAY) for _ in range(10 * N)),
    "hourly batches of 1200": on(n // 1200 * 3600 + n % 1200 // 4 for n in range(N)),
    "one second": on(36_000 for _ in range(N)),
    "one, and days of 200 before": on([*(n * 432 for n in range(N)), 60 * DAY]),
    "one, and days of 2000 before": on([*(n * 43 for n in range(N)), 60 * DAY]),
}


def lists_of_first_page(names: list[str]) -> int:
    root, fs = listed(names)
    found = [one.parts[:2] for one in islice(newest(root), 48)]
    days_and_times = [(name[3:13], left(name[14:20])) for name in names]
    assert found == sorted(days_and_times, reverse=True)[:48]
    return fs.calls


@pytest.mark.parametrize("spread", SPREADS)
def test_first_page_of_these_spreads_takes_five_lists(spread: str) -> None:
    assert lists_of_first_page(SPREADS[spread]) <= 5


def test_sums_of_days_with_a_few_entries_take_few_lists() -> None:
    root, fs = listed(SPREADS["900 days"])
    assert len(list(islice(newest(root), 2000))) == 2000
    assert fs.calls <= 8


@pytest.mark.parametrize("weekday", range(7))
def test_first_page_of_large_days_among_small_ones_takes_nine_lists(weekday: int) -> None:
    moments = [36_000 + day * DAY + n for day in range(100) for n in range(3000 if day % 7 == weekday else 1)]
    assert lists_of_first_page(on(moments)) <= 9


PROJECTS = st.tuples(
    st.integers(20, 22),
    st.one_of(st.integers(0, 86_399), st.integers(40_000, 40_003)),
    st.sampled_from(["a", "a-b", "b", "z.9"]),
    st.sets(st.sampled_from(["deleted", "moved"])),
)


@given(st.lists(PROJECTS, max_size=60), st.integers(1, 8), st.integers(0, 60))
def test_every_entry_comes_once_and_in_order(projects: list[Any], page: int, cut: int) -> None:
    known = {(f"2026-11-{day}", at(time), one): events for day, time, one, events in projects}
    names = ["dt=2026-11-21/notes.txt", "dt=2026-11-21/~", "dt=x/101010-p.json", "readme", "!", "dt=2026"]
    names += [f"dt=2026-11-21{end}/{n}" for end in (" (copy)", "-old", "_old") for n in range(9)]
    for (day, time, one), events in known.items():
        entry = f"dt={day}/{left(time)}-{one}"
        names += [f"{entry}.json", *(f"{entry}-{event}.json" for event in events)]
    root, _ = listed(names, page)
    found = [(one.parts, one.events) for one in newest(root)]
    by_id = sorted(known, key=lambda key: f"{key[2]}.json")
    in_order = sorted(by_id, key=lambda key: key[:2], reverse=True)
    assert found == [(key, known[key]) for key in in_order]
    if cut < len(found):
        place = "-".join(["1", *found[cut][0]])
        assert [(one.parts, one.events) for one in newest(root, place)] == found[cut + 1 :]
    of_a_day = [one.parts[0] for one in newest(root, first_day="2026-11-21", last_day="2026-11-21")]
    assert set(of_a_day) <= {"2026-11-21"}
    assert len(of_a_day) == len([key for key in known if key[0] == "2026-11-21"])


class S3Express:
    """The file system of an S3 Express bucket: its lists have no order, and S3's own call is refused."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def split_path(self, path: str) -> tuple[str, str, None]:
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def call_s3(self, method: str, **asked: Any) -> dict[str, Any]:
        raise AssertionError("this list has no order, and cannot start after a name")

    def invalidate_cache(self) -> None:
        pass

    def ls(self, path: str, detail: bool) -> list[dict[str, Any]]:
        folder = path.partition("magichour-catalog")[2].strip("/")
        days = {name.partition("/")[0] for name in self.names}
        names = [name.rpartition("/")[2] for name in self.names if name.startswith(f"{folder}/")]
        return [{"name": f"{path}/{name}", "type": "file", "size": 1} for name in (names if folder else days)]


def test_s3_express_is_listed_in_order() -> None:
    names = SPREADS["one a week"][:20] + SPREADS["minutes"][:1200]
    fs = S3Express(RANDOM.sample(names, len(names)))
    root = Storage("media--use1-az4--x-s3/media", "s3://media--use1-az4--x-s3/media", fs, "s3")
    found = [one.place for one in newest(root)]
    assert len(found) == len(names)
    assert found == [one.place for one in newest(listed(names)[0])]


def write_entries(
    store: S3Store, names: list[str], content: Callable[[str], dict[str, Any]] = lambda _: {}
) -> None:
    """Put entries into the local S3 without a request for each."""
    from moto.s3.models import s3_backends  # the server is a thread of this process

    (backend,) = (one["aws"] for one in s3_backends.values() if store.bucket in one["aws"].buckets)
    for name in names:
        backend.put_object(
            store.bucket, f"in/here/magichour-catalog/{name}", json.dumps(content(name)).encode()
        )


@pytest.mark.xdist_group("stores")
def test_s3_lists_as_expected(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"dt=2026-11-21/{left(at(36_000 + n // 10))}-p{n % 10}.json" for n in range(2500)]
    write_entries(s3_store, names)
    root = open_destination(s3_store.url)
    calls: list[str] = []
    call = root.fs.call_s3
    monkeypatch.setattr(
        root.fs, "call_s3", lambda method, **rest: (calls.append(method), call(method, **rest))[1]
    )
    found = [one.path.removeprefix("magichour-catalog/") for one in newest(root)]
    assert found == sorted(names)
    del calls[:]
    list(islice(newest(root), 60))
    assert len(calls) <= 5


def read(record: Record) -> dict[str, Any]:
    found = record.read()
    assert found
    return dict(found[0])


def test_receipts_of_0_1_0_come_after_the_catalogue(tmp_path: Path) -> None:
    file = {"path": "old/a.png", "bytes": 1, "sha256": "0" * 64, "content_type": "image/png"}
    write_old_receipt(tmp_path, "old", files=[file])
    entry = {"version": 2, "event": None, "status": "failed", "project_id": "new"}
    folder = tmp_path / "magichour-catalog" / "dt=2026-11-01"
    folder.mkdir(parents=True)
    (folder / f"{left('101010')}-new.json").write_text(json.dumps(entry))
    root = open_destination(str(tmp_path))
    records = list(newest(root))
    assert [record.place for record in records] == [
        "1-2026-11-01-101010-new",
        "0-2026-11-21-102730-old",
    ]
    assert [read(record)["project_id"] for record in records] == ["new", "old"]
    assert list(newest(root, records[0].place)) == records[1:]
    assert list(newest(root, records[1].place)) == []
    assert list(newest(root, last_day="2026-11-01")) == records[:1]


def test_record_of_another_project_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "magichour-catalog" / "dt=2026-11-01"
    folder.mkdir(parents=True)
    file = folder / f"{left('101010')}-p1.json"
    file.write_text(json.dumps({"version": 2, "status": "failed", "project_id": "p2"}))
    (record,) = newest(open_destination(str(tmp_path)))
    with pytest.raises(ReceiptError, match="another project"):
        record.read()
    file.unlink()
    assert record.read() is None

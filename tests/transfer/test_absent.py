"""What another task stores, and Magic Hour deletes, while a task downloads many projects."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from airflow_provider_magichour._transfer import absent, download
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.simulator import Simulator
from tests.support.files import complete_project
from tests.support.stores import S3Store

pytest.importorskip("s3fs")


class InterruptedHook(MagicHourHook):
    """A hook that does something else before it requests its first project."""

    meanwhile: Callable[[], None] | None = None

    def get_project(self, *args: Any, **options: Any) -> dict[str, Any]:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        return super().get_project(*args, **options)


@pytest.fixture
def one_by_one(hook: MagicHourHook, monkeypatch: pytest.MonkeyPatch) -> InterruptedHook:
    """A hook that downloads one project after the other."""
    monkeypatch.setattr(download, "AROUND", 0)
    return InterruptedHook()


def test_project_that_another_task_stores_meanwhile_is_left_as_it_is(
    sim: Simulator,
    hook: MagicHourHook,
    one_by_one: InterruptedHook,
    s3_store: S3Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(absent, "FRESH", 0.1)
    *ids, late = (complete_project(sim, hook) for _ in range(4))
    facts: Mapping[str, Any] = {late: {"tool": "ai-image-generator", "body_fingerprint": "f" * 32}}
    stored = []

    def meanwhile() -> None:
        stored.append(hook.download_all("image", [late], s3_store.url, facts=facts)[0])
        stored.append([s3_store.head(f"{s3_store.FOLDER}/{late}/output.png")["LastModified"]])
        time.sleep(1)

    one_by_one.meanwhile = meanwhile
    found = one_by_one.download_all("image", [*ids, late], s3_store.url, parallel=1)
    assert found[-1] == stored[0]
    (key,) = filter(lambda key: key.endswith(f"-{late}.json"), s3_store.keys())
    entry = json.loads(s3_store.read(key))
    assert {name: entry[name] for name in facts[late]} == facts[late]
    assert [s3_store.head(f"{s3_store.FOLDER}/{late}/output.png")["LastModified"]] == stored[1]


def test_project_that_is_stored_and_then_deleted_meanwhile_is_returned(
    sim: Simulator, hook: MagicHourHook, one_by_one: InterruptedHook, s3_store: S3Store
) -> None:
    *ids, late = (complete_project(sim, hook) for _ in range(4))
    stored = []

    def meanwhile() -> None:
        stored.extend(hook.download_all("image", [late], s3_store.url))
        hook.delete_project("image", late)

    one_by_one.meanwhile = meanwhile
    assert one_by_one.download_all("image", [*ids, late], s3_store.url, parallel=1)[-1] == stored[0]


def test_a_list_counts_for_a_while_and_is_then_made_again_for_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[str]] = []

    def find(names: Any) -> set[str]:
        asked.append(names)
        return set(names)

    projects = absent.Absent({"made"}, ["made", "a", "b", "c", "d"], find)
    assert projects.includes("made")
    assert asked == []
    monkeypatch.setattr(absent, "FRESH", 60.0)
    assert projects.includes("a")
    assert projects.includes("b")
    assert asked == [["a", "b", "c", "d"]]
    monkeypatch.setattr(absent, "FRESH", 0.0)
    projects = absent.Absent({"made"}, ["a", "b", "c"], find)
    assert [projects.includes("a"), projects.includes("b")] == [True, True]
    assert asked[1:] == [["a", "b", "c"], ["b", "c"]]
    assert not projects.includes("c")  # one is left: its own list tells more
    assert len(asked) == 3

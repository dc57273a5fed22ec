"""What DAG authors use: the asset of an event, and the projects of the events that triggered a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from airflow_provider_magichour.exceptions import MagicHourArgumentError
from airflow_provider_magichour.webhooks import magichour_asset, triggering_projects
from airflow_provider_magichour.webhooks.events import parse_event
from tests.webhooks.support import event_body


def test_the_asset_of_an_event() -> None:
    asset = magichour_asset("video")
    assert asset.uri == "magichour://video/completed"
    assert getattr(asset, "name", asset.uri) == asset.uri
    assert magichour_asset("audio", "errored").uri == "magichour://audio/errored"


@pytest.mark.parametrize(("kind", "what"), [("movie", "completed"), ("video", "canceled"), (None, "started")])
def test_there_are_no_other_assets(kind: Any, what: str) -> None:
    with pytest.raises(MagicHourArgumentError):
        magichour_asset(kind, what)


@dataclass
class FakeAssetEvent:
    extra: Any


def test_projects_of_the_triggering_events() -> None:
    def event(kind: str, what: str, project_id: str, conn_id: str = "magichour_default") -> FakeAssetEvent:
        parsed = parse_event(event_body(kind, what, project_id))
        extra = {
            "type": parsed.type,
            "kind": kind,
            "id": project_id,
            "magichour_conn_id": conn_id,
            "project": parsed.project,
        }
        return FakeAssetEvent(extra)

    events = {
        "videos": [event("video", "completed", "a"), event("video", "completed", "a")],
        "images": [event("image", "completed", "b", "other_account")],
        "failed": [event("image", "errored", "c")],
    }
    downloads = json.loads(event_body())["payload"]["downloads"]
    assert triggering_projects(events, "completed") == [
        {
            "id": "a",
            "kind": "video",
            "what": "completed",
            "magichour_conn_id": "magichour_default",
            "downloads": downloads,
        },
        {
            "id": "b",
            "kind": "image",
            "what": "completed",
            "magichour_conn_id": "other_account",
            "downloads": downloads,
        },
    ]
    assert [project["id"] for project in triggering_projects(events)] == ["a", "b", "c"]
    assert triggering_projects({}) == []


@pytest.mark.parametrize(
    "extra", [None, {}, {"id": "a"}, {"kind": "video"}, {"kind": "video", "id": "../a"}, "x"]
)
def test_asset_events_that_are_not_ours_are_passed_over(extra: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert triggering_projects({"asset": [FakeAssetEvent(extra)]}) == []
    assert "passed over" in caplog.text


def test_an_asset_event_made_by_hand_needs_kind_and_id_only() -> None:
    made_by_hand = FakeAssetEvent({"kind": "audio", "id": "cm7", "project": "?"})
    assert triggering_projects({"asset": [made_by_hand]}, "completed") == [
        {
            "id": "cm7",
            "kind": "audio",
            "what": "completed",
            "magichour_conn_id": "magichour_default",
            "downloads": [],
        }
    ]

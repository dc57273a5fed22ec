"""What a webhook's body says, and which bodies say nothing."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from airflow_provider_magichour._client.sanitize import MAX_DEPTH
from airflow_provider_magichour.tools import KINDS
from airflow_provider_magichour.webhooks.events import (
    ASSET_URIS,
    MalformedEventError,
    asset_uri,
    parse_event,
)
from tests.webhooks.support import event_body, json_values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["started", "completed", "errored"])
def test_an_event_names_its_project(kind: str, what: str) -> None:
    event = parse_event(event_body(kind, what, "cm9", newer_field={"a": [1]}))
    assert (event.type, event.kind, event.what, event.project_id) == (f"{kind}.{what}", kind, what, "cm9")
    assert event.key == f"{kind}.{what}:cm9"
    assert event.project["newer_field"] == {"a": [1]}
    assert asset_uri(kind, what) in ASSET_URIS


@pytest.mark.parametrize("type_", ["video.canceled", "model.completed", "", "video", "video.completed.x"])
def test_unknown_types_are_told_apart(type_: str) -> None:
    assert parse_event(json.dumps({"type": type_, "payload": None}).encode()).kind is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b'{"payload": {}}',
        b'{"type": 1}',
        b'{"type": "video.completed"}',
        b'{"type": "video.completed", "payload": []}',
        b'{"type": "video.completed", "payload": {}}',
        event_body(project_id="../x"),
        event_body(project_id=""),
        event_body(project_id="a" * 129),
        event_body(project_id=7),  # type: ignore[arg-type]
        event_body(fps=float("nan")),
        event_body().replace(b'"credits_charged": 5', b'"credits_charged": 1e999'),
        event_body().replace(b'"credits_charged": 5', b'"credits_charged": ' + b"1" * 5000),
        event_body().replace(b'"credits_charged": 5', b'"credits_charged": ' + b"[" * 100 + b"]" * 100),
        event_body().replace(b'"credits_charged": 5', b'"credits_charged": ' + b"[" * 90000 + b"]" * 90000),
        event_body().decode().encode("utf-16"),
        b"\xef\xbb\xbf" + event_body(),
        b"\xff" + event_body(),
    ],
)
def test_what_is_no_event_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEventError):
        parse_event(body)


def test_text_that_no_database_takes_is_replaced() -> None:
    event = parse_event(event_body(name="a\x00b\ud800c😀", **{"k\x00": 1}))
    assert event.project["name"] == "a\ufffdb\ufffdc😀"
    assert "k\ufffd" in event.project


@hypothesis.given(
    json_values | st.fixed_dictionaries({"type": st.just("video.completed"), "payload": json_values})
)
def test_any_json_is_an_event_or_malformed(value: Any) -> None:
    with contextlib.suppress(MalformedEventError):
        event = parse_event(json.dumps(value).encode())
        json.dumps(event.project, allow_nan=False).encode("ascii")


@hypothesis.given(st.binary())
def test_any_bytes_are_an_event_or_malformed(body: bytes) -> None:
    with contextlib.suppress(MalformedEventError):
        parse_event(body)


def test_nesting_as_deep_as_allowed_passes() -> None:
    deep = b"[" * (MAX_DEPTH - 2) + b"]" * (MAX_DEPTH - 2)
    parse_event(event_body().replace(b'"credits_charged": 5', b'"credits_charged": ' + deep))

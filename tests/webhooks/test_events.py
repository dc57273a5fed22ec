"""What a webhook's headers prove, what its body says, and what goes into the asset event."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import hypothesis
import pytest
from airflow.providers.common.compat.sdk import Asset
from hypothesis import strategies as st

from airflow_provider_magichour._client.sanitize import MAX_DEPTH
from airflow_provider_magichour.tools import KINDS
from airflow_provider_magichour.webhooks.events import (
    RefusedError,
    asset_uri,
    check_signature,
    parse_event,
    read_signature,
    split_secrets,
)
from tests.support.airflow import IS_AIRFLOW_3
from tests.webhooks.support import event_body, json_values, signed

NOW = 1730742038


class TestSignature:
    def test_is_the_one_that_magic_hour_documents(self) -> None:
        body = b'{"a":1}'
        signature = read_signature(signed(body, "s3cret", str(NOW)).items(), NOW)
        check_signature([b"other", b"s3cret"], signature, body)

    @pytest.mark.parametrize("secrets", [[], [b""], [b"other"], [b"s3cret "]])
    def test_of_another_secret_is_refused(self, secrets: list[bytes]) -> None:
        signature = read_signature(signed(b"x", "s3cret", str(NOW)).items(), NOW)
        with pytest.raises(RefusedError):
            check_signature(secrets, signature, b"x")

    def test_cannot_be_made_for_a_connection_without_a_secret(self) -> None:
        signature = read_signature(signed(b"x", "no secret", str(NOW)).items(), NOW)
        with pytest.raises(RefusedError):
            check_signature([], signature, b"x")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("timestamp", ""),
            ("timestamp", "-1"),
            ("timestamp", "1e9"),
            ("timestamp", " 1730742038"),
            ("timestamp", "1730742038\n"),
            ("timestamp", "1" * 13),
            ("timestamp", "١٧٣٠٧٤٢٠٣٨"),
            ("signature", ""),
            ("signature", "ab"),
            ("signature", "g" * 64),
            ("signature", "a" * 65),
            ("signature", "a" * 62 + " a"),
            ("signature", "sha256=" + "a" * 64),
        ],
    )
    def test_headers_are_read_strictly(self, name: str, value: str) -> None:
        headers = {**signed(b"x", timestamp=str(NOW)), f"magic-hour-event-{name}": value}
        with pytest.raises(RefusedError):
            read_signature(headers.items(), NOW)

    @pytest.mark.parametrize("name", ["magic-hour-event-timestamp", "magic-hour-event-signature"])
    def test_each_header_must_be_there_once(self, name: str) -> None:
        headers = signed(b"x", timestamp=str(NOW))
        with pytest.raises(RefusedError, match="2 times"):
            read_signature([*headers.items(), (name.title(), headers[name])], NOW)
        with pytest.raises(RefusedError, match="0 times"):
            read_signature([each for each in headers.items() if each[0] != name], NOW)

    @pytest.mark.parametrize(
        ("age", "fresh"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)]
    )
    def test_must_be_of_the_last_five_minutes(self, age: int, fresh: bool) -> None:
        with contextlib.nullcontext() if fresh else pytest.raises(RefusedError):
            read_signature(signed(b"x", timestamp=str(NOW)).items(), NOW + age)

    @hypothesis.given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=80))), st.binary(max_size=99))
    def test_cannot_be_guessed(self, headers: list[tuple[str, str]], body: bytes) -> None:
        with pytest.raises(RefusedError):
            check_signature([b"s3cret"], read_signature(headers, NOW), body)


@pytest.mark.parametrize(
    ("value", "secrets"),
    [
        ("one", (b"one",)),
        (" old , new,", (b"old", b"new")),
        (["old", " new "], (b"old", b"new")),
        ("", ()),
        (" , ", ()),
        (None, ()),
        (7, ()),
        ([None, {}], ()),
    ],
)
def test_several_secrets_count_at_once(value: Any, secrets: tuple[bytes, ...]) -> None:
    assert split_secrets(value) == secrets


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["started", "completed", "errored"])
def test_event_names_its_project(kind: str, what: str) -> None:
    extra = parse_event(event_body(kind, what, "cm9", newer_field={"a": [1]}), "x")
    assert (extra["type"], extra["kind"], extra["id"]) == (f"{kind}.{what}", kind, "cm9")
    assert extra["project"]["newer_field"] == {"a": [1]}


@pytest.mark.parametrize("type_", ["model.completed", "", "video", "video.completed.x", "VIDEO.completed"])
def test_types_that_are_not_about_projects_are_no_error(type_: str) -> None:
    assert parse_event(json.dumps({"type": type_, "payload": None}).encode(), "x") == {"type": type_}


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
def test_what_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(RefusedError) as refusal:
        parse_event(body, "x")
    assert refusal.value.status == 400


def test_text_that_no_database_takes_is_replaced() -> None:
    project = parse_event(event_body(name="a\x00b\ud800c😀", **{"k\x00": 1}), "x")["project"]
    assert project["name"] == "a\ufffdb\ufffdc😀"
    assert "k\ufffd" in project


@hypothesis.given(
    json_values | st.fixed_dictionaries({"type": st.just("video.completed"), "payload": json_values})
)
def test_any_json_is_an_event_or_refused(value: Any) -> None:
    with contextlib.suppress(RefusedError):
        extra = parse_event(json.dumps(value).encode(), "x")
        json.dumps(extra, allow_nan=False).encode("ascii")


@hypothesis.given(st.binary())
def test_any_bytes_are_an_event_or_refused(body: bytes) -> None:
    with contextlib.suppress(RefusedError):
        parse_event(body, "x")


def test_nesting_as_deep_as_allowed_passes() -> None:
    deep = b"[" * (MAX_DEPTH - 2) + b"]" * (MAX_DEPTH - 2)
    parse_event(event_body().replace(b'"credits_charged": 5', b'"credits_charged": ' + deep), "x")


class TestExtra:
    BODY = event_body(
        download={"url": "https://files/x.mp4?sig=1"},
        error={
            "message": 'see "https://files/y.png?Signature=a%20b\\"&Expires=1" and http://h#sig=2 for more'
        },
        thumbnails=[{"url": "https://cdn.example/t.jpg?X-Amz-Signature=abc"}],
    )

    def test_holds_no_presigned_url(self) -> None:
        extra = parse_event(self.BODY, "team_a")
        text = json.dumps(extra)
        assert "sig" not in text.lower()
        assert "download" not in text
        assert extra["project"]["thumbnails"] == [{"url": "https://cdn.example/t.jpg"}]
        assert "for more" in extra["project"]["error"]["message"]

    def test_names_type_kind_project_and_connection(self) -> None:
        extra = parse_event(self.BODY, "team_a")
        assert {name: value for name, value in extra.items() if name != "project"} == {
            "type": "video.completed",
            "kind": "video",
            "id": "cm1",
            "magichour_conn_id": "team_a",
        }
        assert extra["project"]["status"] == "complete"

    def test_holds_presigned_urls_where_that_is_asked_for(self) -> None:
        extra = parse_event(self.BODY, "team_a", presigned_urls=True)
        assert extra["project"] == json.loads(self.BODY)["payload"]

    @hypothesis.given(json_values)
    def test_can_be_made_of_any_project(self, value: Any) -> None:
        with contextlib.suppress(RefusedError):
            parse_event(event_body(name=value), "x")


class TestAssetUri:
    def test_of_any_connection_is_the_one_of_version_0_1(self) -> None:
        assert asset_uri("video", "completed") == "magichour://video/completed"

    @pytest.mark.parametrize("conn_id", ["team_a", "a/b", "a#b?c", "ä", "a b", "%2F"])
    def test_names_the_connection_and_is_kept_by_airflow(self, conn_id: str) -> None:
        uri = asset_uri("video", "completed", conn_id)
        assert uri != asset_uri("video", "completed")
        assert Asset(uri).uri == uri

    @pytest.mark.skipif(
        not IS_AIRFLOW_3, reason="Airflow 2 knows no URIs of providers that come with a plugin"
    )
    @pytest.mark.parametrize(
        "uri", ["magichour://movie/completed", "magichour://video", "magichour://video/completed/a/b"]
    )
    def test_with_a_mistake_is_refused_by_airflow(self, uri: str) -> None:
        with pytest.raises(ValueError, match="magichour_asset"):
            Asset(uri)

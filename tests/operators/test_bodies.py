"""Bodies: their fingerprints and the names of their projects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour.operators._bodies import MAX_NAME, describe, fingerprint, with_names
from tests.operators.records import Open, submit
from tests.support.tasks import TaskStateStore

pytestmark = pytest.mark.usefixtures("no_pauses")


BODY = {"name": "x", "assets": {"image_file_path": "https://h/a.png?id=1"}}


class TestFingerprint:
    def fingerprint_of(self, **changes: Any) -> str:
        asked = {"conn_id": "c", "tool": "t", "kind": "image", "body": BODY, **changes}
        return fingerprint(**asked)

    def test_equal_bodies_have_equal_fingerprints(self) -> None:
        assert self.fingerprint_of() == self.fingerprint_of(body=dict(reversed(BODY.items())))
        assert self.fingerprint_of(body={"a": Path("/x")}) == self.fingerprint_of(body={"a": "/x"})

    @pytest.mark.parametrize(
        "change",
        [
            {"conn_id": "other"},
            {"tool": "other"},
            {"kind": "video"},
            {"body": {**BODY, "name": "y"}},
            {"body": {**BODY, "assets": {"image_file_path": "https://h/a.png?id=2"}}},
            {"body": {**BODY, "assets": {"image_file_path": "https://h/b.png?id=1"}}},
        ],
        ids=str,
    )
    def test_fingerprint_differs_for_another_submit(self, change: dict[str, Any]) -> None:
        assert self.fingerprint_of(**change) != self.fingerprint_of()

    SIGNED = (
        (
            "https://b.s3.amazonaws.com/a.png?X-Amz-Date=1&X-Amz-Signature=2",
            "https://b.s3.amazonaws.com/a.png?X-Amz-Date=3&X-Amz-Signature=4",
        ),
        ("HTTPS://h/a.png?X-Amz-Signature=2", "HTTPS://h/a.png?X-Amz-Signature=4"),
        ("https://h/a.png?Expires=1&Signature=2&id=1", "https://h/a.png?id=1&Expires=3&Signature=4"),
        (
            "https://x.blob.core.windows.net/c/a?sv=1&se=2&sig=3",
            "https://x.blob.core.windows.net/c/a?sv=1&se=8&sig=9",
        ),
    )

    @pytest.mark.parametrize(("one", "other"), SIGNED)
    def test_url_that_is_signed_again_is_the_same(self, one: str, other: str) -> None:
        for make in (lambda url: {"assets": {"face_mappings": [{"new_face": url}]}}, _reference):
            assert self.fingerprint_of(body=make(one)) == self.fingerprint_of(body=make(other))

    @pytest.mark.parametrize("query", ["st=10", "sp=1", "expires=1", "policy=x", "x-amz-date=1"])
    def test_parameter_of_an_unsigned_url_counts(self, query: str) -> None:
        with_it = {"assets": {"image_file_path": f"https://h/a.png?{query}"}}
        without = {"assets": {"image_file_path": "https://h/a.png"}}
        assert self.fingerprint_of(body=with_it) != self.fingerprint_of(body=without)

    def test_record_holds_no_part_of_the_body(self, open_records: Open, store: TaskStateStore) -> None:
        secret = self.fingerprint_of(body={"style": {"prompt": "my secret prompt"}})
        submit(open_records(), secret)
        assert "secret prompt" not in "".join(store.values.values())


def _reference(url: str) -> dict[str, Any]:
    return {"references": [{"name": "x", "file_path": url}]}


class TestNames:
    def test_project_without_a_name_gets_one(self) -> None:
        made = with_names("ai-image-generator", [{}, {"name": "mine"}, {"name": None}], "dag.task run")
        assert [one["name"] for one in made] == ["dag.task run [0]", "mine", "dag.task run [2]"]
        assert with_names("ai-image-generator", [{}], "x") == [{"name": "x"}]
        assert describe("t", [{"name": "x"}]) == ["t, named 'x'"]

    @pytest.mark.parametrize("tool", ["ai-music-generator", "of-next-month"])
    def test_tool_that_may_not_take_a_name_gets_none(self, tool: str) -> None:
        assert with_names(tool, [{}], "x") == [{}]

    def test_user_may_opt_out(self) -> None:
        assert with_names("ai-image-generator", [{}], None) == [{}]

    def test_long_name_is_bounded_and_unlike_others(self) -> None:
        names = {
            one["name"]
            for last in "ab"
            for one in with_names("ai-image-generator", [{}] * 1001, "x" * 300 + last)
        }
        assert len(names) == 2002
        assert max(map(len, names)) == MAX_NAME

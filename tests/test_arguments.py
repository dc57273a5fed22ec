from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_magichour._validation import check_body, check_id, check_ids, check_seconds, is_many
from airflow_provider_magichour.exceptions import MagicHourArgumentError


@given(st.text())
def test_an_id_that_passes_is_one_harmless_path_segment(text):
    try:
        project_id = check_id(text)
    except MagicHourArgumentError:
        return
    assert project_id == text
    assert project_id.isascii()
    assert not set(project_id) & set("/\\?#%:@ \t\r\n\0")
    assert not project_id.startswith(".")


@pytest.mark.parametrize(
    "value", [None, "", "  ", 7, [], {}, b"abc", "..", ".", "a/b", "a\n", "é", "a" * 129]
)
def test_what_is_no_id_is_refused_by_name(value):
    with pytest.raises(MagicHourArgumentError, match="project_id"):
        check_id(value)


def test_a_list_of_ids_names_the_wrong_one():
    assert check_ids("abc") == ["abc"]
    assert check_ids(["a", "b"]) == ["a", "b"]
    with pytest.raises(MagicHourArgumentError, match=r"project_id\[1\]"):
        check_ids(["a", None])


@pytest.mark.parametrize("value", [None, 3, b"abc", {"id": "abc"}])
def test_neither_one_id_nor_a_list_is_refused(value):
    with pytest.raises(MagicHourArgumentError, match="project_id"):
        check_ids(value)


def test_one_thing_is_told_from_a_list():
    assert [is_many(value) for value in ("a", b"a", {"a": 1}, None, ["a"], ("a",), iter("a"))] == [
        False, False, False, False, True, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize("value", [None, "text", [], 3, {"a": object()}, {"a": math.nan}, {"a": {1, 2}}])
def test_what_is_no_json_object_is_no_body(value):
    with pytest.raises(MagicHourArgumentError, match="body"):
        check_body(value)


def test_a_body_that_contains_itself_is_refused():
    body: dict = {}
    body["again"] = body
    with pytest.raises(MagicHourArgumentError, match="body"):
        check_body(body)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "5", None, True])
def test_what_is_no_time_span_is_refused_by_name(value):
    with pytest.raises(MagicHourArgumentError, match="poll_interval"):
        check_seconds(value, "poll_interval")
    assert check_seconds(5, "poll_interval") == 5.0

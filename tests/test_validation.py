from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_magichour._validation import (
    check_bool,
    check_count,
    check_seconds,
    is_many,
    optional,
)
from airflow_provider_magichour._validation.at_parse import check_projects_at_parse
from airflow_provider_magichour._validation.bodies import check_bodies, check_body, encode_json
from airflow_provider_magichour._validation.projects import check_id, check_ids, read_projects
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


@pytest.mark.parametrize("value", [None, "text", [], 3])
def test_what_is_no_json_object_is_no_body(value):
    with pytest.raises(MagicHourArgumentError, match="body"):
        check_body(value)


CIRCULAR: dict = {}
CIRCULAR["again"] = CIRCULAR


@pytest.mark.parametrize(
    "value", [{"a": object()}, {"a": math.nan}, {"a": {1, 2}}, {"a": b"b"}, {1: 1, "a": 1}, CIRCULAR]
)
def test_what_cannot_be_json_is_refused_by_name(value):
    with pytest.raises(MagicHourArgumentError, match=r"body\[1\] cannot be sent as JSON"):
        check_bodies([{}, value])


def test_equal_bodies_are_equal_bytes():
    assert encode_json({"b": 1, "a": [2]}) == encode_json({"a": [2], "b": 1})
    assert encode_json({"assets": [Path("face.png")]}) == b'{"assets": ["face.png"]}'


@pytest.mark.parametrize("value", ["None", "null", " None\n", "NULL", "", " ", None], ids=repr)
def test_a_missing_xcom_is_refused_with_its_cure(value):
    with pytest.raises(MagicHourArgumentError, match=r"project_id .*XCom.*TaskGroup"):
        check_id(value)


SECRET = "https://files.example/out.png?signature=very-secret"
PROJECT = {"id": "p1", "status": "complete", "downloads": [{"url": SECRET}]}


@pytest.mark.parametrize(
    ("value", "kind", "ids", "read_kind"),
    [
        ("p1", "image", ["p1"], "image"),
        ({"id": "p1", "kind": "video", "tool": "face-swap"}, None, ["p1"], "video"),
        ({"project": {**PROJECT, "kind": "audio"}, "files": []}, None, ["p1"], "audio"),
        ({"project": PROJECT, "kind": "audio", "files": []}, "audio", ["p1"], "audio"),
        (PROJECT, "image", ["p1"], "image"),
        (({"id": "p1", "kind": "image"}, "p2", {"project": {"id": "p3"}}), None, ["p1", "p2", "p3"], "image"),
        (iter(["p1", "p2"]), "image", ["p1", "p2"], "image"),
        ([], None, [], ""),
        ([], "image", [], "image"),
    ],
)
def test_what_a_task_returned_names_its_projects_and_their_kind(value, kind, ids, read_kind):
    projects = read_projects(value, kind)
    assert (projects.ids, projects.kind) == (ids, read_kind)
    assert projects.is_list is (value is not PROJECT and not isinstance(value, str | dict))


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        ({"id": "p1", "kind": "video"}, "image", "p1.*kind='image'"),
        ([{"id": "p1", "kind": "video"}, {"id": "p2", "kind": "image"}], None, r"project_id\[1\].*image.*p2"),
        ("p1", None, "kind must be given"),
        (PROJECT, None, "kind must be given"),
        ({"id": "p1", "kind": "document"}, None, "kind"),
        (PROJECT, PROJECT, "kind must be one of .* not dict"),
        ({"downloads": [{"url": SECRET}]}, "image", "without an 'id'"),
        ({"id": PROJECT}, "image", "of type dict"),
        ([PROJECT, [PROJECT]], "image", r"project_id\[1\].*of type list"),
        (str(PROJECT), "image", "render_template_as_native_obj"),
        (f" {[PROJECT]}", "image", "render_template_as_native_obj"),
        (SECRET, "image", "not a Magic Hour id"),
        ([None], "image", r"project_id\[0\].*XCom"),
    ],
)
def test_what_names_no_project_is_refused_without_being_shown(value, kind, words):
    with pytest.raises(MagicHourArgumentError, match=words) as caught:
        read_projects(value, kind)
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "kind", "refused"),
    [
        ("{{ ti.xcom_pull('make')['id'] }}", None, False),
        ("{{ ti.xcom_pull('make')['id'] }}", "document", True),
        ("p1", "{{ params.kind }}", False),
        ("p1", None, True),
        ("None", "image", True),
        (["p1", "{{ params.other }}"], "image", False),
        (object(), None, False),
    ],
)
def test_only_what_no_template_can_change_is_checked_when_a_dag_is_parsed(value, kind, refused):
    if refused:
        with pytest.raises(MagicHourArgumentError):
            check_projects_at_parse(value, kind)
    else:
        check_projects_at_parse(value, kind)


@pytest.mark.parametrize("body", ["{'name': 'a'}", ["{'name': 'a'}"]])
def test_a_body_that_became_text_gets_the_native_rendering_hint(body):
    with pytest.raises(MagicHourArgumentError, match="render_template_as_native_obj"):
        check_bodies(body)


@pytest.mark.parametrize(
    "value",
    [0, -1, math.nan, math.inf, "five", "", None, True, "nan", "-5", timedelta(0), timedelta(-1), "0:00:00"],
)
def test_what_is_no_time_span_is_refused_by_name(value):
    with pytest.raises(MagicHourArgumentError, match="poll_interval"):
        check_seconds(value, "poll_interval")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (5, 5),
        (2.5, 2.5),
        ("5", 5),
        (timedelta(minutes=1), 60),
        (str(timedelta(days=1, seconds=2)), 86402),
        (str(timedelta(milliseconds=500)), 0.5),
        ("30 days", 30 * 86400),
    ],
)
def test_seconds_are_read_from_numbers_time_spans_and_what_templates_make_of_them(value, seconds):
    assert check_seconds(value, "timeout") == seconds


def test_counts_and_truth_values_are_read_from_what_templates_make_of_them():
    assert [check_count(value, "limit") for value in (7, "7", " 7 ")] == [7, 7, 7]
    assert [check_bool(value, "dry_run") for value in (True, "True", "false")] == [True, True, False]
    assert [optional(check_count, value, "limit") for value in (None, "None", "", "7")] == [
        None,
        None,
        None,
        7,
    ]
    for value in (0, "0", 1.5, "many", True, math.inf, [1]):
        with pytest.raises(MagicHourArgumentError, match="limit"):
            check_count(value, "limit")
    for value in (None, "maybe", 1):
        with pytest.raises(MagicHourArgumentError, match="dry_run"):
            check_bool(value, "dry_run")

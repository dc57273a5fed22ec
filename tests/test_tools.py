from __future__ import annotations

from typing import get_args

import pytest

from airflow_provider_magichour.exceptions import MagicHourArgumentError
from airflow_provider_magichour.tools import (
    KINDS,
    TOOLS,
    KnownTool,
    check_kind,
    tool_kind,
    tool_of,
    typical_seconds_of,
)


def test_every_tool_has_a_kind_and_a_type_of_its_own():
    assert {tool.kind for tool in TOOLS.values()} == set(KINDS)
    assert len({(tool.kind, tool.project_type) for tool in TOOLS.values()}) == len(TOOLS)


def test_known_tool_has_its_kind():
    assert tool_kind("text-to-video") == "video"
    assert tool_kind("text-to-video", "video") == "video"


def test_unknown_tool_needs_a_kind_and_the_error_lists_known_tools():
    assert tool_kind("brand-new", "audio") == "audio"
    with pytest.raises(MagicHourArgumentError, match=r"brand-new.*kind=.*ai-image-generator"):
        tool_kind("brand-new")


@pytest.mark.parametrize("tool", ["text-to-vidoe", "text_to_video", "Text-to-Video"])
def test_misspelled_tool_is_corrected(tool):
    with pytest.raises(MagicHourArgumentError, match=r"did you mean 'text-to-video'\?"):
        tool_kind(tool)


@pytest.mark.parametrize("tool", [None, "", "Text To Video", "../account", "a/b", "a?b", "-a", "a\n"])
def test_value_that_is_no_tool_is_refused(tool):
    with pytest.raises(MagicHourArgumentError, match="tool"):
        tool_kind(tool, "image")


def test_contradicting_kind_is_refused():
    with pytest.raises(MagicHourArgumentError, match="contradicts"):
        tool_kind("text-to-video", "image")


@pytest.mark.parametrize("kind", [None, "", "Image", "images", 1, []])
def test_unknown_kind_is_named(kind):
    with pytest.raises(MagicHourArgumentError, match="kind must be one of image, video, audio"):
        check_kind(kind)


def test_typical_duration_follows_from_kind_and_type():
    assert typical_seconds_of(tool_of("video", "FACE_SWAP")) == 71
    assert typical_seconds_of(tool_of("image", "FACE_SWAP")) == 4
    assert typical_seconds_of(tool_of("image", "NEW_TYPE")) is None
    assert typical_seconds_of(tool_of("image", None)) is None


def test_editors_complete_every_tool():
    assert get_args(KnownTool) == tuple(TOOLS)

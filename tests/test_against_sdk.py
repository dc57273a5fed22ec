"""The hook and Magic Hour's official SDK see the same projects."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import httpx
import magic_hour
import pytest

from airflow_provider_magichour.tools import KINDS
from tests.simulator.support import EXAMPLE_BODIES, TOOL_OF_KIND, wait


@pytest.fixture
def sdk(magichour_simulator):
    with httpx.Client(timeout=60) as http:
        yield magic_hour.Client(
            token=magichour_simulator.api_key, base_url=magichour_simulator.url, httpx_client=http
        )


def plain(value: Any) -> Any:
    """Make what both return comparable: times as times, URLs without the signature of the moment."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items() if key != "expires_at"}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, str) and value.startswith("http"):
        return value.partition("?")[0]
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return value


@pytest.mark.parametrize("kind", KINDS)
def test_hook_and_sdk_agree_on_every_field(magichour_simulator, hook, sdk, kind):
    tool = TOOL_OF_KIND[kind]
    project_id = hook.create_project(tool, EXAMPLE_BODIES[tool])["id"]
    wait(magichour_simulator, kind, project_id)
    theirs = getattr(sdk.v1, f"{kind}_projects").get(id=project_id).model_dump(mode="json", by_alias=True)
    assert plain(hook.get_project(kind, project_id)) == plain(theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_project_deleted_by_one_is_gone_for_the_other(magichour_simulator, hook, sdk, kind):
    tool = TOOL_OF_KIND[kind]
    project_id = hook.create_project(tool, EXAMPLE_BODIES[tool])["id"]
    getattr(sdk.v1, f"{kind}_projects").delete(id=project_id)
    assert hook.delete_project(kind, project_id) is False

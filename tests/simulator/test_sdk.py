"""The official client works with the simulator, which shows that the simulator is correct."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import magic_hour
import pytest
from make_api_request import ApiError

from airflow_provider_magichour.simulator import Simulator
from airflow_provider_magichour.tools import KINDS, TOOLS
from tests.simulator.support import EXAMPLE_BODIES, TOOL_OF_KIND, create

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def magichour() -> Iterator[Simulator]:
    with Simulator(duration=0.1) as simulator:
        yield simulator


@pytest.fixture
def client(magichour: Simulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[magic_hour.Client]:
    monkeypatch.setenv("MAGIC_HOUR_POLL_INTERVAL", "0.02")
    logging.getLogger("magic_hour").setLevel(logging.ERROR)
    magichour.reset()
    with httpx.Client(timeout=60) as http:
        yield magic_hour.Client(token=magichour.api_key, base_url=magichour.url, httpx_client=http)


def _projects(client: magic_hour.Client, kind: str) -> Any:
    return getattr(client.v1, f"{kind}_projects")


@pytest.mark.parametrize("kind", KINDS)
def test_check_result_waits_downloads_and_agrees_on_the_fields(
    magichour: Simulator, client: magic_hour.Client, kind: str, tmp_path: Path
) -> None:
    project_id = create(magichour, kind)
    found = _projects(client, kind).check_result(
        project_id, wait_for_completion=True, download_outputs=True, download_directory=str(tmp_path)
    )
    assert found.status == "complete"
    assert found.id == project_id
    (path,) = found.downloaded_paths
    assert Path(path).stat().st_size > 1000
    assert magichour.state()["leaked_keys"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_get_and_delete_work(magichour: Simulator, client: magic_hour.Client, kind: str) -> None:
    project_id = create(magichour, kind)
    projects = _projects(client, kind)
    assert projects.get(id=project_id).status in {"queued", "rendering"}
    projects.delete(id=project_id)
    gone = projects.get(id=project_id)
    assert gone.enabled is False
    assert gone.downloads == []
    with pytest.raises(ApiError) as refused:
        projects.delete(id=project_id)
    assert refused.value.response.status_code == 404


@pytest.mark.parametrize("kind", KINDS)
def test_responses_have_the_fields_of_the_specification(
    magichour: Simulator, client: magic_hour.Client, kind: str
) -> None:
    found = _projects(client, kind).get(id=create(magichour, kind))
    assert found.model_extra in (None, {})
    assert found.model_fields_set == set(type(found).model_fields)


@pytest.mark.parametrize("tool", TOOLS)
def test_generate_works_with_every_tool(
    client: magic_hour.Client, magichour: Simulator, tool: str, tmp_path: Path
) -> None:
    resource = getattr(client.v1, tool.replace("-", "_"))
    known = inspect.signature(resource.generate).parameters
    body = {name: value for name, value in EXAMPLE_BODIES[tool].items() if name in known}
    found = resource.generate(**body, download_directory=str(tmp_path))
    assert found.status == "complete", found.error
    assert len(found.downloaded_paths) == len(found.downloads) == 1
    assert magichour.state()["created"] == {tool: 1}


def test_generate_downloads_several_outputs(client: magic_hour.Client, tmp_path: Path) -> None:
    found = client.v1.ai_image_generator.generate(
        image_count=3, style={"prompt": "three cats"}, download_directory=str(tmp_path)
    )
    contents = {Path(path).read_bytes() for path in found.downloaded_paths}
    assert len(contents) == 3
    assert all(content.startswith(PNG) for content in contents)


def test_upload_file_works(magichour: Simulator, client: magic_hour.Client, tmp_path: Path) -> None:
    source = tmp_path / "photo.png"
    source.write_bytes(PNG + b"some pixels")
    path = client.v1.files.upload_file(source)
    upload = magichour.state()["uploads"][path]
    assert upload["size"] == len(PNG) + 11
    assert upload["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert path.startswith("api-assets/")


def test_face_detection_account_and_saved_items_are_read(client: magic_hour.Client) -> None:
    started = client.v1.face_detection.create(assets={"target_file_path": "api-assets/x/1.png"})
    found = client.v1.face_detection.get(id=started.id)
    assert found.status in {"rendering", "complete"}
    account = client.v1.account.list()
    assert account.credits == 100_000
    assert account.tier == "pro"
    items = client.v1.saved_items.list(limit=3)
    assert len(items.items) == 3
    rest = client.v1.saved_items.list(limit=3, cursor=items.next_cursor)
    assert rest.next_cursor is None
    assert {item.id for item in items.items}.isdisjoint(item.id for item in rest.items)


def test_there_is_a_tool_for_each_kind() -> None:
    assert {TOOLS[tool].kind for tool in TOOL_OF_KIND.values()} == set(KINDS)

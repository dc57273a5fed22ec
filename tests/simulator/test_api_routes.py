"""Accounts, bodies, credits and the life of projects."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import requests

from airflow_provider_magichour.simulator import Simulator
from airflow_provider_magichour.simulator.schemas import check_body, schemas
from airflow_provider_magichour.tools import TOOLS
from tests.simulator.support import EXAMPLE_BODIES, IMAGE, VIDEO, create, get, make, session


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    with Simulator(duration=0.0, more_api_keys=("mhk_second",)) as simulator:
        yield simulator


def _post(magichour: Simulator, tool: str, body: Any, **options: Any) -> requests.Response:
    with session(magichour) as http:
        return http.post(f"{magichour.url}/v1/{tool}", json=body, **options)


# -------------------------------------------------------------------------------------------- accounts


@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer wrong", "Basic mhk_test_simulator"])
def test_a_wrong_key_is_refused(magichour: Simulator, value: str | None) -> None:
    headers = {} if value is None else {"Authorization": value}
    for path in ("account", "image-projects/x", "saved-items"):
        response = requests.get(f"{magichour.url}/v1/{path}", headers=headers, timeout=60)
        assert response.status_code == 401
        assert response.json() == {"code": "unauthorized", "message": "Unauthorized"}


def test_accounts_do_not_see_each_others_projects(magichour: Simulator) -> None:
    project_id = create(magichour)
    with session(magichour, "mhk_second") as http:
        assert http.get(f"{magichour.url}/v1/image-projects/{project_id}").status_code == 404
        assert http.get(f"{magichour.url}/v1/account").json()["credits"] == 100_000


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "no-such-tool"),
        ("GET", "text-to-video"),
        ("GET", "image-projects/missing"),
        ("GET", "text-projects/x"),
        ("PUT", "account"),
        ("DELETE", "image-projects/x/y"),
        ("GET", "../x"),
    ],
)
def test_unknown_paths_and_projects_are_404(magichour: Simulator, method: str, path: str) -> None:
    with session(magichour) as http:
        response = http.request(method, f"{magichour.url}/v1/{path}", json={})
    assert response.status_code == 404
    assert response.json() == {"code": "not_found", "message": "Not Found"}


def test_a_project_has_one_kind(magichour: Simulator) -> None:
    project_id = create(magichour, "image")
    with session(magichour) as http:
        assert http.get(f"{magichour.url}/v1/video-projects/{project_id}").status_code == 404


@hypothesis.given(st.text(max_size=60))
@hypothesis.settings(max_examples=60)
def test_odd_ids_are_404_or_400(running: Simulator, path: str) -> None:
    with session(running) as http:
        response = http.get(f"{running.url}/v1/image-projects/{requests.utils.quote(path)}", timeout=60)
    assert response.status_code in {404, 400}


def test_an_account_can_have_another_key_and_lose_the_old_one() -> None:
    with Simulator(duration=0) as magichour:
        old, project_id = magichour.api_key, create(magichour)
        url = f"{magichour.url}/v1/image-projects/{project_id}"
        magichour.add_api_key("mhk_new")
        assert magichour.api_key == "mhk_new"
        assert get(magichour, "image", project_id)["id"] == project_id
        assert len(magichour.state()["accounts"]) == 1
        with session(magichour, old) as http:
            assert http.get(url).status_code == 200
            magichour.revoke_api_key(old)
            assert http.get(url).status_code == 401
        magichour.revoke_api_key("mhk_new")
        assert magichour.state()["credits"] < 100_000
        magichour.reset()
        assert magichour.state()["credits"] == 100_000


def test_requests_above_the_rate_limit_get_429_with_retry_after() -> None:
    with Simulator(rate_limit=1) as magichour, session(magichour) as http:
        responses = [http.get(f"{magichour.url}/v1/account") for _ in range(12)]
        refused = [response for response in responses if response.status_code == 429]
        assert responses[0].ok
        assert refused
        assert int(refused[0].headers["Retry-After"]) >= 1


# ---------------------------------------------------------------------------------------------- bodies


def test_every_tool_is_known_and_has_an_example() -> None:
    assert set(schemas()) - {"face-detection", "files/upload-urls"} == set(TOOLS)
    assert set(EXAMPLE_BODIES) == set(schemas())


@pytest.mark.parametrize("tool", TOOLS)
def test_the_example_of_the_specification_is_accepted(magichour: Simulator, tool: str) -> None:
    response = _post(magichour, tool, EXAMPLE_BODIES[tool])
    assert response.status_code == 200, response.text
    project = get(magichour, TOOLS[tool].kind, response.json()["id"])
    assert project["type"] == TOOLS[tool].project_type
    assert project["name"] == EXAMPLE_BODIES[tool].get("name")


def _required(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in schema.get("required", ()):
        yield (*path, name)
        yield from _required(schema["properties"][name], (*path, name))


REQUIRED = [
    (name, path)
    for name, found in schemas().items()
    for path in _required(found["body"])
    if "items" not in path
]


@pytest.mark.parametrize(
    ("tool", "path"), REQUIRED, ids=lambda value: ".".join(value) if isinstance(value, tuple) else value
)
def test_a_missing_field_is_named(magichour: Simulator, tool: str, path: tuple[str, ...]) -> None:
    body = copy.deepcopy(EXAMPLE_BODIES[tool])
    inner = body
    for name in path[:-1]:
        inner = inner[name]
    inner.pop(path[-1], None)
    response = _post(magichour, tool, body)
    assert response.status_code == 400
    assert response.json()["message"] == f"{'.'.join(path)} is required"
    assert magichour.state()["created"] == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"style": "x"}, "style must be an object"),
        ({"style": {"prompt": 1}}, "style.prompt must be a string"),
        ({"style": {"prompt": ""}}, "style.prompt must have at least 1 characters"),
        ({"style": {"prompt": None}}, "style.prompt must be a string"),
        ({"image_count": 17}, "image_count must be at most 16"),
        ({"image_count": 0}, "image_count must be at least 1"),
        ({"image_count": 1.5}, "image_count must be a whole number"),
        ({"image_count": True}, "image_count must be a whole number"),
    ],
)
def test_a_wrong_field_is_named(magichour: Simulator, changes: dict[str, Any], message: str) -> None:
    response = _post(magichour, "ai-image-generator", IMAGE | changes)
    assert (response.status_code, response.json()["message"]) == (400, message)


@pytest.mark.parametrize(
    ("tool", "body", "message"),
    [
        (
            "ai-face-editor",
            {"style": {"head_yaw": 7}, "assets": {}},
            "style.head_yaw must be a multiple of 5",
        ),
        ("text-to-video", {"style": {"prompt": "x" * 2001}, "end_seconds": 1}, "at most 2000 characters"),
        (
            "files/upload-urls",
            {"items": [{"type": "video", "extension": "MP4"}]},
            "items[0].extension must match",
        ),
        (
            "face-swap-photo",
            {"assets": {"face_mappings": [{}], "target_file_path": "x"}},
            "[0].original_face",
        ),
        (
            "face-swap",
            {"assets": {"face_mappings": [{"original_face": "x", "new_face": "y"}] * 6}},
            "must have at most 5 items",
        ),
        ("lip-sync", [], "body must be a JSON object"),
    ],
)
def test_limits_of_fields_are_checked(tool: str, body: Any, message: str) -> None:
    if isinstance(body, dict):
        body = copy.deepcopy(EXAMPLE_BODIES[tool]) | body
    if tool == "ai-face-editor":
        body["assets"] = EXAMPLE_BODIES[tool]["assets"]
    if tool == "face-swap":
        body["assets"]["video_source"] = "file"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_body(tool, body)


def test_bodies_that_are_no_json_are_refused(magichour: Simulator) -> None:
    url = f"{magichour.url}/v1/text-to-video"
    with session(magichour) as http:
        assert http.post(url).json() == {"code": "invalid_request", "message": "Missing request body"}
        assert http.post(url, data=b"{").status_code == 400
        assert http.post(url, data=b"\xff\xfe").status_code == 400
        assert http.post(url, data=b"[" * 100_000).status_code == 400
        for odd in (b'{"x": NaN}', b'{"x": 1e999}', b'{"x": "\\ud800"}'):
            assert http.post(url, data=odd).json()["message"] == "The request body is not JSON"


def test_unknown_fields_pass_and_times_must_make_sense(magichour: Simulator) -> None:
    assert _post(magichour, "text-to-video", VIDEO | {"new_field": {"x": 1}}).status_code == 200
    swap = EXAMPLE_BODIES["face-swap"] | {"start_seconds": 5, "end_seconds": 5}
    assert "end_seconds" in _post(magichour, "face-swap", swap).json()["message"]


@pytest.mark.parametrize(
    ("tool", "changes", "warning"),
    [
        ("text-to-video", {"model": "next-months-model"}, "model 'next-months-model' is none of the known"),
        ("ai-image-generator", {"aspect_ratio": "2:1"}, "aspect_ratio '2:1' is none of the known"),
        ("ai-image-editor", {"image_count": 2}, "image_count '2' is none of the known"),
    ],
)
def test_unknown_values_pass_with_a_warning(
    magichour: Simulator,
    tool: str,
    changes: dict[str, Any],
    warning: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert _post(magichour, tool, EXAMPLE_BODIES[tool] | changes).status_code == 200
    assert magichour.state()["warnings"] == [record.getMessage() for record in caplog.records]
    assert f"{tool}: {warning}" in caplog.text


def test_an_unknown_upload_type_is_refused(magichour: Simulator) -> None:
    response = _post(magichour, "files/upload-urls", {"items": [{"type": "text", "extension": "png"}]})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")


def test_text_to_video_takes_references(magichour: Simulator) -> None:
    references = [{"name": "hero", "file_path": "api-assets/1/image.png"}]
    assert _post(magichour, "text-to-video", VIDEO | {"references": references}).status_code == 200
    incomplete = _post(magichour, "text-to-video", VIDEO | {"references": [{"name": "hero"}]})
    assert incomplete.json()["message"] == "references[0].file_path is required"
    assert _post(magichour, "text-to-video", VIDEO | {"references": references * 11}).status_code == 400


def test_character_replace_takes_points_with_one_model_only(magichour: Simulator) -> None:
    points = [{"position_x": 1, "position_y": 1, "time_seconds": 0}]
    body = EXAMPLE_BODIES["character-replace"] | {"style": {"points": points}}
    assert _post(magichour, "character-replace", body | {"model": "wan-animate"}).status_code == 200
    refused = _post(magichour, "character-replace", body | {"model": "kling-3.0"})
    assert refused.json()["message"] == "style.points must have at most 0 items"


def test_all_tools_but_one_take_a_name() -> None:
    without = {tool for tool in TOOLS if "name" not in schemas()[tool]["body"]["properties"]}
    assert without == {"ai-ugc-ad"}


ODD = [None, True, -1, 0, 1e308, 10**400, "", "x", [], [None], {}, {"x": 1}]


@pytest.mark.parametrize("tool", TOOLS)
def test_odd_values_never_cause_a_500(magichour: Simulator, tool: str) -> None:
    names = [*EXAMPLE_BODIES[tool], "image_count", "start_seconds", "fps", "style", "duration", "name"]
    with session(magichour) as http:
        for name, value in itertools.product(names, ODD):
            body = EXAMPLE_BODIES[tool] | {name: value}
            assert http.post(f"{magichour.url}/v1/{tool}", json=body).status_code in {200, 400}, (name, value)


# ------------------------------------------------------------------------------------------- life cycle


def test_credits_run_out_and_come_back() -> None:
    with Simulator(duration=0.0, credits=12) as magichour:
        magichour.faults({"outcome": {"status": "error"}, "times": 1})
        failed = make(magichour)
        assert (failed["credits_charged"], magichour.state()["credits"]) == (0, 12)
        make(magichour)
        make(magichour)
        refused = _post(magichour, "ai-image-generator", IMAGE)
        assert refused.status_code == 402
        assert "2 are left" in refused.json()["message"]
        assert magichour.state()["credits"] == 2
        assert magichour.state()["created"] == {"ai-image-generator": 3}


def test_the_price_is_an_estimate_until_complete(magichour: Simulator) -> None:
    magichour.faults({"duration": 600, "times": 1})
    project_id = create(magichour, "video")
    estimate = get(magichour, "video", project_id)["credits_charged"]
    assert magichour.state()["credits"] == 100_000 - estimate
    magichour.end_project(project_id)
    final = get(magichour, "video", project_id)["credits_charged"]
    assert 0 < final < estimate
    assert magichour.state()["credits"] == 100_000 - final
    magichour.end_project(project_id)
    assert magichour.state()["credits"] == 100_000 - final


def test_the_same_seed_gives_the_same_ids() -> None:
    found = []
    for _ in range(2):
        with Simulator(duration=0.0, seed=5, jitter=0.5) as magichour:
            found.append([create(magichour) for _ in range(3)])
    assert found[0] == found[1]
    assert len(set(found[0])) == 3


def test_saved_items_refuses_bad_pages(magichour: Simulator) -> None:
    with session(magichour) as http:
        for query in ("limit=0", "limit=x", "cursor=-1"):
            assert http.get(f"{magichour.url}/v1/saved-items?{query}").status_code == 400
        voices = http.get(f"{magichour.url}/v1/saved-items?type=voice").json()
    assert [item["type"] for item in voices["items"]] == ["voice"]


def test_saved_items_have_durable_paths_below_their_account(magichour: Simulator) -> None:
    account_id = magichour.state()["accounts"][0]["id"]
    with session(magichour) as http:
        items = http.get(f"{magichour.url}/v1/saved-items").json()["items"]
    paths = [asset["file_path"] for item in items for asset in item["assets"]]
    assert paths[1] == f"saved-items/{account_id}/{items[1]['id']}/image.png"
    assert all(path.startswith(f"saved-items/{account_id}/") for path in paths)
    for item in items:
        assert requests.get(item["assets"][0]["url"], timeout=60).status_code == 200


def test_a_free_account_has_no_subscription() -> None:
    with Simulator(tier="free") as magichour, session(magichour) as http:
        found = http.get(f"{magichour.url}/v1/account").json()
    assert (found["tier"], found["subscription"]) == ("free", None)

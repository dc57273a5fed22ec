"""Accounts, their API keys and ledgers, and the errors and faults that tests of paying once need."""

from __future__ import annotations

import time
from collections import Counter

import pytest
import requests

from airflow_provider_magichour.simulator import Simulator
from tests.simulator.support import IMAGE, create, get, make, session

CREATE = {"route": "create_project"}


def _account(magichour: Simulator, api_key: str | None = None) -> dict[str, object]:
    with session(magichour, api_key) as http:
        return dict(http.get(f"{magichour.url}/v1/account").json())


def _get_project(magichour: Simulator, project_id: str, api_key: str | None = None) -> requests.Response:
    with session(magichour, api_key) as http:
        return http.get(f"{magichour.url}/v1/image-projects/{project_id}")


def _post_image(magichour: Simulator) -> requests.Response:
    with session(magichour) as http:
        return http.post(f"{magichour.url}/v1/ai-image-generator", json=IMAGE)


# -------------------------------------------------------------------------------------------- accounts


def test_two_keys_of_one_account_share_its_projects_and_its_id() -> None:
    with Simulator(duration=0) as magichour:
        first = magichour.api_key
        project_id = create(magichour)
        magichour.add_api_key("mhk_other_key")
        assert _account(magichour, first)["id"] == _account(magichour, "mhk_other_key")["id"]
        assert len(magichour.state()["accounts"]) == 1
        assert _get_project(magichour, project_id, "mhk_other_key").status_code == 200


def test_another_account_has_its_own_id_credits_and_projects(magichour: Simulator) -> None:
    account_id = magichour.add_account("mhk_stranger")
    project_id = create(magichour)
    first, second = _account(magichour), _account(magichour, "mhk_stranger")
    assert second["id"] == account_id != first["id"]
    assert second["email"] != first["email"]
    assert second["credits"] == 100_000 != first["credits"]
    refused = _get_project(magichour, project_id, "mhk_stranger")
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


def test_account_ids_outlive_a_restart() -> None:
    found = []
    for _ in range(2):
        with Simulator(more_api_keys=("mhk_second",)) as magichour:
            found.append([account["id"] for account in magichour.state()["accounts"]])
    assert found[0] == found[1]
    assert len(set(found[0])) == 2


def test_a_key_that_was_revoked_leads_to_the_same_account_again(magichour: Simulator) -> None:
    account_id = magichour.add_account("mhk_stranger")
    magichour.revoke_api_key("mhk_stranger")
    assert magichour.add_account("mhk_stranger") == account_id
    assert [account["id"] for account in magichour.state()["accounts"]].count(account_id) == 1


def test_reset_forgets_added_keys_and_accounts(magichour: Simulator) -> None:
    first_key, accounts = magichour.api_key, magichour.state()["accounts"]
    magichour.add_api_key("mhk_other_key")
    magichour.add_account("mhk_stranger")
    magichour.reset()
    assert (magichour.api_key, magichour.state()["accounts"]) == (first_key, accounts)


def test_accounts_and_keys_can_be_added_over_http(magichour: Simulator) -> None:
    admin = f"{magichour.url}/_simulator"
    added = requests.post(f"{admin}/accounts", json={"key": "mhk_stranger"}, timeout=60).json()
    assert _account(magichour, "mhk_stranger")["id"] == added["id"]
    assert requests.post(f"{admin}/api-keys", json={"key": "mhk_other_key"}, timeout=60).status_code == 200
    assert _account(magichour, "mhk_other_key")["id"] != added["id"]
    assert [requests.delete(f"{admin}/api-keys/mhk_stranger", timeout=60).status_code for _ in "12"] == [
        200,
        404,
    ]
    assert [account["id"] for account in magichour.state()["accounts"]].count(added["id"]) == 1


# ---------------------------------------------------------------------------------------------- ledger


def test_the_ledger_sums_up_to_what_the_account_lost() -> None:
    with Simulator(duration=0.0) as magichour:
        magichour.faults({"match": {"kind": "image"}, "outcome": {"status": "error"}, "times": 1})
        failed, complete, video = make(magichour), make(magichour), make(magichour, "video")
        spent: Counter[str] = Counter()
        for line in magichour.ledger():
            spent[line["project_id"]] += line["credits"] if line["entry"] == "charge" else -line["credits"]
        (account,) = magichour.state()["accounts"]
        assert spent[failed["id"]] == 0
        assert spent[complete["id"]] == complete["credits_charged"]
        assert spent[video["id"]] == video["credits_charged"]
        assert sum(spent.values()) == account["charged"] - account["refunded"] == 100_000 - account["credits"]
        assert [line["entry"] for line in magichour.ledger()].count("refund") == 2


def test_the_ledger_can_be_read_for_one_account(magichour: Simulator) -> None:
    account_id = magichour.add_account("mhk_stranger")
    create(magichour)
    assert magichour.ledger(account_id) == []
    (line,) = magichour.ledger()
    assert line["account_id"] == magichour.state()["accounts"][0]["id"]
    assert requests.get(f"{magichour.url}/_simulator/ledger", timeout=60).json() == [line]


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("code", ["insufficient_credits", "subscription_required", "plan_upgrade_required"])
def test_402_comes_with_the_requested_code(magichour: Simulator, code: str) -> None:
    magichour.faults(
        {"match": CREATE, "status": 402, "code": code, "message": "Not on your plan", "times": 1}
    )
    response = _post_image(magichour)
    assert (response.status_code, response.json()) == (402, {"code": code, "message": "Not on your plan"})
    assert magichour.state()["created"] == {}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid_request"),
        (401, "unauthorized"),
        (402, "insufficient_credits"),
        (404, "not_found"),
        (422, "unprocessable_entity"),
        (500, "internal_server_error"),
        (502, "bad_gateway"),
        (503, "service_unavailable"),
    ],
)
def test_each_status_has_magic_hours_own_form(magichour: Simulator, status: int, code: str) -> None:
    magichour.faults({"match": CREATE, "status": status})
    response = _post_image(magichour)
    assert response.json()["code"] == code
    assert isinstance(response.json()["message"], str)


def test_a_plan_limit_is_429_on_demand() -> None:
    with Simulator(max_rendering=2, max_rendering_action="429", duration=60) as magichour:
        accepted = [create(magichour) for _ in range(2)]
        refused = _post_image(magichour)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert len(magichour.ledger()) == 2
        magichour.end_project(accepted[0])
        assert _post_image(magichour).status_code == 200


def test_latency_delays_each_response() -> None:
    with Simulator(latency=0.2, duration=0) as magichour:
        started = time.monotonic()
        _account(magichour)
        assert time.monotonic() - started >= 0.2


def test_a_create_without_credits_is_402() -> None:
    with Simulator(credits=0) as magichour:
        response = _post_image(magichour)
        assert (response.status_code, response.json()["code"]) == (402, "insufficient_credits")


@pytest.mark.parametrize("status", [502, 503])
@pytest.mark.parametrize("accepted", [True, False])
def test_a_gateway_fails_before_or_after_a_create_is_accepted(
    magichour: Simulator, status: int, accepted: bool
) -> None:
    magichour.faults({"match": CREATE, "status": status, "html": True, "process": accepted, "times": 1})
    response = _post_image(magichour)
    assert response.status_code == status
    assert response.headers["content-type"].startswith("text/html")
    assert str(status) in response.text
    assert magichour.state()["created"] == ({"ai-image-generator": 1} if accepted else {})
    assert len(magichour.ledger()) == accepted


# ------------------------------------------------------------------------------- read lag and deletion


def test_a_project_is_404_until_its_read_lag_is_over(magichour: Simulator) -> None:
    magichour.faults({"read_lag": 4, "times": 1})
    created = time.monotonic()
    project_id = create(magichour)
    first = _get_project(magichour, project_id)
    assert (first.status_code, first.json()["code"]) == (404, "not_found")
    while _get_project(magichour, project_id).status_code == 404:
        assert time.monotonic() < created + 60
        time.sleep(0.02)
    assert time.monotonic() >= created + 4
    assert get(magichour, "image", create(magichour))["status"] == "complete"


def test_a_deleted_project_can_be_404() -> None:
    with Simulator(duration=0, deleted_projects="not_found") as magichour:
        project_id = create(magichour)
        with session(magichour) as http:
            url = f"{magichour.url}/v1/image-projects/{project_id}"
            assert [http.delete(url).status_code, http.get(url).status_code] == [204, 404]
            assert http.delete(url).status_code == 404
        assert magichour.state()["projects"][project_id]["enabled"] is False

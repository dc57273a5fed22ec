"""How the receiver calls Airflow: sign-in, the assets' ids, and what changes while it runs."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import pytest

from airflow_provider_magichour.webhooks import airflow_api as module
from airflow_provider_magichour.webhooks.airflow_api import AirflowApi, AirflowApiError
from airflow_provider_magichour.webhooks.settings import Settings
from tests.webhooks.support import FakeAirflow, below, serving, used, web_page

SIGN_IN, LIST, CREATE = "POST /auth/token", "GET /api/v2/assets", "POST /api/v2/assets/events"


def user(url: str) -> Settings:
    return Settings(url, username="webhooks", password="secret")


async def create(settings: Settings, *uris: str, extra: Any = None) -> int:
    api = AirflowApi(settings)
    try:
        return await api.create_events(uris, extra or {"id": "a"})
    finally:
        await api.close()


async def test_signs_in_once_for_many_events(airflow_api: tuple[FakeAirflow, str]) -> None:
    airflow, url = airflow_api
    airflow.use(used())
    api = AirflowApi(user(url))
    assert await asyncio.gather(*(api.create_events([used()], {"n": n}) for n in range(30))) == [1] * 30
    await api.close()
    assert sorted(event["n"] for event in airflow.events) == list(range(30))
    assert airflow.calls.count(LIST) == 1


async def test_signs_in_again_where_the_token_has_expired(airflow_api: tuple[FakeAirflow, str]) -> None:
    airflow, url = airflow_api
    airflow.use(used())
    api = AirflowApi(user(url))
    assert await api.create_events([used()], {}) == 1
    airflow.tokens.append("token-2")
    assert await api.create_events([used()], {}) == 1
    assert airflow.calls.count(SIGN_IN) == 2
    await api.close()


async def test_uses_a_given_token_and_no_user(airflow_api: tuple[FakeAirflow, str]) -> None:
    airflow, url = airflow_api
    airflow.use(used())
    assert await create(Settings(url, token="token-1"), used()) == 1
    with pytest.raises(AirflowApiError, match=r"401 .*check the credentials"):
        await create(Settings(url, token="old"), used())
    assert SIGN_IN not in airflow.calls


async def test_finds_airflow_below_a_path() -> None:
    airflow = FakeAirflow()
    airflow.use(used())
    with serving(below("/team/airflow", airflow.app())) as port:
        assert await create(user(f"http://127.0.0.1:{port}/team/airflow"), used()) == 1


async def test_finds_one_asset_among_many(airflow_api: tuple[FakeAirflow, str]) -> None:
    airflow, url = airflow_api
    airflow.use(*(used(conn_id=f"team_{number}") for number in range(250)))
    assert await create(user(url), used(conn_id="team_249"), used(conn_id="team_7")) == 2
    assert airflow.calls.count(LIST) == 3


async def test_looks_an_id_up_again_where_airflow_does_not_know_it(
    airflow_api: tuple[FakeAirflow, str],
) -> None:
    airflow, url = airflow_api
    airflow.use(used())
    api = AirflowApi(user(url))
    await api.create_events([used()], {})
    airflow.assets[used()] = 77  # all DAGs that used it were removed, and one came back
    assert await api.create_events([used()], {}) == 1
    del airflow.assets[used()]
    assert await api.create_events([used()], {}) == 0
    await api.close()


async def test_an_asset_that_is_listed_but_takes_no_events_is_a_failure(
    airflow_api: tuple[FakeAirflow, str],
) -> None:
    """For example, if a proxy lets only reads pass. The event must be delivered again."""
    airflow, url = airflow_api
    airflow.use(used())
    airflow.responses[CREATE] = web_page(404)
    with pytest.raises(AirflowApiError, match="404"):
        await create(user(url), used())
    assert airflow.calls.count(CREATE) == 2


async def test_sees_an_asset_that_is_new_after_some_seconds(
    airflow_api: tuple[FakeAirflow, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow, url = airflow_api
    unknown_seconds = "airflow_provider_magichour.webhooks.airflow_api.UNKNOWN_SECONDS"
    monkeypatch.setattr(unknown_seconds, 600)  # the machine may be slow
    api = AirflowApi(user(url))
    for _ in range(3):
        assert await api.create_events([used(), used(conn_id="x")], {}) == 0
    assert airflow.calls.count(LIST) == 1
    airflow.use(used())
    monkeypatch.setattr(unknown_seconds, 0)
    assert await api.create_events([used(), used(conn_id="x")], {}) == 1
    await api.close()


async def test_an_airflow_that_is_too_slow_still_gets_what_it_can_take(
    airflow_api: tuple[FakeAirflow, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten a second instead of fifty; the ids have to be looked up again meanwhile."""
    airflow, url = airflow_api
    airflow.use(used())
    airflow.delay = 0.1
    monkeypatch.setattr(module, "UNKNOWN_SECONDS", 0.2)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.5)
    api = AirflowApi(dataclasses.replace(user(url), parallel=1))

    async def deliver() -> bool:
        try:
            async with asyncio.timeout(10):
                return await api.create_events([used(), used(conn_id="x")], {}) == 1
        except TimeoutError:
            return False

    deliveries: list[asyncio.Task[bool]] = []
    ends = time.monotonic() + 120
    while len(deliveries) < 150 or (len(airflow.events) < 20 and time.monotonic() < ends):
        deliveries.append(asyncio.create_task(deliver()))
        await asyncio.sleep(0.02)
    accepted = sum(await asyncio.gather(*deliveries))
    await api.close()
    assert 15 <= accepted < len(deliveries)
    assert len(airflow.events) - accepted <= 2  # no event of a delivery that was given up


async def test_calls_an_airflow_on_this_machine_past_the_environments_proxy(
    airflow_api: tuple[FakeAirflow, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow, url = airflow_api
    airflow.use(used())
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert await create(user(url), used()) == 1


async def test_names_what_does_not_respond() -> None:
    with pytest.raises(
        AirflowApiError, match=r"no response from .*http://u:\[secure\]@127.0.0.1:1'\): ConnectError"
    ):
        await create(user("http://u:p4ss@127.0.0.1:1"), used())


def test_never_shows_credentials() -> None:
    settings = Settings("http://x", token="tok-1", username="u", password="pw-1", secrets={"a": (b"sec-1",)})
    assert not {"tok-1", "pw-1", "sec-1"} & set(repr(settings).replace("'", " ").replace('"', " ").split())
    assert module.UNKNOWN_SECONDS <= 5  # deliveries for a new DAG are dropped for no longer

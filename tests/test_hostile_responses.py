"""Hostile responses of the API: endless, huge, forged, or with values that no database or log can store."""

from __future__ import annotations

import functools
import json
import time
import traceback
from collections.abc import Callable
from html import escape
from typing import Any
from urllib.parse import quote

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._client import api, retry
from airflow_provider_magichour._client.sanitize import MAX_QUOTED, Mask
from airflow_provider_magichour._client.settings import Settings
from airflow_provider_magichour._client.throttle import Throttle
from airflow_provider_magichour._client.transport import Sender
from airflow_provider_magichour._polling.status import classify_response
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.dripping import DRIPS, dripping_server
from tests.support.scripted_server import Reply, ScriptedServer
from tests.support.senders import KEY, Send, send_async, settings_for

GET = api.get_project("image", "abc")
CREATE = api.create_project("text-to-video", {"end_seconds": 5})

one_attempt = functools.partial(settings_for, max_attempts=1)


# ---------------------------------------------------------------------------------------------- endless


@pytest.mark.timeout(150)
@pytest.mark.parametrize("drip", DRIPS)
def test_dripping_response_ends_at_the_timeout(send: Send, drip: str) -> None:
    with dripping_server(*DRIPS[drip]) as server:
        settings = Settings(api_key=KEY, base_url=server.url, timeout=0.4, max_attempts=1)
        with pytest.raises(errors.MagicHourConnectionError):
            send(settings, GET)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("drip", DRIPS)
def test_dripping_response_to_a_create_call_is_uncertain(drip: str) -> None:
    with dripping_server(*DRIPS[drip]) as server:
        settings = Settings(api_key=KEY, base_url=server.url, timeout=0.4, max_attempts=3)
        with pytest.raises(errors.MagicHourUncertainSubmitError):
            Sender(settings).send(CREATE)
        until = time.monotonic() + 60
        while not server.asked and time.monotonic() < until:
            time.sleep(0.02)
        assert server.asked == 1


def test_huge_retry_after_does_not_delay_the_next_call(
    server: ScriptedServer, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []
    monkeypatch.setattr(Throttle, "pause", lambda self, seconds: paused.append(seconds))
    server.script(Reply(429, headers={"Retry-After": "999999999"}))
    with pytest.raises(errors.MagicHourRateLimitError):
        send(one_attempt(server, max_attempts=3), GET)
    assert max(paused, default=0.0) <= retry.MAX_RETRY_AFTER


# ------------------------------------------------------------------------------------------ what is said

FORGED = "rendering\n[2026-11-21] INFO - all is well\x1b[2K"


def classify(project: dict[str, Any]) -> Any:
    return classify_response(GET, api.Response(200, {}, json.dumps({"id": "abc", **project}).encode()))


@pytest.mark.parametrize("status", [FORGED, "x" * (api.MAX_STATUS + 1), "\u202eetelpmoc"])
def test_status_is_one_bounded_word(status: str) -> None:
    check = classify({"status": status})
    assert check.project is None
    assert str(check.transient_error).isprintable()
    assert classify({"status": "a newer one"}).project


def test_failure_message_is_one_bounded_line() -> None:
    check = classify({"status": "error", "error": {"code": FORGED, "message": FORGED * 1000}})
    error = api.project_error(check.project)
    assert isinstance(error, errors.MagicHourProjectFailedError)
    assert str(error).isprintable()
    assert len(str(error)) < 3 * MAX_QUOTED


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ('"a\\u0000b"', "a\ufffdb"),  # PostgreSQL's jsonb takes no NUL
        ('"a\\ud800b"', "a\ufffdb"),  # and no half of a character
        ("1e999", None),
        ("NaN", None),
        ("[" * 100 + "]" * 100, None),
        ("9" * 5000, None),
    ],
    ids=["NUL", "half a character", "infinite", "NaN", "deep", "long number"],
)
def test_unstorable_characters_are_replaced(said: str, kept: str | None) -> None:
    body = f'{{"id": "abc", "status": "complete", "name": {said}}}'.encode()
    check = classify_response(GET, api.Response(200, {}, body))
    if kept is None:
        assert check.project is None
        assert "not JSON" in str(check.transient_error)
    else:
        assert check.project
        assert check.project["name"] == kept


@pytest.mark.parametrize("said", ["1e999", "NaN", "[" * 100 + "]" * 100], ids=["infinite", "NaN", "deep"])
def test_id_of_a_create_call_is_kept_whatever_the_status(said: str) -> None:
    body = f'{{"id": "abc", "credits_charged": {said}}}'.encode()
    assert api.result(CREATE, api.Response(200, {}, body)) == {"id": "abc"}


def test_id_in_an_unreadable_response_is_uncertain() -> None:
    body = f'{{"id": "abc", "credits_charged": {"9" * 5000}}}'.encode()
    with pytest.raises(errors.MagicHourUncertainSubmitError):
        api.result(CREATE, api.Response(200, {}, body))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_proxy_error_page_does_not_end_a_wait(status: int) -> None:
    page = classify_response(
        GET, api.Response(status, {"retry-after": "7"}, b"<html>Sign in to the network</html>")
    )
    assert (page.error, page.retry_after) == (None, 7.0)
    assert "Sign in to the network" in str(page.transient_error)
    assert classify_response(GET, api.Response(status, {}, b'{"message": "no"}')).error is not None
    assert classify_response(GET, api.Response(status, {}, b"")).error is None


def test_wait_continues_through_a_proxy_error_page(
    server: ScriptedServer, connect: Callable[..., str]
) -> None:
    page = Reply(404, b"<html>no such host</html>")
    server.script(page, page, Reply(body={"id": "abc", "status": "complete"}))
    connect(server.url, KEY)
    assert MagicHourHook().wait_for_project("image", "abc", 60, poll_interval=0.05)["status"] == "complete"


# ----------------------------------------------------------------------------------------------- the key

ODD_KEY = 'mhk_/"live"&<very>\\secret+=='

ECHOES: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": lambda key: json.dumps(key)[1:-1],
    "JSON of PHP": lambda key: json.dumps(key)[1:-1].replace("/", "\\/"),
    "HTML": escape,
    "HTML, slashes too": lambda key: escape(key).replace("/", "&#x2F;"),
    "query": lambda key: quote(key, safe=""),
    "path": quote,
    "escaped JSON": lambda key: "".join(f"\\u{ord(c):04x}" for c in key),
    "escaped JSON, capitals": lambda key: "".join(f"\\u{ord(c):04X}" for c in key),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("key", [KEY, ODD_KEY])
@pytest.mark.parametrize("echo", ECHOES)
def test_echoed_key_is_masked(server: ScriptedServer, send: Send, echo: str, key: str, encoding: str) -> None:
    body = f'{{"message": "cannot read {ECHOES[echo](key)}"}}'.encode(encoding)
    server.respond = lambda seen: Reply(400, body)
    with pytest.raises(errors.MagicHourApiError, match="cannot read") as caught:
        send(one_attempt(server, api_key=key), GET)
    told = f"{caught.value} {caught.value!r}"
    assert not any(each(key) in told for each in ECHOES.values())


def test_key_in_a_redirect_is_masked(server: ScriptedServer, send: Send) -> None:
    server.script(Reply(302, headers={"Location": f"https://login.invalid/?was={KEY}"}))
    with pytest.raises(errors.MagicHourApiError, match="redirect") as caught:
        send(one_attempt(server), GET)
    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("request_", [GET, CREATE], ids=["GET", "POST"])
def test_key_in_a_broken_response_is_masked(send: Send, request_: api.Request) -> None:
    if request_ is CREATE and send is send_async:
        pytest.skip("calls that cost are never sent this way")
    with dripping_server(f"Authorization: Bearer {KEY}\r\n\r\n".encode(), b"") as server:
        settings = Settings(api_key=KEY, base_url=server.url, timeout=4, max_attempts=1)
        with pytest.raises(errors.MagicHourError) as caught:
            send(settings, request_)
    told = "".join(traceback.format_exception(caught.value))
    assert KEY not in told
    assert "***" in str(caught.value)


def test_exception_cause_without_the_key_is_kept() -> None:
    error = ValueError("plain")
    assert Mask(KEY).cause(error) is error
    error.__cause__ = OSError(f"Bearer {KEY}")
    assert Mask(KEY).cause(error) is None


# ------------------------------------------------------------------------------------------- the caller's


@pytest.mark.parametrize("params", ["abc", 7, ["ab"], {1: 2}])
def test_query_that_is_no_dict_is_refused(params: Any) -> None:
    with pytest.raises(errors.MagicHourArgumentError, match="params"):
        api.custom("GET", "/v1/x", params=params)

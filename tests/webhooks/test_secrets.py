"""The secrets of a connection, and how long they are kept."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import pytest

from airflow_provider_magichour.webhooks.secrets import MAX_KEPT, MAX_STRANGERS, SecretsCache, split_secrets


@pytest.mark.parametrize(
    ("value", "secrets"),
    [
        ("one", (b"one",)),
        (" old , new ", (b"old", b"new")),
        (["old", "new,er", ""], (b"old", b"new,er")),
        ("", ()),
        (" , ", ()),
        (None, ()),
        ([], ()),
        ([1, None], ()),
        (True, ()),
        ({"a": "b"}, ()),
    ],
)
def test_webhook_secret_is_one_or_several(value: Any, secrets: tuple[bytes, ...]) -> None:
    assert split_secrets(value) == secrets


@dataclass
class CountedLookUp:
    """Finds a secret for connections called ``known...``, and counts how often it is asked."""

    asked: int = 0
    delay: float = 0.0
    error: Exception | None = None

    def __call__(self, conn_id: str) -> tuple[bytes, ...]:
        self.asked += 1
        time.sleep(self.delay)
        if self.error:
            raise self.error
        return (b"s",) if conn_id.startswith("known") else ()


def test_secrets_are_looked_up_once_in_a_while() -> None:
    async def check() -> None:
        now = [0.0]
        look_up = CountedLookUp(delay=0.05)
        cache = SecretsCache(look_up, lambda: now[0])
        assert await asyncio.gather(*(cache.get("known") for _ in range(50))) == [(b"s",)] * 50
        assert look_up.asked == 1
        now[0] = 4.9
        assert await cache.get("known") == (b"s",)
        assert look_up.asked == 1
        now[0] = 5.1
        assert await cache.get("known") == (b"s",)
        assert look_up.asked == 2

    asyncio.run(check())


def test_strangers_cannot_make_us_look_up_without_end() -> None:
    async def check() -> None:
        now = [0.0]
        look_up = CountedLookUp(delay=0.01)
        cache = SecretsCache(look_up, lambda: now[0])
        assert await cache.get("known") == (b"s",)
        now[0] = 100.0  # so that the known one must be looked up again, too
        flood = [cache.get(f"unknown{number}") for number in range(500)]
        *refused, known = await asyncio.gather(*flood, cache.get("known"))
        assert not any(refused)
        assert known == (b"s",)
        assert look_up.asked <= 2 + MAX_STRANGERS

    asyncio.run(check())


def test_what_is_kept_is_bounded() -> None:
    async def check() -> None:
        cache = SecretsCache(CountedLookUp())
        for number in range(MAX_KEPT + 50):
            await cache.get(f"c{number}")
        assert len(cache._kept) == MAX_KEPT

    asyncio.run(check())


@pytest.mark.parametrize("conn_id", ["", "a b", "a\x00", "ä", "a" * 201, "a/b", "%", "a\nb"])
def test_what_cannot_be_a_connection_id_is_not_looked_up(conn_id: str) -> None:
    look_up = CountedLookUp(error=AssertionError("looked up"))
    assert asyncio.run(SecretsCache(look_up).get(conn_id)) == ()


def test_a_failed_look_up_is_not_kept() -> None:
    async def check() -> None:
        look_up = CountedLookUp(error=OSError("down"))
        cache = SecretsCache(look_up)
        with pytest.raises(OSError, match="down"):
            await cache.get("known")
        look_up.error = None
        assert await cache.get("known") == (b"s",)

    asyncio.run(check())

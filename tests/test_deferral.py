"""What a deferral has to fit into: one trigger's arguments, on every database."""

from __future__ import annotations

import json
import logging
import time

import pytest

from airflow_provider_magichour._polling.deferral import (
    MAX_STORED_BYTES,
    log_deferral,
    split_ids,
    stored_bytes,
)
from airflow_provider_magichour.triggers import MagicHourGenerateTrigger

IDS = [f"cmgx1y2z3{number:06d}abcdefghij" for number in range(10_000)]


def encrypted(trigger: MagicHourGenerateTrigger) -> str:
    """Return what Airflow stores of a trigger's arguments, with a Fernet key."""
    from airflow.models.trigger import Trigger

    return str(Trigger(*trigger.serialize()).encrypted_kwargs)


@pytest.mark.parametrize("number_of_ids", [1, 1_000, 10_000])
def test_each_part_fits_into_the_column_of_mysql(number_of_ids: int) -> None:
    parts = split_ids(IDS[:number_of_ids])
    assert [one for part in parts for one in part] == IDS[:number_of_ids]
    for part in parts:
        trigger = MagicHourGenerateTrigger(
            "video", part, "c" * 250, time.time(), 12.5, tool="text-to-video", submitted_at=time.time()
        )
        assert len(encrypted(trigger)) <= MAX_STORED_BYTES


def test_ids_that_fit_are_not_split() -> None:
    assert len(split_ids(IDS[:1_200])) == 1
    assert len(split_ids(IDS)) <= 10


@pytest.mark.parametrize("plain", [0, 1, 15, 16, 17, 1000, 44_444])
def test_length_of_encrypted_text_is_known(plain: int) -> None:
    from cryptography.fernet import Fernet

    assert len(Fernet(Fernet.generate_key()).encrypt(b"x" * plain)) == stored_bytes(plain)


def test_log_says_until_when_the_task_waits_in_the_triggerer(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_deferral(logging.getLogger("test"), 1795255200 - 1795255200 % 86400 + 86400 * 365 + 3600)
    assert "Waiting in the triggerer until" in caplog.text
    assert "01:00 UTC" in caplog.text


def test_plain_json_is_shorter_than_what_is_counted() -> None:
    part = split_ids(IDS)[0]
    assert stored_bytes(len(json.dumps(part))) < MAX_STORED_BYTES

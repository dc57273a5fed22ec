"""Magic Hour's signature of a webhook: how it is read, and what it proves."""

from __future__ import annotations

import contextlib

import hypothesis
import pytest
from hypothesis import strategies as st

from airflow_provider_magichour.webhooks.signatures import (
    SignatureError,
    check_age,
    check_signature,
    read_signature,
    sign,
)
from tests.webhooks.support import signed


def raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def test_a_signature_is_the_one_that_magic_hour_documents() -> None:
    body, headers = b'{"a":1}', signed(b'{"a":1}', "s3cret", "1730742038")
    signature = read_signature(raw(headers))
    assert sign(b"s3cret", b"1730742038", body).hex() == headers["magic-hour-event-signature"]
    check_signature([b"other", b"s3cret"], signature, body)


@pytest.mark.parametrize("secrets", [[], [b""], [b"other"], [b"s3cret "]])
def test_other_secrets_do_not_do(secrets: list[bytes]) -> None:
    with pytest.raises(SignatureError):
        check_signature(secrets, read_signature(raw(signed(b"x", "s3cret"))), b"x")


def test_a_connection_without_a_secret_cannot_be_signed_for() -> None:
    from airflow_provider_magichour.webhooks import signatures

    forged = signed(b"x", signatures._NO_SECRET.decode())
    with pytest.raises(SignatureError):
        check_signature([], read_signature(raw(forged)), b"x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timestamp", ""),
        ("timestamp", "-1"),
        ("timestamp", "1e9"),
        ("timestamp", " 1730742038"),
        ("timestamp", "1730742038\n"),
        ("timestamp", "1" * 13),
        ("timestamp", "١٧٣٠٧٤٢٠٣٨"),
        ("signature", ""),
        ("signature", "ab"),
        ("signature", "g" * 64),
        ("signature", "a" * 65),
        ("signature", "a" * 63),
        ("signature", "a" * 62 + " a"),
        ("signature", "sha256=" + "a" * 64),
    ],
)
def test_headers_are_read_strictly(name: str, value: str) -> None:
    headers = {**signed(b"x"), f"magic-hour-event-{name}": value}
    with pytest.raises(SignatureError):
        read_signature(raw(headers))


@pytest.mark.parametrize("name", ["magic-hour-event-timestamp", "magic-hour-event-signature"])
def test_a_header_is_there_once(name: str) -> None:
    headers = signed(b"x")
    with pytest.raises(SignatureError):
        read_signature([*raw(headers), (name.encode(), headers[name].encode())])
    with pytest.raises(SignatureError):
        read_signature(raw({other: value for other, value in headers.items() if other != name}))


@pytest.mark.parametrize(
    ("age", "fresh"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)]
)
def test_the_timestamp_is_within_five_minutes(age: int, fresh: bool) -> None:
    signature = read_signature(raw(signed(b"x", timestamp="1730742038")))
    with contextlib.nullcontext() if fresh else pytest.raises(SignatureError):
        check_age(signature, 1730742038 + age)


@hypothesis.given(
    st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=80))), st.binary(max_size=200)
)
def test_no_headers_prove_anything_without_the_secret(
    headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    with pytest.raises(SignatureError):
        check_signature([b"s3cret"], read_signature(headers), body)

"""What is concluded from responses of S3 that moto does not give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour._transfer.object_sink import check_open_args
from airflow_provider_magichour._transfer.s3 import open_s3
from airflow_provider_magichour.exceptions import MagicHourArgumentError, MagicHourDownloadError
from tests.support.scripted_server import Reply, ScriptedServer, Seen, scripted_server
from tests.support.stores import connect_s3

pytest.importorskip("s3fs")

WHERE = "s3://aws_test@media/in/here"
OTHER_CLASS = {"StorageClass": "STANDARD_IA"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        connect_s3(server.url, monkeypatch)
        yield server


def refusal(code: str, message: str, status: int = 400) -> Reply:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Reply(status, text.encode(), {"Content-Type": "application/xml"})


def refuses(code: str, message: str, header: str) -> Callable[[Seen], Reply]:
    """Refuse what has a header; take the rest."""
    return lambda seen: refusal(code, message) if header in seen.headers else Reply()


def puts(server: ScriptedServer) -> list[Seen]:
    return [seen for seen in server.seen if seen.method == "PUT"]


def test_bucket_without_acls_is_an_error_of_the_argument(server: ScriptedServer) -> None:
    code, header = "AccessControlListNotSupported", "x-amz-acl"
    server.respond = refuses(code, "The bucket does not allow ACLs", header)
    with pytest.raises(MagicHourArgumentError, match=r"open_args has .*: ACL: .*does not allow"):
        check_open_args(open_destination(WHERE), {"acl": "public-read"})


@pytest.mark.parametrize("code", ["InvalidRequest", "InvalidArgument"])
def test_unclear_refusal_is_blamed_on_open_args_if_the_object_passes_without(
    server: ScriptedServer, code: str
) -> None:
    server.respond = refuses(code, "Not with this class", "x-amz-storage-class")
    with pytest.raises(MagicHourArgumentError, match=r"open_args.*Not with this class"):
        check_open_args(open_destination(WHERE), OTHER_CLASS)
    assert [seen.method for seen in server.seen] == ["PUT", "PUT"]


@pytest.mark.parametrize("code", ["InvalidRequest", "InvalidArgument"])
def test_refusal_of_any_object_is_not_blamed_on_open_args(server: ScriptedServer, code: str) -> None:
    server.respond = lambda seen: refusal(code, "Please use AWS4-HMAC-SHA256.")
    with pytest.raises(MagicHourDownloadError, match=r"could not be stored: .*AWS4-HMAC-SHA256") as caught:
        check_open_args(open_destination(WHERE), OTHER_CLASS)
    assert "open_args" not in str(caught.value)
    assert len(puts(server)) == 2


@pytest.mark.parametrize(
    ("code", "status", "cure"),
    [
        ("KMS.ThrottlingException", 400, "run the task again later"),
        ("KMS.KMSInternalException", 500, "could not be stored"),
        ("SlowDown", 503, "run the task again later"),
        ("AccessDenied", 403, "the worker may not write there"),
    ],
)
def test_store_that_is_busy_or_forbidden_is_not_blamed_on_open_args(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, code: str, status: int, cure: str
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    server.respond = lambda seen: refusal(code, "You have exceeded the rate", status)
    with pytest.raises(MagicHourDownloadError, match=cure) as caught:
        check_open_args(open_destination(WHERE), {"ServerSideEncryption": "aws:kms"})
    assert "open_args" not in str(caught.value)


@pytest.mark.parametrize("code", ["KMS.NotFoundException", "KMS.DisabledException"])
def test_key_of_kms_that_cannot_be_used_is_blamed_on_open_args(server: ScriptedServer, code: str) -> None:
    server.respond = lambda seen: refusal(code, "Key 'arn:aws:kms:x' does not exist")
    with pytest.raises(MagicHourArgumentError, match=r"open_args.*arn:aws:kms:x"):
        check_open_args(open_destination(WHERE), {"SSEKMSKeyId": "arn:aws:kms:x"})


@pytest.mark.parametrize("name", ["IfNoneMatch", "IfMatch"])
def test_conditions_are_not_tried(server: ScriptedServer, name: str) -> None:
    server.respond = lambda seen: (
        refusal("PreconditionFailed", "no", 412) if "if-" in str(list(seen.headers)) else Reply()
    )
    check_open_args(open_destination(WHERE), {name: "*", **OTHER_CLASS})
    (put,) = puts(server)
    assert put.headers["x-amz-storage-class"] == "STANDARD_IA"


def absent(url: str) -> set[str]:
    storage = open_destination(url)
    store = open_s3(storage, {})
    assert store
    try:
        return store.absent(storage.full(""), ["p1", "p2", "p3"])
    finally:
        store.close()


def listing(*, keys: Any = (), folders: Any = (), truncated: bool = True) -> Reply:
    parts = [f"<Contents><Key>in/here/{one}</Key></Contents>" for one in keys]
    parts += [f"<CommonPrefixes><Prefix>in/here/{one}/</Prefix></CommonPrefixes>" for one in folders]
    parts.append(f"<IsTruncated>{str(truncated).lower()}</IsTruncated>")
    text = f"<ListBucketResult>{''.join(parts)}</ListBucketResult>"
    return Reply(200, text.encode(), {"Content-Type": "application/xml"})


@pytest.mark.parametrize(
    ("page", "known"),
    [
        ({"folders": ["p2", "z"]}, {"p1", "p3"}),
        ({"folders": ["z", "p2"]}, set()),
        ({"keys": ["z", "p2.json"]}, set()),
        ({"folders": ["z", "p2"], "truncated": False}, {"p1", "p3"}),
    ],
)
def test_page_in_no_order_tells_nothing_of_what_follows(
    server: ScriptedServer, page: dict[str, Any], known: set[str]
) -> None:
    server.respond = lambda seen: listing(**page)
    assert absent(WHERE) == known


def test_lists_of_s3_express_tell_nothing(server: ScriptedServer) -> None:
    server.respond = lambda seen: listing(folders=["z"])
    assert absent("s3://aws_test@media--use1-az4--x-s3/in/here") == set()
    assert server.seen == []

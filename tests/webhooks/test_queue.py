"""The way through a message queue: what the docs show, from a gateway's request to the DAG's projects."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_magichour.webhooks import queued_projects
from scripts.dist import ROOT
from tests.webhooks.support import event_body, signed
from tests.webhooks.test_program import block

moto_server = pytest.importorskip("moto.server")
pytest.importorskip("airflow.providers.common.messaging", reason="needs Airflow 3 and `make install`")


@pytest.fixture
def queue_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A queue of SQS on this machine, for boto3 and for Airflow's connection."""
    import boto3

    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    aws = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    for name, value in aws.items():
        monkeypatch.setenv("AWS_DEFAULT_REGION" if name == "region_name" else name.upper(), value)
    connection = {
        "conn_type": "aws",
        "login": "test",
        "password": "test",
        "extra": {"endpoint_url": endpoint, "region_name": "us-east-1"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
    monkeypatch.setenv("SQS_ENDPOINT", endpoint)
    url = boto3.client("sqs", endpoint_url=endpoint).create_queue(QueueName="webhooks")["QueueUrl"]
    monkeypatch.setenv("QUEUE_URL", url)
    yield url
    server.stop()


def run_code(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(ast.parse(code), str(ROOT / "docs" / "webhooks.md"), "exec"), names)  # noqa: S102  # our own page
    return names


@pytest.mark.usefixtures("airflow_db")
async def test_gateway_queue_and_dag_of_the_docs_work_together(
    queue_url: str, connect: Callable[..., str]
) -> None:
    connect("http://127.0.0.1:1", "mhk_test_key", webhook_secret="whsec_queue")
    handler = run_code(block("python", "send_message"))["handler"]
    for project_id, secret in (("cm1", "whsec_queue"), ("forged", "guessed"), ("cm1", "whsec_queue")):
        body = event_body(project_id=project_id, name="ä")
        request = {"headers": signed(body, secret), "body": body.decode(), "isBase64Encoded": False}
        assert handler({**request, "requestContext": {}}, None)["statusCode"] == 200

    code = block("python", "MessageQueueTrigger")
    page = run_code(
        code.replace("https://sqs.eu-central-1.amazonaws.com/123456789012/magichour-webhooks", queue_url)
    )
    assert [watcher.name for watcher in page["QUEUE"].watchers] == ["magichour_queue"]
    trigger = page["trigger"].trigger  # what the triggerer runs
    assert trigger.sqs_queue == queue_url
    async for fired in trigger.run():
        event = type("AssetEvent", (), {})()
        event.extra = json.loads(json.dumps({"from_trigger": True, "payload": fired.payload}, default=str))
        event.timestamp = datetime.now(UTC)
        break
    projects = queued_projects({page["QUEUE"]: [event]}, "magichour_default", "completed")
    assert [(each["id"], each["kind"], each["magichour_conn_id"]) for each in projects] == [
        ("cm1", "video", "magichour_default")
    ]

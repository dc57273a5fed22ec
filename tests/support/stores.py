"""
The ``object_store`` fixture: the same test on S3, Azure and Google Cloud Storage, each over a socket.

S3 is moto, a thread of the test process. Azurite (npm) and the Google emulator (PyPI) run in processes of
their own and are installed by ``make test-stores``; their tests have the mark ``stores``.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from scripts.local.processes import Processes, free_port

ROOT = Path(__file__).resolve().parents[2]
AZURITE = ROOT / ".stores" / "node_modules" / ".bin" / "azurite-blob"
#: The account and key that every Azurite has.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

#: The emulator, taught what it lacks: the end of a resumable upload that is given up.
_RUN_GCS = """
from http import HTTPStatus
from gcp_storage_emulator import server
from gcp_storage_emulator.__main__ import main

def abort(request, response, storage, *args, **kwargs):
    response.status = HTTPStatus.NO_CONTENT

for path, handlers in server.HANDLERS:
    if "upload" in path:
        handlers["DELETE"] = abort
main()
"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run: ``make test-stores`` installs the emulators."""
    if AZURITE.exists() and find_spec("gcp_storage_emulator"):
        return
    marks = ((item, item.get_closest_marker("stores")) for item in items)
    left_out = [item for item, mark in marks if mark and mark.kwargs.get("emulators", True)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


class Store(ABC):
    """
    A bucket of its own for one test.

    :param url: a folder in it, as a destination: ``s3://aws_test@bucket/in/here``.
    :param root: the bucket, as a destination.
    """

    #: The folder of ``url``.
    FOLDER = "in/here"

    def __init__(self, bucket: str, root: str) -> None:
        self.bucket = bucket
        self.root = root
        self.url = f"{root}/{self.FOLDER}"

    @abstractmethod
    def keys(self) -> list[str]:
        """Return the names of all objects in the bucket, sorted."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return an object."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Write an object."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object."""

    @abstractmethod
    def content_type(self, key: str) -> str | None:
        """Return an object's content type."""

    @abstractmethod
    def metadata(self, key: str) -> dict[str, str]:
        """Return an object's own metadata."""

    def visible(self) -> list[str]:
        """Return the names of the objects below ``url``, relative to it, that are not hidden."""
        start = f"{self.FOLDER}/"
        below = [key.removeprefix(start) for key in self.keys() if key.startswith(start)]
        return [key for key in below if "/." not in f"/{key}" and not key.startswith("magichour-catalog/")]


class S3Store(Store):
    """A bucket in moto, with the boto3 ``client`` and the ``endpoint`` of it."""

    def __init__(self, bucket: str, endpoint: str) -> None:
        import boto3

        super().__init__(bucket, f"s3://aws_test@{bucket}")
        self.endpoint = endpoint
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self.client.create_bucket(Bucket=bucket)

    def keys(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return sorted(one["Key"] for page in pages for one in page.get("Contents", []))

    def read(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def write(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)

    def head(self, key: str) -> dict[str, Any]:
        """Return all that S3 says of an object."""
        return dict(self.client.head_object(Bucket=self.bucket, Key=key))

    def content_type(self, key: str) -> str | None:
        return self.head(key).get("ContentType")

    def metadata(self, key: str) -> dict[str, str]:
        return dict(self.head(key)["Metadata"])

    def unfinished_uploads(self) -> list[dict[str, Any]]:
        """Return the multipart uploads that were neither completed nor aborted."""
        return list(self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", []))

    def remove(self) -> None:
        """Forget all buckets, however many objects they hold."""
        urlopen(f"{self.endpoint}/moto-api/reset", data=b"").close()  # noqa: S310  # our own server


class FsspecStore(Store):
    """A bucket at one of the other stores, seen by a file system of the tests' own."""

    def __init__(self, bucket: str, protocol: str, **options: Any) -> None:
        import fsspec

        super().__init__(bucket, f"{protocol}://{bucket}")
        self.fs = fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False, **options)
        self.fs.mkdir(bucket)

    def keys(self) -> list[str]:
        self.fs.invalidate_cache()
        found = self.fs.find(self.bucket, withdirs=False)
        return sorted(str(one).removeprefix(f"{self.bucket}/") for one in found)

    def read(self, key: str) -> bytes:
        return bytes(self.fs.cat_file(f"{self.bucket}/{key}"))

    def write(self, key: str, data: bytes) -> None:
        self.fs.pipe_file(f"{self.bucket}/{key}", data)

    def delete(self, key: str) -> None:
        self.fs.rm_file(f"{self.bucket}/{key}")

    def _info(self, key: str) -> dict[str, Any]:
        self.fs.invalidate_cache()
        return dict(self.fs.info(f"{self.bucket}/{key}"))

    def content_type(self, key: str) -> str | None:
        info = self._info(key)
        return info.get("contentType") or (info.get("content_settings") or {}).get("content_type")

    def metadata(self, key: str) -> dict[str, str]:
        return dict(self._info(key).get("metadata") or {})


def _wait_for_port(port: int, processes: Processes, name: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline or not processes.is_running(name):
                pytest.fail(f"{name} does not start:\n{processes.log_text(name)[-2000:]}")
            time.sleep(0.05)
        else:
            return


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of a local S3."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The connection string of a local Azure Blob Storage."""
    folder, port = tmp_path_factory.mktemp("azurite"), free_port()
    with Processes(folder / "logs", dict(os.environ)) as processes:
        options = ["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--location", str(folder)]
        processes.start("azurite", [str(AZURITE), "--blobPort", str(port), *options])
        _wait_for_port(port, processes, "azurite")
        endpoint = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
        yield (
            f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};"
            f"BlobEndpoint={endpoint};"
        )


@pytest.fixture(scope="session")
def gcs_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a local Google Cloud Storage."""
    # Read by gcsfs when it is imported: its newer calls are gRPC, which no emulator has.
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    port = free_port()
    folder = tmp_path_factory.mktemp("gcs")
    with Processes(folder / "logs", dict(os.environ)) as processes:
        options = ["start", f"--port={port}", "--host=127.0.0.1", "--in-memory"]
        processes.start("gcs", [sys.executable, "-c", _RUN_GCS, *options])
        _wait_for_port(port, processes, "gcs")
        yield f"http://127.0.0.1:{port}"


def connect_s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the connection ``aws_test`` lead to a local S3."""
    _forget_file_systems(monkeypatch)
    connection = {
        "conn_type": "aws",
        "login": "test",
        "password": "test",
        "extra": {"endpoint_url": endpoint, "region_name": "us-east-1"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_AWS_TEST", json.dumps(connection))


def requests_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return a list that each request to a local S3 is added to as it is sent: its method and its path."""
    import aiohttp
    from botocore.httpsession import URLLib3Session

    sent: list[tuple[str, str]] = []
    request, send = aiohttp.ClientSession._request, URLLib3Session.send

    def note(method: str, url: str) -> None:
        if url.startswith(endpoint):
            sent.append((method, url.removeprefix(endpoint)))

    async def note_s3fs(self: Any, method: str, url: Any, **options: Any) -> Any:
        note(method, str(url))
        return await request(self, method, url, **options)

    def note_boto3(self: Any, prepared: Any) -> Any:
        note(prepared.method, prepared.url)
        return send(self, prepared)

    monkeypatch.setattr(aiohttp.ClientSession, "_request", note_s3fs)
    monkeypatch.setattr(URLLib3Session, "send", note_boto3)
    return sent


@pytest.fixture
def s3_store(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """A bucket in a local S3, and the connection ``aws_test`` to it."""
    connect_s3(s3_endpoint, monkeypatch)
    store = S3Store(f"b{uuid.uuid4().hex}", s3_endpoint)
    yield store
    store.remove()


@pytest.fixture
def azure_store(azurite: str, monkeypatch: pytest.MonkeyPatch) -> FsspecStore:
    """A container in a local Azure Blob Storage."""
    _forget_file_systems(monkeypatch)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite)
    return FsspecStore(f"b{uuid.uuid4().hex}", "abfs", connection_string=azurite)


@pytest.fixture
def gcs_store(gcs_emulator: str, monkeypatch: pytest.MonkeyPatch) -> FsspecStore:
    """A bucket in a local Google Cloud Storage."""
    import fsspec

    _forget_file_systems(monkeypatch)
    options = {"endpoint_url": gcs_emulator, "token": "anon", "project": "test"}
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_emulator)
    monkeypatch.setitem(fsspec.config.conf, "gs", options)
    monkeypatch.setitem(fsspec.config.conf, "gcs", options)
    return FsspecStore(f"b{uuid.uuid4().hex}", "gs", **options)


def _forget_file_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Airflow open its file systems again, with this test's connections."""
    try:
        from airflow.sdk.io import store
    except ImportError:
        from airflow.io import store  # type: ignore[no-redef]
    monkeypatch.setattr(store, "_STORE_CACHE", {})


@pytest.fixture(
    params=[
        "s3",
        pytest.param("azure", marks=pytest.mark.stores),
        pytest.param("gcs", marks=pytest.mark.stores),
    ]
)
def object_store(request: pytest.FixtureRequest) -> Store:
    """A bucket of its own in each of the object stores, in turn."""
    found = request.getfixturevalue(f"{request.param}_store")
    assert isinstance(found, Store)
    return found

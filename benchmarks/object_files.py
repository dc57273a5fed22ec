"""Files to and from object storage, against boto3 and requests: rows of ``python -m benchmarks.files``."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.file_server import file_server
from benchmarks.report import Figure, at_least, at_most
from scripts.local.processes import free_port

if TYPE_CHECKING:
    from benchmarks.files import Bench

MIB = 1024 * 1024
GIB = 1024 * MIB
IMAGE = 200_000
RATE = 40_000_000


@contextmanager
def store_server(rate: int, latency: str) -> Iterator[str]:
    """Run an S3 in its own process, give its URL, and let children find it."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.store_server", str(port), str(rate), latency]
    process = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    extra = {"endpoint_url": url, "region_name": "us-east-1"}
    connection = {"conn_type": "aws", "login": "x", "password": "x", "extra": extra}
    os.environ.update(BENCH_S3=url, AIRFLOW_CONN_AWS_BENCH=json.dumps(connection))
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()


def _boto3(connections: int) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=os.environ["BENCH_S3"],
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
        config=Config(max_pool_connections=connections),
    )


def _requests(connections: int) -> Any:
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    session.mount("http://", HTTPAdapter(pool_connections=connections, pool_maxsize=connections))
    return session


# ------------------------------------------------------------------------------- one side, in a child


def objects_ours(_target: str, parallel: str, *ids: str) -> None:
    """Download projects with the hook into S3."""
    from benchmarks.files import hook, measured

    mine = hook()
    mine.download_project("image", "1.1000.0.0.warm", "s3://aws_bench@media/warm")
    options = {"parallel": int(parallel)} if parallel != "default" else {}
    with measured():
        mine.download_project("image", list(ids), "s3://aws_bench@media/out", **options)


def objects_boto3(_target: str, parallel: str, *ids: str) -> None:
    """Read each project, stream its file into S3 by boto3, and put one JSON beside it."""
    from benchmarks.files import measured

    connections = 10 if parallel == "default" else int(parallel)
    client, session = _boto3(connections), _requests(connections)
    client.put_object(Bucket="media", Key="warm", Body=b"x")

    def copy(project_id: str) -> None:
        project = session.get(f"{os.environ['BENCH_URL']}/v1/image-projects/{project_id}", timeout=60).json()
        with session.get(project["downloads"][0]["url"], stream=True, timeout=60) as response:
            if int(response.headers["Content-Length"]) > 8 * MIB:
                client.upload_fileobj(response.raw, "media", f"out/{project_id}/output.png")
            else:
                data = response.content
                client.put_object(Bucket="media", Key=f"out/{project_id}/output.png", Body=data)
        entry = json.dumps({"id": project_id, "bytes": 1}).encode()
        client.put_object(Bucket="media", Key=f"out/{project_id}.json", Body=entry)

    with measured(), ThreadPoolExecutor(connections) as executor:
        list(executor.map(copy, ids))


def upload_ours(_target: str, key: str) -> None:
    """Upload an object of S3 to Magic Hour with the hook."""
    from benchmarks.files import hook, measured

    mine = hook()
    mine.upload_file("s3://aws_bench@media/warm.png")
    with measured():
        mine.upload_file(f"s3://aws_bench@media/{key}")


def upload_boto3(_target: str, key: str) -> None:
    """Upload an object of S3 with boto3 and requests, streamed."""
    from benchmarks.files import measured

    client, session = _boto3(10), _requests(10)

    class Body:
        def __init__(self, stream: Any, size: int) -> None:
            self.read, self._size = stream.read, size

        def __len__(self) -> int:
            return self._size

    with measured():
        api = os.environ["BENCH_URL"]
        given = session.post(f"{api}/v1/files/upload-urls", json={"items": []}, timeout=60).json()
        found = client.get_object(Bucket="media", Key=key)
        session.put(
            given["items"][0]["upload_url"], data=Body(found["Body"], found["ContentLength"]), timeout=60
        )


SIDES: Mapping[str, Callable[..., None]] = {
    one.__name__: one for one in (objects_ours, objects_boto3, upload_ours, upload_boto3)
}

# --------------------------------------------------------------------------------------------- figures


def large_object(bench: Bench) -> list[Figure]:
    """Store 1 GiB in an S3 that takes 40 MB/s per connection: from a fast host, and from one as slow."""
    return [
        *_one_object(bench, 0, "a fast file host", 0.9),
        *_one_object(bench, RATE, "a file host of 40 MB/s per connection", 0.95),
    ]


def _one_object(bench: Bench, host_rate: int, host: str, bar: float) -> list[Figure]:
    from benchmarks.files import ROUNDS

    project_id = bench.project(1, GIB, host_rate)
    mine, theirs = [], []
    with store_server(RATE, "20"):
        for _ in range(ROUNDS):
            mine.append(bench.child("objects_ours", "default", project_id))
            theirs.append(bench.child("objects_boto3", "default", project_id))
    best, their_best = (min(one["seconds"] for one in side) for side in (mine, theirs))
    growth, their_growth = (max(one["growth"] for one in side) / MIB for side in (mine, theirs))
    speeds = f"({GIB / best / 1e6:.0f} MB/s, {GIB / their_best / 1e6:.0f} MB/s)"
    what = f"1 GiB to S3 at 40 MB/s per connection, from {host}"
    return [
        at_least(f"{what}, against boto3's `upload_fileobj` {speeds}: speed", their_best / best, bar, "x"),
        at_most(f"the same: peak memory growth (boto3's: {their_growth:.0f} MiB)", growth, 128, "MiB", 0),
    ]


def small_objects(bench: Bench) -> list[Figure]:
    """Store images of 200 KB where each request takes 20 to 60 ms."""
    from benchmarks.files import ROUNDS

    figures = []
    with store_server(0, "20-60") as url:
        for parallel, count in ((4, 120), (16, 480), (64, 1200)):
            mine, theirs = [], []
            for number in range(ROUNDS):
                ids = [bench.project(1, IMAGE, 0, 20 + n * 7 % 41, f"r{number}n{n}") for n in range(count)]
                mine.append(bench.child("objects_ours", str(parallel), *ids)["seconds"])
                counted = _requests(1).get(f"{url}/requests").json()
                theirs.append(bench.child("objects_boto3", str(parallel), *ids)["seconds"])
                _requests(1).get(f"{url}/requests")
            speeds = f"({count / min(mine):.0f}, {count / min(theirs):.0f} files/s)"
            asked = ", ".join(f"{number / count:.1f} {name}" for name, number in sorted(counted.items()))
            what = f"{count} images of 200 KB to S3, latencies of 20 to 60 ms, parallel={parallel}"
            peer = "requests and boto3's `put_object`"
            name = f"{what}, against {peer} {speeds}: speed; {asked} per file"
            figures.append(at_least(name, min(theirs) / min(mine), 0.9, "x"))
    return figures


def default_parallel(bench: Bench) -> list[Figure]:
    """Store small and large files at several ``parallel``: the default should be near the best of each."""
    rows: dict[str, tuple[float, float, float]] = {}
    with store_server(RATE, "20-60"):
        for parallel in ("4", "8", "16", "32"):
            small = [bench.project(1, IMAGE, 0, 20 + n * 7 % 41, f"s{parallel}n{n}") for n in range(240)]
            large = [bench.project(1, 48 * MIB, 30_000_000, 20, f"l{parallel}n{n}") for n in range(16)]
            few, many = (bench.child("objects_ours", parallel, *ids) for ids in (large, small))
            rows[parallel] = 240 / many["seconds"], 16 * 48 * MIB / few["seconds"] / 1e6, few["growth"] / MIB
    best = max(speed for _, speed, _ in rows.values())
    return [
        at_least(
            f"16 x 48 MiB at 30 MB/s per connection, parallel={parallel}: {speed:.0f} MB/s, {growth:.0f} MiB "
            f"of memory; 240 images: {files:.0f} files/s; of the best speed of large files",
            speed / best,
            0.75 if parallel == "8" else 0,
            "x",
        )
        for parallel, (files, speed, growth) in rows.items()
    ]


def object_upload(bench: Bench) -> list[Figure]:
    """Upload an object of 512 MiB from S3 to a presigned URL, with 40 MB/s per connection on both sides."""
    from benchmarks.files import ROUNDS

    mine, theirs = [], []
    with store_server(RATE, "20") as url, _presigning(bench, url) as uploads:
        _requests(1).put(f"{url}/media/big.png", data=bytes(512 * MIB))
        _requests(1).put(f"{url}/media/warm.png", data=bytes(1000))
        for _ in range(ROUNDS):
            mine.append(uploads.child("upload_ours", "big.png"))
            theirs.append(uploads.child("upload_boto3", "big.png"))
    best, their_best = (min(one["seconds"] for one in side) for side in (mine, theirs))
    growth = max(one["growth"] for one in mine) / MIB
    what = (
        "512 MiB from S3 to a presigned URL, 40 MB/s per connection on both sides, against boto3 and requests"
    )
    speeds = f"({512 * MIB / best / 1e6:.0f} MB/s, {512 * MIB / their_best / 1e6:.0f} MB/s)"
    return [
        at_least(f"{what} {speeds}: speed", their_best / best, 0.95, "x"),
        at_most("the same: peak memory growth", growth, 128, "MiB", 0),
    ]


@contextmanager
def _presigning(bench: Bench, url: str) -> Iterator[Bench]:
    """Run a Magic Hour whose presigned URLs lead to a store."""
    os.environ["BENCH_PUT"] = url
    with file_server(bench.folder / "content") as api:
        yield replace(bench, url=api)


FIGURES: Mapping[str, Callable[[Bench], list[Figure]]] = {
    one.__name__: one for one in (large_object, small_objects, default_parallel, object_upload)
}

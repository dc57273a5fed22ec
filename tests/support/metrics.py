"""Where Airflow sends metrics in a test: a StatsD socket, and a collector of OpenTelemetry."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

PREFIX = "airflow.magichour."


class Metric(NamedTuple):
    """One value of a metric of this package, with its name below ``magichour.``."""

    name: str
    tags: dict[str, str]
    value: float


@contextlib.contextmanager
def statsd_server() -> Iterator[tuple[dict[str, str], list[Metric]]]:
    """Yield the settings for Airflow, and the metrics as they come."""
    found: list[Metric] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.1)
        done = threading.Event()

        def receive() -> None:
            while True:
                is_last = done.is_set()  # what was sent before is received all the same
                ends = time.monotonic() + 30
                with contextlib.suppress(TimeoutError):
                    while time.monotonic() < ends:
                        found.extend(_parse(server.recv(65_536).decode()))
                if is_last:
                    return

        thread = threading.Thread(target=receive)
        thread.start()
        settings = {
            "STATSD_ON": "True",
            "STATSD_HOST": "127.0.0.1",
            "STATSD_PORT": str(server.getsockname()[1]),
            "STATSD_INFLUXDB_ENABLED": "True",
        }
        try:
            yield {f"AIRFLOW__METRICS__{name}": value for name, value in settings.items()}, found
        finally:
            done.set()
            thread.join()


def _parse(packet: str) -> Iterator[Metric]:
    """Read lines such as ``airflow.magichour.credits,kind=image:5|c``."""
    for line in packet.splitlines():
        series, _, value = line.rpartition(":")
        name, *tags = series.split(",")
        if name.startswith(PREFIX):
            pairs = dict(tag.split("=", 1) for tag in tags)
            yield Metric(name.removeprefix(PREFIX), pairs, float(value.partition("|")[0]))


@contextlib.contextmanager
def otel_collector() -> Iterator[tuple[dict[str, str], list[Metric]]]:
    """Yield the settings for Airflow, and the metrics as they come."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (  # type: ignore[import-untyped,unused-ignore]
        ExportMetricsServiceRequest,
    )

    found: list[Metric] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            request: Any = ExportMetricsServiceRequest.FromString(body)
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        found.extend(_points(metric))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    settings = {
        "OTEL_ON": "True",
        "OTEL_HOST": "127.0.0.1",
        "OTEL_PORT": str(server.server_address[1]),
        "OTEL_INTERVAL_MILLISECONDS": "500",
    }
    try:
        yield {f"AIRFLOW__METRICS__{name}": value for name, value in settings.items()}, found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _points(metric: Any) -> Iterator[Metric]:
    """Read a metric, whichever sort of data it has; of a histogram the sum."""
    if not metric.name.startswith(PREFIX):
        return
    for point in getattr(metric, metric.WhichOneof("data")).data_points:
        tags = {tag.key: tag.value.string_value for tag in point.attributes}
        value = getattr(point, "sum", None)
        if value is None:
            value = getattr(point, point.WhichOneof("value"))
        yield Metric(metric.name.removeprefix(PREFIX), tags, float(value))

"""Metrics as Airflow's own Stats sends them, on the wire: StatsD with tags, and OpenTelemetry."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour._client import stats
from airflow_provider_magichour.exceptions import (
    MagicHourError,
    MagicHourProjectCanceledError,
    MagicHourRenderError,
    MagicHourTimeoutError,
)
from airflow_provider_magichour.simulator import Simulator
from tests.support.metrics import Metric, otel_collector, statsd_server

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "airflow_provider_magichour"

#: Tasks in a process of their own, which sets Airflow's metrics up as a task does.
TASKS = """
import sys
try:
    from airflow.sdk.observability import stats
    from airflow.sdk.observability.metrics import stats_utils
except ImportError:  # before 3.2 Airflow sets itself up; 2.11 loses the last interval of OpenTelemetry
    import atexit, time
    atexit.register(time.sleep, 1.5)
else:
    stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=False)
try:
    from airflow.sdk.execution_time.context import set_current_context
except ImportError:
    from airflow.models.taskinstance import set_current_context

from airflow_provider_magichour.exceptions import MagicHourError
from airflow_provider_magichour.operators import MagicHourCreateProjectOperator, MagicHourGenerateOperator
from airflow_provider_magichour.sensors import MagicHourProjectSensor
from tests.support.tasks import task_context

VOICE = {"style": {"prompt": "a secret prompt", "voice_name": "Elon Musk"}}
tool, folder = "ai-voice-generator", sys.argv[1]
options = {"deferrable": False, "poll_interval": 0.1}

def run(task):
    context = task_context(task.task_id, dag_id="media")
    with set_current_context(context):
        try:
            return task.execute(context)
        except MagicHourError as error:
            print(error)

made = run(MagicHourCreateProjectOperator(task_id="create", tool=tool, body=VOICE))
run(MagicHourProjectSensor(task_id="wait", project_id=made["id"], kind="audio", **options))
run(MagicHourGenerateOperator(task_id="make", tool=tool, body=VOICE, destination=folder, **options))
"""


@pytest.mark.parametrize("server", [statsd_server, otel_collector])
def test_tasks_send_credits_outcomes_and_bytes(
    server: Callable[[], Any], sim: Simulator, tmp_path: Path
) -> None:
    with server() as (settings, found):
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, **settings, "PYTHONPATH": path}
        command = [sys.executable, "-c", TASKS, str(tmp_path / "media")]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=400)
        assert done.returncode == 0, done.stderr
    charged = sum(project["credits_charged"] for project in sim.state()["projects"].values())
    last = {(metric.name, json.dumps(metric.tags, sort_keys=True)): metric for metric in found}
    values = last.values() if server is otel_collector else found  # its counters are sums
    assert sum(each.value for each in values if each.name == "credits") == charged > 0
    outcomes = [each.tags for each in values if each.name == "projects"]
    assert outcomes == [
        {"kind": "audio", "outcome": "complete", "dag_id": "media", "task_id": "wait"},
        {
            "kind": "audio",
            "tool": "ai-voice-generator",
            "outcome": "complete",
            "dag_id": "media",
            "task_id": "make",
        },
    ]
    (stored,) = (tmp_path / "media").glob("*/*.wav")
    (downloaded,) = [each for each in values if each.name == "download_bytes"]
    assert downloaded.value == stored.stat().st_size
    assert downloaded.tags["task_id"] == "make"
    rendered = [each for each in values if each.name == "render_seconds"]
    assert rendered
    assert all(0 < each.value < 60_000 for each in rendered)  # milliseconds
    assert {each.tags["tool"] for each in rendered} == {"ai-voice-generator"}
    assert not [each for each in found if "secret" in repr(each) or stored.parent.name in repr(each)]


class Recorder:
    """A Stats that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[Metric] = []

    def incr(self, name: str, value: float, tags: dict[str, str]) -> None:
        self.sent.append(Metric(name, tags, value))

    gauge = incr


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(stats, "_stats", lambda in_task: found)
    return found


def test_each_end_counts_as_what_it_says(recorder: Recorder) -> None:
    ends = [
        {"id": "a", "status": "complete"},
        "canceled",
        "error",
        MagicHourRenderError("a", "it failed"),
        MagicHourProjectCanceledError("b"),
        MagicHourTimeoutError("too late"),
        MagicHourError("no response"),
        "rendering",
        None,
    ]
    stats.count_projects("video", ends)
    assert [each.tags["outcome"] for each in recorder.sent] == [
        "complete",
        "canceled",
        "failed",
        "failed",
        "canceled",
        "timed_out",
    ]


def test_a_metric_that_airflow_does_not_take_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(in_task: bool) -> Any:
        raise ValueError("no such metric")

    monkeypatch.setattr(stats, "_stats", fail)
    stats.count("credits", 5)


# ------------------------------------------------------------------------------------ what is written down


def names_in_code() -> set[str]:
    """Return the metrics that the package sends, each from one place."""
    found: list[str] = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
                continue
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            is_stats = isinstance(owner, ast.Name) and owner.id == "stats"
            if name not in {"count", "gauge", "timing"} or not (is_stats or file.name == "stats.py"):
                continue
            first = node.args[0]
            found.append(first.value if isinstance(first, ast.Constant) else ast.unparse(first))
    outcomes = re.search(r"Counter\((.*)\)", (PACKAGE / "webhooks" / "receiver.py").read_text())
    assert outcomes
    names = {name for name in found if re.fullmatch(r"[a-z_.]+", name)}
    return names | {f"webhook.{one}" for one in re.findall(r"(\w+)=0", outcomes[1])}


def test_page_and_dashboard_name_the_metrics_that_are_sent() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"^\| `magichour\.([a-z_.]+)` \|", page, flags=re.MULTILINE)) == names_in_code()
    dashboard = (ROOT / "docs" / "metrics-dashboard.json").read_text()
    shown = set(re.findall(r"airflow_magichour_(\w+)", dashboard))
    known = {name.replace(".", "_") for name in names_in_code()}
    assert {re.sub(r"_(total|sum|count|bucket)$", "", name) for name in shown} == known
    alerts = set(re.findall(r"airflow_magichour_(\w+)", page))
    assert {re.sub(r"_(total|sum|count|bucket)$", "", name) for name in alerts} <= known
    panels = json.loads(dashboard)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)

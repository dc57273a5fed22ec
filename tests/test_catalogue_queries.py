"""The documentation's queries, run by DuckDB: their sums are the simulator's own ledger."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._client import retry
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import MagicHourDeleteProjectOperator
from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import BODY, CREATE, bodies, generate
from tests.operators.support import operator as create
from tests.support.stores import S3Store
from tests.support.tasks import TaskStateStore, run_task, task_context

duckdb = pytest.importorskip("duckdb")

pytestmark = pytest.mark.stores(emulators=False)

PAGE = Path(__file__).parents[1] / "docs" / "catalogue.md"
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
VIDEO = {"end_seconds": 2, "orientation": "square", "style": {"prompt": "waves"}}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "retry_wait", lambda attempt, retry_after, draw: 0.0)


def fail(task: Any, context: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        run_task(task, context)


def make_history(sim: Simulator, stored: str) -> None:
    """Run tasks that succeed, fail, are retried, time out, reuse, delete, and one that nobody knows of."""
    one, two = TaskStateStore(), TaskStateStore()
    run_task(generate(bodies(3), destination=stored), task_context(dag_id="a", store=TaskStateStore()))
    video = {"tool": "text-to-video", "destination": stored}
    run_task(generate(VIDEO, **video), task_context(dag_id="b", store=TaskStateStore()))
    sim.faults({"match": CREATE, "times": 1, "outcome": {"code": "unknown_error"}})
    render = {"dag_id": "b", "task_id": "retried", "store": one}
    fail(generate(BODY, destination=stored), task_context(**render), errors.MagicHourRenderError)
    run_task(generate(BODY, destination=stored), task_context(**render, try_number=2))
    sim.faults({"match": CREATE, "times": 1, "duration": 600})
    late = {"dag_id": "c", "store": two}
    fail(generate(destination=stored, timeout=0.4), task_context(**late), errors.MagicHourTimeoutError)
    sim.end_project([*sim.state()["projects"]][-1])
    run_task(generate(destination=stored), task_context(**late, try_number=2, max_tries=1))
    sim.faults({"match": CREATE, "times": 1, "duration": 600})
    never = task_context(dag_id="c", task_id="never", store=TaskStateStore())
    fail(generate(destination=stored, timeout=0.4), never, errors.MagicHourTimeoutError)
    sim.faults({"match": CREATE, "times": 1, "outcome": {"status": "canceled"}})
    canceled = task_context(dag_id="c", task_id="canceled", store=TaskStateStore())
    fail(generate(destination=stored), canceled, errors.MagicHourProjectCanceledError)
    sim.faults({"match": CREATE, "times": 1, "status": 429})
    made = run_task(create(bodies(2)), task_context(dag_id="a", task_id="create", store=TaskStateStore()))
    sim.end_project(made[0]["id"], "error", "no_source_face")
    hook = MagicHourHook()
    hook.wait_for_project("image", made[1]["id"], 20)
    hook.record_ends("image", [one["id"] for one in made])
    again = task_context(dag_id="d", store=TaskStateStore())
    assert run_task(generate(bodies(3)[0], destination=stored, reuse=True), again)["reused"]
    deletion = MagicHourDeleteProjectOperator(
        task_id="delete", project_id=made[1]["id"], kind="image", destination=stored
    )
    run_task(deletion, task_context())
    uncertain = {"match": CREATE, "times": 1, "drop": "after"}
    sim.faults(uncertain)
    lost = task_context(dag_id="d", task_id="lost", store=TaskStateStore())
    fail(generate(destination=stored), lost, errors.MagicHourUncertainSubmitError)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, sim: Simulator, connect: Any) -> Iterator[tuple[str, Any]]:
    """The root of a catalogue, and a DuckDB that can read it."""
    connection = duckdb.connect()
    with tempfile.TemporaryDirectory() as folder:
        root = folder
        if request.param == "s3":
            import s3fs

            store: S3Store = request.getfixturevalue("s3_store")
            root = f"s3://aws_test@{store.bucket}/media"
            connection.register_filesystem(
                s3fs.S3FileSystem(
                    key="test", secret="test", endpoint_url=store.endpoint, use_listings_cache=False
                )
            )
        connect(sim.url, sim.api_key, catalog=root, timeout=30)
        yield root, connection
    connection.close()


def ask(connection: Any, root: str) -> list[list[dict[str, Any]]]:
    """Run all statements of the page; return what each query gives."""
    url = root.replace("aws_test@", "")
    found = []
    for block in QUERIES:
        for statement in filter(None, map(str.strip, block.replace("s3://bucket/media", url).split(";"))):
            result = connection.execute(statement)
            if statement.startswith("SELECT"):
                names = [one[0] for one in result.description]
                found.append([dict(zip(names, row, strict=True)) for row in result.fetchall()])
    return found


def test_queries_of_the_page_agree_with_the_ledger(sim: Simulator, place: tuple[str, Any]) -> None:
    root, connection = place
    make_history(sim, root)
    spend, failures, slowest, not_deleted, retries, uncertain = ask(connection, root)

    booked: dict[str, float] = defaultdict(float)
    refunds = 0.0
    for line in sim.ledger():
        is_refund = line["entry"] == "refund"
        booked[line["project_id"]] += -line["credits"] if is_refund else line["credits"]
        refunds += line["credits"] if is_refund else 0
    known = {
        row[0]: row[1]
        for row in connection.execute("SELECT project_id, credits_charged FROM projects").fetchall()
    }
    lost = set(booked) - set(known)
    assert len(lost) == 1  # the uncertain one, which is apart
    assert known == {one: charged for one, charged in booked.items() if one not in lost}
    assert sum(row["credits"] for row in spend) == sum(known.values())
    assert {row["dag_id"] for row in spend} == {"a", "b", "c"}
    (recorded_refunds,) = connection.execute("SELECT sum(credits_refunded) FROM projects").fetchone()
    assert recorded_refunds == refunds > 0

    by_tool = {row["tool"]: row for row in failures}
    assert by_tool["ai-image-generator"]["failed"] == pytest.approx(
        2 / by_tool["ai-image-generator"]["projects"]
    )
    assert by_tool["text-to-video"]["failed"] == 0
    assert {row["tool"] for row in slowest} == {"ai-image-generator", "text-to-video"}
    assert all(row["bytes"] > 0 for row in not_deleted)
    assert len(not_deleted) == 6
    assert [(row["dag_id"], row["retries"]) for row in retries] == [("b", 1)]
    assert [row["dag_id"] for row in uncertain] == ["d"]


def test_pandas_and_pyarrow_read_the_table(sim: Simulator, place: tuple[str, Any]) -> None:
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    root, connection = place
    run_task(generate(bodies(2), destination=root), task_context(store=TaskStateStore()))
    ask(connection, root)
    frame = connection.execute("SELECT * FROM projects").df()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["credits_charged"].sum() == sum(line["credits"] for line in sim.ledger())
    table = connection.sql("SELECT * FROM projects").to_arrow_table()
    assert isinstance(table, pyarrow.Table)
    assert table.num_rows == 2


def test_pyarrow_reads_the_files_themselves(sim: Simulator, connect: Any, tmp_path: Path) -> None:
    json = pytest.importorskip("pyarrow.json")
    run_task(generate(bodies(2), destination=str(tmp_path)), task_context(store=TaskStateStore()))
    tables = [json.read_json(path) for path in tmp_path.glob("magichour-catalog/*/*.json")]
    assert sum(table.column("credits_charged")[0].as_py() for table in tables) == sum(
        line["credits"] for line in sim.ledger()
    )

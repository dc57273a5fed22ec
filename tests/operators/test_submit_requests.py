"""How many requests a task sends to its object store: S3 over a socket."""

from __future__ import annotations

from collections import Counter
from urllib.parse import unquote

import pytest

from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import bodies, generate, posts
from tests.support.stores import S3Store, requests_to
from tests.support.tasks import run_task, task_context


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("count", [1, 4])
def test_submit_record_is_two_writes(
    sim: Simulator,
    s3_store: S3Store,
    s3_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    deferrable: bool,
) -> None:
    """The intent and the id: that the task succeeded is told by the entries of its files."""
    sent = requests_to(s3_endpoint, monkeypatch)

    def run(run_id: str, *, reuse: bool = False) -> Counter[str]:
        sent.clear()
        new = [{**body, "name": f"{run_id} {n}"} for n, body in enumerate(bodies(count))]
        task = generate(new, destination=s3_store.url, deferrable=deferrable, reuse=reuse)
        run_task(task, task_context("generate", run_id=run_id))
        return Counter(method for method, _ in sent)

    run("opens the store")
    counted = run("without reuse")
    records = Counter(method for method, path in sent if "/submits/" in unquote(path))
    assert records == {"GET": 1, "PUT": 2 * count}
    assert counted == {"GET": 1, "PUT": 4 * count}
    run("reads what is there", reuse=True)
    assert run("with reuse", reuse=True)["PUT"] == 4 * count + 1  # the day's index
    assert posts(sim) == 4 * count

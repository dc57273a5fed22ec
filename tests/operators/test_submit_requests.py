"""How many requests a task sends to its object store: S3 over a socket."""

from __future__ import annotations

from collections import Counter
from urllib.parse import unquote

import pytest

from airflow_provider_magichour.operators import _submit_records
from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import bodies, generate, posts
from tests.support.stores import S3Store, requests_to
from tests.support.tasks import run_task, task_context


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("count", [1, 4])
def test_submit_records_are_two_writes_per_body_and_one_per_task(
    sim: Simulator,
    s3_store: S3Store,
    s3_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    deferrable: bool,
) -> None:
    """The intent and the id of each body, and how the task ended."""
    monkeypatch.setattr(_submit_records, "FRESH_SECONDS", 600)  # the machine may be slow
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
    starts = {1, 2} if deferrable else {1}  # a start reads once; older Airflows resume in the same one
    assert records["PUT"] == 2 * count + 1
    assert counted["PUT"] == 4 * count + 1
    assert records["GET"] == counted["GET"]
    assert records["GET"] in starts
    assert counted.keys() == {"GET", "PUT"}
    run("reads what is there", reuse=True)
    assert run("with reuse", reuse=True)["PUT"] == 4 * count + 2  # the day's index
    assert posts(sim) == 4 * count

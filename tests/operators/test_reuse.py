"""``reuse=True``: results that are stored are not paid for again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour import exceptions
from airflow_provider_magichour._transfer import catalogue
from airflow_provider_magichour.operators import _earlier_tries, _reuse
from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import BODY, CREATE, bodies, generate, operator, posts
from tests.support.tasks import TaskStateStore, run_task, task_context

pytestmark = pytest.mark.usefixtures("no_pauses")

GET = {"route": "get_project"}


class TestReuse:
    def run(self, folder: Path, body: Any = BODY, run_id: str = "run", **arguments: Any) -> Any:
        task = generate(body, destination=str(folder), reuse=True, **arguments)
        return run_task(task, task_context("generate", run_id=run_id, store=TaskStateStore()))

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_other_run_returns_the_stored_result(
        self, sim: Simulator, tmp_path: Path, deferrable: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        first = self.run(tmp_path, bodies(2), deferrable=deferrable)
        again = self.run(tmp_path, [*bodies(2)[::-1], BODY], "another", deferrable=deferrable)
        assert [one["reused"] for one in first] == [False, False]
        assert [one["reused"] for one in again] == [True, True, False]
        assert [one["files"] for one in again[:2]] == [one["files"] for one in first[::-1]]
        assert posts(sim) == 3
        assert "10 credits saved" in caplog.text

    def test_equal_bodies_are_different_results(self, sim: Simulator, tmp_path: Path) -> None:
        first = self.run(tmp_path, [BODY, BODY])
        again = self.run(tmp_path, [BODY, BODY, BODY], "another")
        ids = [one["project"]["id"] for one in again]
        assert len({*ids}) == 3
        assert {one["project"]["id"] for one in first} < {*ids}
        assert posts(sim) == 3

    def test_damaged_file_is_fetched_again(self, sim: Simulator, tmp_path: Path) -> None:
        first = self.run(tmp_path)
        Path(first["files"][0]["path"]).write_bytes(b"short")
        again = self.run(tmp_path, run_id="another")
        assert again["files"][0]["bytes"] == Path(first["files"][0]["path"]).stat().st_size
        assert posts(sim) == 1

    def test_whole_result_outlives_its_project_but_a_damaged_one_is_paid_again(
        self, sim: Simulator, tmp_path: Path
    ) -> None:
        first = self.run(tmp_path)
        operator().hook.delete_project("image", first["project"]["id"])
        assert self.run(tmp_path, run_id="second")["project"]["id"] == first["project"]["id"]
        Path(first["files"][0]["path"]).unlink()
        assert self.run(tmp_path, run_id="third")["project"]["id"] != first["project"]["id"]
        assert posts(sim) == 2

    @pytest.mark.parametrize("status", [401, 403, 404, 503])
    def test_damaged_file_pays_nothing_while_a_gateway_responds(
        self, sim: Simulator, tmp_path: Path, status: int
    ) -> None:
        first = self.run(tmp_path)
        Path(first["files"][0]["path"]).write_bytes(b"short")
        sim.faults({"match": GET, "status": status, "html": True})
        with pytest.raises(exceptions.MagicHourError, match="Nothing was submitted") as caught:
            self.run(tmp_path, run_id="second")
        assert not isinstance(caught.value, AirflowFailException)
        sim.clear_faults()
        assert self.run(tmp_path, run_id="third")["project"]["id"] == first["project"]["id"]
        assert posts(sim) == 1

    def test_damaged_file_is_fetched_again_after_a_404_that_does_not_last(
        self, sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_earlier_tries, "NOT_FOUND_SECONDS", 60.0)
        first = self.run(tmp_path, bodies(2))
        for one in first:
            Path(one["files"][0]["path"]).write_bytes(b"short")
        sim.faults({"match": GET, "status": 404, "times": 5})
        again = self.run(tmp_path, bodies(2), run_id="second")
        assert [one["project"]["id"] for one in again] == [one["project"]["id"] for one in first]
        assert posts(sim) == 2

    def test_damaged_file_is_paid_for_again_after_a_lasting_404(
        self, sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_earlier_tries, "NOT_FOUND_SECONDS", 1.0)
        first = self.run(tmp_path)
        Path(first["files"][0]["path"]).write_bytes(b"short")
        sim.faults({"match": {**GET, "project_id": first["project"]["id"]}, "status": 404})
        began = time.monotonic()
        assert self.run(tmp_path, run_id="second")["project"]["id"] != first["project"]["id"]
        assert posts(sim) == 2
        assert time.monotonic() - began > 1

    def test_damaged_file_pays_nothing_with_the_key_of_another_account(
        self, sim: Simulator, tmp_path: Path, connect: Callable[..., str]
    ) -> None:
        first = self.run(tmp_path)
        Path(first["files"][0]["path"]).write_bytes(b"short")
        sim.add_account("mhk_other")
        connect(sim.url, "mhk_other")
        with pytest.raises(exceptions.MagicHourError, match="Nothing was submitted"):
            self.run(tmp_path, run_id="second")
        assert posts(sim) == 1

    def test_contents_of_files_count_and_not_their_path(self, sim: Simulator, tmp_path: Path) -> None:
        def upscale(path: Path, run_id: str) -> Any:
            body = {"scale_factor": 2, "style": {}, "assets": {"image_file_path": path}}
            return self.run(tmp_path / "out", body, run_id, tool="ai-image-upscaler")

        one, copy = tmp_path / "one.png", tmp_path / "copy.png"
        one.write_bytes(b"png")
        copy.write_bytes(b"png")
        upscale(one, "1")
        assert upscale(copy, "2")["reused"]
        one.write_bytes(b"other")
        assert not upscale(one, "3")["reused"]

    def test_other_destination_pays_again(self, sim: Simulator, tmp_path: Path) -> None:
        self.run(tmp_path / "a", index=str(tmp_path))
        assert not self.run(tmp_path / "b", run_id="another", index=str(tmp_path))["reused"]

    def test_clear_of_a_success_counts_before_reuse(self, sim: Simulator, tmp_path: Path) -> None:
        store = TaskStateStore()
        task = {"destination": str(tmp_path), "reuse": True}
        run_task(generate(**task), task_context("generate", store=store))
        again = run_task(generate(**task), task_context("generate", store=store, try_number=2, max_tries=1))
        assert not again["reused"]
        assert posts(sim) == 2

    def test_clear_of_a_success_counts_in_its_retries_too(self, sim: Simulator, tmp_path: Path) -> None:
        def run(try_number: int, max_tries: int) -> Any:
            context = task_context("generate", try_number=try_number, max_tries=max_tries)
            return run_task(generate(destination=str(tmp_path), reuse=True), context)

        first = run(1, 1)
        sim.faults({"match": CREATE, "times": 1, "status": 404, "html": True})
        with pytest.raises(exceptions.MagicHourGatewayError):
            run(2, 3)
        assert run(3, 3)["project"]["id"] != first["project"]["id"]

    def test_entry_of_somebody_else_is_not_trusted(self, sim: Simulator, tmp_path: Path) -> None:
        first = self.run(tmp_path)
        (entry,) = (tmp_path / "magichour-catalog").glob("*/*.json")
        value = json.loads(entry.read_text())
        value["files"][0]["path"] = "../x"
        entry.write_text(json.dumps(value))
        assert self.run(tmp_path, run_id="another")["project"]["id"] != first["project"]["id"]

    @pytest.mark.parametrize("junk", ["x", "[]", '{"entries": {"x": 1}}', '{"entries": {"1-p": "z"}}'])
    def test_index_of_somebody_else_is_not_trusted(self, sim: Simulator, tmp_path: Path, junk: str) -> None:
        first = self.run(tmp_path)
        self.run(tmp_path, run_id="another")
        (index,) = (tmp_path / ".magichour" / "reuse").glob("*.json")
        index.write_text(junk)
        assert self.run(tmp_path, run_id="third")["project"]["id"] == first["project"]["id"]

    def test_result_of_a_run_without_reuse_is_found(self, sim: Simulator, tmp_path: Path) -> None:
        first = run_task(generate(destination=str(tmp_path)), task_context("generate"))
        again = self.run(tmp_path, run_id="another")
        assert again["reused"]
        assert again["files"] == first["files"]
        project = {name: first["project"][name] for name in ("id", "kind", "type", "credits_charged")}
        assert again["project"].items() >= project.items()
        assert posts(sim) == 1

    def test_index_of_a_day_is_read_instead_of_its_entries(
        self, sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("a", "b", "c"):
            run_task(generate({**BODY, "name": name}, destination=str(tmp_path)), task_context("generate"))
        read: list[str] = []
        original = catalogue.read
        monkeypatch.setattr(
            catalogue, "read", lambda root, path, one: (read.append(one), original(root, path, one))[1]
        )
        assert self.run(tmp_path, {**BODY, "name": "b"}, run_id="first")["reused"]
        assert len(read) == 4
        assert self.run(tmp_path, {**BODY, "name": "c"}, run_id="second")["reused"]
        assert len(read) == 5

    @pytest.mark.parametrize("name", ["garbage-p1", "-p1", "1_0-p1", "99999-p1", "p1"])
    def test_bad_name_in_the_index_is_ignored(self, sim: Simulator, tmp_path: Path, name: str) -> None:
        self.run(tmp_path)
        (entry,) = (tmp_path / "magichour-catalog").glob("*/*.json")
        fingerprint = json.loads(entry.read_text())["body_fingerprint"]
        index = tmp_path / _reuse.FOLDER / f"{entry.parent.name.removeprefix('dt=')}.json"
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text(json.dumps({"version": 1, "closed": False, "entries": {name: fingerprint}}))
        assert self.run(tmp_path, run_id="another")["reused"]
        assert posts(sim) == 1

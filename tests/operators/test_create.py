"""MagicHourCreateProjectOperator against the simulator: what is submitted, and that it is paid once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException

from airflow_provider_magichour import exceptions
from airflow_provider_magichour.operators import MagicHourCreateProjectOperator, _patience, _submit
from airflow_provider_magichour.simulator import Simulator
from tests.operators.support import (
    BODY,
    CREATE,
    TOOL,
    bodies,
    created,
    execute,
    has_open_record,
    operator,
    posts,
    wait_for,
)
from tests.support.tasks import TaskStateStore, task_context

pytestmark = pytest.mark.usefixtures("no_pauses")


class TestSubmit:
    def test_one_body_returns_one_project(self, sim: Simulator) -> None:
        context = task_context()
        made = operator().execute(context)
        project = sim.state()["projects"][made["id"]]
        assert made == {
            "id": made["id"],
            "kind": "image",
            "tool": TOOL,
            "credits_charged": project["credits_charged"],
        }
        assert project["body"] == {**BODY, "name": "dag.task run"}

    def test_list_returns_projects_in_order(self, sim: Simulator) -> None:
        made = operator(bodies(9)).execute(task_context())
        projects = sim.state()["projects"]
        assert [projects[one["id"]]["name"] for one in made] == [f"number {n}" for n in range(9)]

    def test_any_iterable_counts_as_a_list(self, sim: Simulator) -> None:
        assert len(operator(iter(bodies(2))).execute(task_context())) == 2

    def test_unknown_tool_needs_a_kind(self, sim: Simulator) -> None:
        with pytest.raises(exceptions.MagicHourArgumentError, match="pass kind="):
            operator(tool="ai-hologram")
        with pytest.raises(
            exceptions.MagicHourNotFoundError, match="no tool"
        ):  # as the simulator does not know it either
            operator(tool="ai-hologram", kind="video").execute(task_context())

    def test_link_to_the_project_is_stored(self, sim: Simulator) -> None:
        context = task_context("create")
        made = operator().execute(context)
        link = context["ti"].xcoms.pull("create", "_link_MagicHourProjectLink")
        assert link == f"https://magichour.ai/my-library?imageId={made['id']}"

    def test_templates_render_within_the_body(self) -> None:
        task = operator({"style": {"prompt": "{{ x }}"}, "assets": {"image_file_paths": ["{{ x }}"]}})
        with DAG("d"):
            task.render_template_fields({"x": "a boat"})  # type: ignore[arg-type]
        assert task.body == {"style": {"prompt": "a boat"}, "assets": {"image_file_paths": ["a boat"]}}


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ({"body": "text"}, "body"),
            ({"body": None}, "body"),
            ({"body": [BODY, 7]}, r"body\[1\]"),
            ({"body": {"n": float("nan")}}, "body"),
            ({"body": {1: "one", "two": 2}}, "body"),
            ({"kind": "hologram"}, "kind"),
            ({"kind": "video"}, "contradicts"),
            ({"tool": "../account"}, "tool"),
            ({"tool": ""}, "tool"),
            ({"max_credits": 0}, "max_credits"),
            ({"max_credits": True}, "max_credits"),
        ],
    )
    def test_constructor_names_the_wrong_argument(self, arguments: dict[str, Any], named: str) -> None:
        with pytest.raises(exceptions.MagicHourArgumentError, match=named):
            operator(**arguments)

    @pytest.mark.parametrize("rendered", ["{'a': 1}", "[]", None, object(), [BODY, "x"], {"n": {1, 2}}])
    def test_rendered_values_are_checked_before_any_request(self, sim: Simulator, rendered: Any) -> None:
        task = operator("{{ body }}")
        task.body = rendered
        with pytest.raises(exceptions.MagicHourArgumentError, match="body"):
            task.execute(task_context())
        assert sim.requests() == []

    def test_empty_list_submits_nothing(self, sim: Simulator, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        assert operator([]).execute(task_context()) == []
        assert sim.requests() == []
        assert "nothing to submit" in caplog.text

    def test_template_is_checked_after_rendering(self) -> None:
        task = operator("{{ body }}", tool="{{ tool }}", kind="{{ kind }}")
        assert (task.body, task.tool, task.kind) == ("{{ body }}", "{{ tool }}", "{{ kind }}")


class TestRefused:
    """A certain refusal raises its own error and takes the intent back."""

    def refuse(self, sim: Simulator, store: TaskStateStore, **fault: Any) -> exceptions.MagicHourError:
        sim.faults({"match": CREATE, **fault})
        with pytest.raises(exceptions.MagicHourError) as caught:
            operator().execute(task_context(store=store))
        assert not has_open_record(store)
        assert created(sim) == 0
        return caught.value

    @pytest.mark.parametrize("status", [400, 422])
    def test_invalid_body_names_the_tool_and_quotes_the_api(
        self, sim: Simulator, store: TaskStateStore, status: int
    ) -> None:
        error = self.refuse(sim, store, status=status, body={"message": "style.prompt is too long"})
        assert isinstance(error, exceptions.MagicHourInvalidRequestError)
        assert TOOL in str(error)
        assert "style.prompt is too long" in str(error)

    def test_no_credits_error_names_balance_and_page(self, sim: Simulator, store: TaskStateStore) -> None:
        error = self.refuse(sim, store, status=402)
        assert isinstance(error, exceptions.MagicHourPaymentRequiredError)
        assert "100000 credits left" in str(error)
        assert "https://magichour.ai/pricing" in str(error)

    def test_no_credits_error_works_without_the_account(self, sim: Simulator, store: TaskStateStore) -> None:
        sim.faults({"match": {"path": "/v1/account"}, "skip": 1, "status": 500})
        error = self.refuse(sim, store, status=402)
        assert isinstance(error, exceptions.MagicHourPaymentRequiredError)

    def test_permission_error_names_the_plan(self, sim: Simulator, store: TaskStateStore) -> None:
        assert "plan" in str(self.refuse(sim, store, status=403))

    @pytest.mark.parametrize("status", [502, 503])
    def test_refused_submit_is_sent_again(self, sim: Simulator, store: TaskStateStore, status: int) -> None:
        error = self.refuse(sim, store, status=status)
        assert not isinstance(error, AirflowFailException)
        assert posts(sim) == 5
        sim.clear_faults()
        operator().execute(task_context(store=store, try_number=2))
        assert created(sim) == 1

    def test_unreachable_host_is_retried(
        self, connect: Callable[..., str], store: TaskStateStore, sim: Simulator
    ) -> None:
        connect("http://127.0.0.1:1", "key")
        with pytest.raises(exceptions.MagicHourConnectionError):
            operator().execute(task_context(store=store))
        assert not has_open_record(store)

    def test_unusable_connection_leaves_no_intent(self, store: TaskStateStore) -> None:
        with pytest.raises(exceptions.MagicHourConnectionNotFoundError):
            operator(magichour_conn_id="nowhere").execute(task_context(store=store))
        assert not has_open_record(store)


UNCERTAIN = {
    "dropped after it was accepted": {"drop": "after"},
    "dropped before it was read": {"drop": "before"},
    "500": {"status": 500, "process": True},
    "504": {"status": 504, "process": True},
    "accepted without an id": {"remove": ["id"]},
    "a page of a proxy": {"status": 200, "body": "<html>hello</html>", "process": True},
    "a redirect": {"status": 302, "process": True},
    "no answer in time": {"delay_after": 60},
}


class TestUncertain:
    @pytest.mark.parametrize("fault", UNCERTAIN.values(), ids=UNCERTAIN)
    def test_uncertain_submit_is_never_sent_again(
        self, sim: Simulator, connect: Callable[..., str], store: TaskStateStore, fault: dict[str, Any]
    ) -> None:
        connect(sim.url, sim.api_key, timeout=2 if fault == UNCERTAIN["no answer in time"] else 30)
        sim.faults({"match": CREATE, "times": 1, **fault})
        for try_number in (1, 2, 3):
            with pytest.raises(exceptions.MagicHourUncertainSubmitError, match="my-library"):
                operator().execute(task_context(store=store, try_number=try_number, max_tries=2))
        assert posts(sim) == 1

    def test_clear_after_an_uncertain_submit_submits_again(
        self, sim: Simulator, store: TaskStateStore
    ) -> None:
        sim.faults({"match": CREATE, "times": 1, "drop": "after"})
        with pytest.raises(exceptions.MagicHourUncertainSubmitError):
            operator().execute(task_context(store=store))
        made = operator().execute(task_context(store=store, try_number=2, max_tries=1))
        assert posts(sim) == 2
        assert sim.state()["projects"][made["id"]]

    def test_retry_uncertain_submit_allows_a_second_submit(
        self, sim: Simulator, store: TaskStateStore
    ) -> None:
        sim.faults({"match": CREATE, "times": 1, "drop": "after"})
        task = operator(retry_uncertain_submit=True)
        with pytest.raises(exceptions.MagicHourConnectionError, match="may or may not") as caught:
            task.execute(task_context(store=store))
        assert not isinstance(caught.value, AirflowFailException)
        assert task.execute(task_context(store=store, try_number=2))["id"]
        assert posts(sim) == 2

    def test_failed_body_does_not_stop_the_others(self, sim: Simulator, store: TaskStateStore) -> None:
        sim.faults({"match": CREATE, "times": 1, "drop": "after"})
        context = task_context("create", store=store)
        with pytest.raises(exceptions.MagicHourUncertainSubmitError):
            operator(bodies(3)).execute(context)
        kept = context["ti"].xcoms.pull("create", "results")
        assert len(kept) == 3
        assert kept.count(None) == 1
        assert posts(sim) == 3
        made = operator(bodies(3)).execute(task_context(store=store, try_number=2, max_tries=1))
        assert len(made) == 3
        assert posts(sim) == 4


class TestList:
    def test_error_that_concerns_all_bodies_stops_the_list(
        self, sim: Simulator, store: TaskStateStore
    ) -> None:
        sim.faults({"match": CREATE, "status": 402})
        with pytest.raises(exceptions.MagicHourPaymentRequiredError) as caught:
            operator(bodies(20)).execute(task_context(store=store))
        assert "20 of 20" in caught.value.__notes__[0]
        assert posts(sim) <= _submit.MAX_PARALLEL
        assert not has_open_record(store)

    def test_broken_network_stops_the_list(self, sim: Simulator, store: TaskStateStore) -> None:
        """A person has to search for each uncertain project, so there are few of them."""
        sim.faults({"match": CREATE, "drop": "before"})
        with pytest.raises(exceptions.MagicHourBatchError) as caught:
            operator(bodies(20)).execute(task_context(store=store))
        assert not isinstance(caught.value, AirflowFailException)
        assert "a retry submits it" in str(caught.value)
        assert posts(sim) <= _submit.MAX_PARALLEL + 1

    def test_failed_list_is_retryable_where_one_body_is(self, sim: Simulator, store: TaskStateStore) -> None:
        sim.faults({"match": CREATE, "times": 1, "status": 400}, {"match": CREATE, "skip": 1, "status": 503})
        with pytest.raises(exceptions.MagicHourBatchError) as caught:
            operator(bodies(3)).execute(task_context(store=store))
        assert not isinstance(caught.value, AirflowFailException)

    @pytest.mark.parametrize("count", [1, 5])
    def test_rate_limit_is_waited_for(self, sim: Simulator, count: int) -> None:
        sim.faults({"match": CREATE, "skip": count // 2, "times": 6, "status": 429})
        made = operator(bodies(count)).execute(task_context())
        assert len(made) == count
        assert created(sim) == count

    def test_rate_limit_is_waited_for_until_the_timeout(self, sim: Simulator, store: TaskStateStore) -> None:
        sim.faults({"match": CREATE, "status": 429})
        with pytest.raises(exceptions.MagicHourRateLimitError):
            operator(bodies(2), timeout=4).execute(task_context(store=store))
        assert posts(sim) > 2
        assert not has_open_record(store)

    @pytest.mark.parametrize("limits", [{}, {"max_credits": 100}, {"keep_credits": 1}])
    def test_rate_limit_of_the_account_is_waited_for(self, sim: Simulator, limits: dict[str, int]) -> None:
        sim.faults({"match": {"route": "get_account"}, "times": 8, "status": 429})
        operator(**limits).execute(task_context())
        assert created(sim) == 1

    def test_no_intent_is_stored_during_a_rate_limit_pause(
        self, sim: Simulator, store: TaskStateStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_patience, "FIRST_LIMIT_PAUSE", 400.0)
        monkeypatch.setattr(_patience, "MAX_LIMIT_PAUSE", 400.0)
        sim.faults({"match": CREATE, "status": 429})
        task = operator()
        with ThreadPoolExecutor(1) as executor:
            running = executor.submit(execute, task, task_context(store=store))
            wait_for(lambda: posts(sim) == 1)
            wait_for(lambda: not has_open_record(store))
            task.on_kill()
            with pytest.raises(exceptions.MagicHourRateLimitError):
                running.result(100)
        assert posts(sim) == 1
        assert not has_open_record(store)


class TestAssets:
    def body(self, path: object) -> dict[str, Any]:
        return {"scale_factor": 2, "style": {}, "assets": {"image_file_path": str(path)}}

    def upscale(self, body: Any, **kwargs: Any) -> MagicHourCreateProjectOperator:
        return operator(body, tool="ai-image-upscaler", **kwargs)

    def test_local_file_is_uploaded_before_the_submit(self, sim: Simulator, tmp_path: Path) -> None:
        path = tmp_path / "a face.PNG"
        path.write_bytes(b"png" * 1000)
        made = self.upscale(self.body(path)).execute(task_context())
        state = sim.state()
        (uploaded,) = state["uploads"]
        assert state["projects"][made["id"]]["body"]["assets"] == {"image_file_path": uploaded}
        assert state["uploads"][uploaded]["size"] == 3000

    def test_file_shared_by_many_bodies_is_uploaded_once(self, sim: Simulator, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(b"png")
        self.upscale([self.body(path)] * 3).execute(task_context())
        assert len(sim.state()["uploads"]) == 1

    def test_retry_does_not_upload_again(self, sim: Simulator, tmp_path: Path, store: TaskStateStore) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(b"png")
        first = self.upscale(self.body(path)).execute(task_context(store=store))
        store.delete("magichour_success")
        path.unlink()
        assert self.upscale(self.body(path)).execute(task_context(store=store, try_number=2)) == first
        assert len(sim.state()["uploads"]) == 1

    def test_missing_file_does_not_stop_the_other_bodies(
        self, sim: Simulator, tmp_path: Path, store: TaskStateStore
    ) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(b"png")
        with pytest.raises(exceptions.MagicHourArgumentError, match=r"gone\.png"):
            self.upscale([self.body(path), self.body(tmp_path / "gone.png")]).execute(
                task_context(store=store)
            )
        assert created(sim) == 1
        assert set(store.values) == {"magichour_submit_0"}


def test_rate_limit_pause_ends_when_nothing_can_succeed(
    sim: Simulator, connect: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(sim.url, sim.api_key, max_attempts=1)
    monkeypatch.setattr(_patience, "FIRST_LIMIT_PAUSE", 400.0)
    monkeypatch.setattr(_patience, "MAX_LIMIT_PAUSE", 400.0)
    sim.faults({"match": CREATE, "times": 1, "status": 429}, {"match": CREATE, "status": 401, "delay": 0.3})
    begun = time.monotonic()
    with pytest.raises(exceptions.MagicHourBatchError, match="401"):
        operator(bodies(2)).execute(task_context())
    assert time.monotonic() - begun < 100

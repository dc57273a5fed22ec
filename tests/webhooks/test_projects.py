"""What DAG authors use: the assets, and the projects that a run is given, each once and none lost."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_magichour.exceptions import MagicHourArgumentError
from airflow_provider_magichour.webhooks import magichour_asset, queued_projects, triggering_projects
from airflow_provider_magichour.webhooks.events import parse_event
from tests.webhooks.support import SECRET, event_body, signed


class TestAsset:
    def test_of_any_connection_has_the_uri_of_version_0_1(self) -> None:
        asset = magichour_asset("video")
        assert asset.uri == "magichour://video/completed"
        assert getattr(asset, "name", asset.uri) == asset.uri
        assert magichour_asset("audio", "errored").uri == "magichour://audio/errored"

    def test_of_a_connection_has_a_uri_of_its_own(self) -> None:
        uris = {magichour_asset("video", conn_id=conn_id).uri for conn_id in (None, "team_a", "team_b")}
        assert uris == {
            "magichour://video/completed",
            "magichour://video/completed/team_a",
            "magichour://video/completed/team_b",
        }

    def test_takes_the_old_name_of_event_and_warns(self) -> None:
        with pytest.warns(DeprecationWarning, match="event=") as warned:
            assert magichour_asset("video", what="started").uri == "magichour://video/started"
        assert warned[0].filename == __file__

    @pytest.mark.parametrize(
        ("kind", "event", "conn_id"),
        [
            ("movie", "completed", None),
            ("video", "canceled", None),
            (None, "started", None),
            ("video", "completed", ""),
            ("video", "completed", 7),
            ("video", "completed", "{{ params.conn_id }}"),
        ],
    )
    def test_of_anything_else_does_not_exist(self, kind: Any, event: str, conn_id: Any) -> None:
        with pytest.raises(MagicHourArgumentError):
            magichour_asset(kind, event, conn_id)


START = datetime.now(UTC) - timedelta(hours=1)


@dataclass
class FakeAssetEvent:
    extra: Any
    timestamp: datetime = START


def completed(project_id: str, minutes: float = 0, conn_id: str = "magichour_default") -> FakeAssetEvent:
    """An event of this many minutes after the start."""
    extra = parse_event(event_body(project_id=project_id), conn_id)
    return FakeAssetEvent(extra, START + timedelta(minutes=minutes))


def item(project_id: str, kind: str = "video", conn_id: str = "magichour_default") -> dict[str, Any]:
    names = {"id": project_id, "kind": kind, "event": "completed", "what": "completed"}
    return {**names, "magichour_conn_id": conn_id, "downloads": []}


class TestTriggeringEvents:
    def test_give_each_project_once(self) -> None:
        events = {
            "videos": [completed("a"), completed("a"), completed("b", conn_id="team_b")],
            "failed": [FakeAssetEvent(parse_event(event_body("image", "errored", "c"), "x"))],
        }
        assert triggering_projects(events, "completed") == [item("a"), item("b", conn_id="team_b")]
        assert [project["id"] for project in triggering_projects(events)] == ["a", "b", "c"]
        assert triggering_projects({}) == []

    def test_of_two_connections_do_not_hide_each_other(self) -> None:
        events = {"videos": [completed("a", conn_id="team_b"), completed("a", conn_id="team_a")]}
        assert [project["magichour_conn_id"] for project in triggering_projects(events)] == [
            "team_b",
            "team_a",
        ]

    def test_take_the_old_name_of_event_and_warn(self) -> None:
        with pytest.warns(DeprecationWarning, match="event="):
            assert triggering_projects({"videos": [completed("a")]}, what="errored") == []

    @pytest.mark.parametrize("extra", [{"id": "a"}, {"kind": "video"}, {"kind": "video", "id": "../a"}])
    def test_that_name_no_project_are_passed_over(self, extra: Any, caplog: pytest.LogCaptureFixture) -> None:
        assert triggering_projects({"asset": [FakeAssetEvent(extra), FakeAssetEvent(None)]}) == []
        assert "Skipped" in caplog.text

    def test_made_by_hand_need_kind_and_id_only(self) -> None:
        made_by_hand = FakeAssetEvent({"kind": "audio", "id": "cm7", "project": "?"})
        assert triggering_projects({"asset": [made_by_hand]}, "completed") == [item("cm7", "audio")]

    def test_with_presigned_urls_give_these_too(self) -> None:
        extra = parse_event(event_body(), "magichour_default", presigned_urls=True)
        (project,) = triggering_projects({"asset": [FakeAssetEvent(extra)]})
        assert project["downloads"] == json.loads(event_body())["payload"]["downloads"]


# ------------------------------------------------------------------------------------- inlets and state


@dataclass
class Accessor(Sequence[FakeAssetEvent]):
    """An asset's events as Airflow 3.2 and newer give them to a task."""

    committed: list[FakeAssetEvent]
    since: str = ""

    def after(self, since: str) -> Accessor:
        return Accessor(self.committed, since)

    def _found(self) -> list[FakeAssetEvent]:
        since = datetime.fromisoformat(self.since)
        return sorted(
            (event for event in self.committed if event.timestamp >= since), key=lambda event: event.timestamp
        )

    def __iter__(self) -> Iterator[FakeAssetEvent]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())

    def __getitem__(self, index: Any) -> Any:
        return self._found()[index]


class Store(dict[str, Any]):
    """An asset's state store: JSON values by key."""

    def set(self, key: str, value: Any) -> None:
        self[key] = json.loads(json.dumps(value))


def left_by(run_id: str, newest: datetime) -> Store:
    """What a run left in the store whose newest event was of this time."""
    times = dict.fromkeys(("since", "newest"), newest.isoformat())
    return Store({"save/completed": {"run_id": run_id, **times, "keys": [], "handled": []}})


@dataclass(frozen=True)
class FakeAsset:
    """What Airflow's accessors are keyed by; an Asset of Airflow 3.1 cannot be a key of a plain dict."""

    uri: str


@dataclass
class Airflow:
    """A DAG whose task reads the events, run after run."""

    committed: list[FakeAssetEvent] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    store: Store | None = field(default_factory=Store)
    filters: bool = True
    tries: Counter[str] = field(default_factory=Counter)
    asset: Any = field(default_factory=lambda: FakeAsset("magichour://video/completed"))

    def run(
        self, run_id: str, state: str = "success", triggering: Sequence[FakeAssetEvent] = ()
    ) -> list[str]:
        """Run the task, let the DAG run end in a state, and return the projects' ids."""
        airflow = self

        class TaskInstance:
            dag_id, task_id = "save", "completed"

            @staticmethod
            def get_dr_count(dag_id: str, *, run_ids: list[str], states: list[str]) -> int:
                return sum(airflow.states.get(run_id) in states for run_id in run_ids)

        ti = TaskInstance()
        self.tries[run_id] += 1
        ti.run_id, ti.try_number = run_id, self.tries[run_id]  # type: ignore[attr-defined]
        accessor = Accessor(self.committed) if self.filters else list(self.committed)
        context: dict[str, Any] = {
            "ti": ti,
            "triggering_asset_events": {self.asset: list(triggering)},
            "inlet_events": {self.asset: accessor},
        }
        if self.store is not None:
            context["asset_state_store"] = {self.asset: self.store}
        self.states[run_id] = "running"
        found = [project["id"] for project in triggering_projects(context, "completed")]
        self.states[run_id] = state
        return found


class TestRuns:
    def test_find_what_started_no_run(self) -> None:
        airflow = Airflow([completed("a")])
        assert airflow.run("1", triggering=[completed("a")]) == ["a"]
        airflow.committed += [completed("missed", 20), completed("b", 40)]
        assert airflow.run("2", triggering=[completed("b", 40)]) == ["b", "missed"]
        assert airflow.run("3") == []

    def test_find_events_that_were_committed_late(self) -> None:
        airflow = Airflow([completed("a", 30)])
        assert airflow.run("1") == ["a"]
        airflow.committed.append(completed("late", 21))
        assert airflow.run("2") == ["late"]
        assert airflow.run("3") == []

    def test_give_no_double_of_what_a_successful_run_had(self) -> None:
        airflow = Airflow([completed("a", 30)])
        airflow.run("1")
        airflow.committed.append(completed("a", 31))
        assert airflow.run("2", triggering=[completed("a", 31)]) == []

    def test_give_no_double_of_thousands_within_ten_minutes(self) -> None:
        airflow = Airflow([completed(f"p{number}", number / 1000) for number in range(5000)])
        assert len(airflow.run("1")) == 5000
        airflow.committed.append(completed("b", 6))
        assert airflow.run("2") == ["b"]
        assert airflow.run("3") == []

    def test_repeat_what_a_failed_run_had(self) -> None:
        airflow = Airflow([completed("a")])
        airflow.run("1")
        airflow.committed.append(completed("b", 20))
        assert airflow.run("2", "failed") == ["b"]
        airflow.committed.append(completed("c", 40))
        assert airflow.run("3", "failed") == ["b", "c"]
        assert airflow.run("4") == ["b", "c"]
        assert airflow.run("5") == []

    def test_give_the_same_again_when_cleared_or_retried(self) -> None:
        airflow = Airflow([completed("a")])
        airflow.run("1")
        airflow.committed.append(completed("b", 20))
        assert airflow.run("2") == ["b"]
        assert airflow.run("2") == ["b"]
        airflow.committed.append(completed("c", 40))
        assert airflow.run("2", "failed") == ["b", "c"]
        assert airflow.run("2") == ["b", "c"]
        assert airflow.run("3") == []

    def test_give_up_repeating_a_failure_after_a_day(self, monkeypatch: pytest.MonkeyPatch) -> None:
        airflow = Airflow([completed("broken", -30 * 60)])
        airflow.store = left_by("0", START - timedelta(hours=31))
        airflow.states["0"] = "success"
        assert airflow.run("1", "failed") == ["broken"]
        airflow.committed.append(completed("b"))
        assert airflow.run("2") == ["b"]

    def test_repeat_what_failed_before_the_run_that_is_cleared(self) -> None:
        airflow = Airflow([completed("a")])
        airflow.run("1")
        airflow.committed.append(completed("b", 20))
        assert airflow.run("2", "failed") == ["b"]
        airflow.committed.append(completed("c", 40))
        assert airflow.run("3", "failed") == ["b", "c"]
        assert airflow.run("2") == ["b", "c"]  # cleared, and it succeeds
        assert airflow.run("4") == []

    def test_give_an_older_run_that_is_cleared_its_own_again(self) -> None:
        airflow = Airflow([completed("a")])
        airflow.run("1", triggering=[completed("a")])
        airflow.committed.append(completed("b", 5))
        assert airflow.run("2", triggering=[completed("b", 5)]) == ["b"]
        assert airflow.run("1", triggering=[completed("a")]) == ["a"]
        assert airflow.run("3") == []

    def test_of_a_dag_that_never_succeeded_keep_what_the_first_run_had(self) -> None:
        airflow = Airflow([completed("a", -20)])
        assert airflow.run("1", "failed") == ["a"]
        airflow.committed.append(completed("b", 40))
        assert airflow.run("2", "failed") == ["a", "b"]
        assert airflow.run("3") == ["a", "b"]

    def test_read_two_hours_where_nothing_is_known(self) -> None:
        airflow = Airflow([completed("old", -90), completed("new", -30)])
        assert airflow.run("1") == ["new"]

    def test_read_everything_after_a_long_pause(self) -> None:
        airflow = Airflow([completed("a", -60 * 24 * 9)])
        airflow.store = left_by("0", START - timedelta(days=9))
        airflow.states["0"] = "success"
        assert airflow.run("1") == ["a"]

    def test_keep_little_however_many_there_were(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("airflow_provider_magichour.webhooks.projects.MAX_KEYS", 1000)
        airflow = Airflow([completed(f"p{number}", number / 1000) for number in range(1500)])
        for number in range(30):
            airflow.run(str(number), "failed" if number % 15 else "success")
        assert airflow.store is not None
        assert len(json.dumps(airflow.store["save/completed"])) < 40_000

    def test_on_airflow_3_2_read_two_hours_each_time(self) -> None:
        airflow = Airflow([completed("old", -90), completed("a")], store=None)
        assert airflow.run("1") == ["a"]
        assert airflow.run("2") == ["a"]

    def test_before_airflow_3_2_have_their_triggering_events_alone(self) -> None:
        airflow = Airflow([completed("a")], store=None, filters=False)
        assert airflow.run("1", triggering=[completed("b")]) == ["b"]

    def test_without_inlets_have_their_triggering_events_alone(self) -> None:
        context = {"ti": object.__new__(type("TI", (), {"dag_id": "d", "task_id": "t"}))}
        assert triggering_projects({**context, "triggering_asset_events": {"x": [completed("b")]}}) == [
            item("b")
        ]
        assert triggering_projects(context) == []


# ---------------------------------------------------------------------------------------- message queue

BODY = event_body(project_id="queued")


def http(body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    return {"headers": {"Host": "x", **headers}, "body": body.decode(), "isBase64Encoded": False}


def base64_http(body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    return {**http(b"", headers), "body": base64.b64encode(body).decode(), "isBase64Encoded": True}


def watched(payload: Any) -> dict[Any, Any]:
    """The triggering events of a DAG whose asset watches a queue."""
    return {"queue": [FakeAssetEvent({"from_trigger": True, "payload": payload})]}


class TestQueue:
    @pytest.fixture(autouse=True)
    def _connection(self, connect: Any) -> None:
        connect("http://127.0.0.1:1", "mhk_test_key", "hooked", webhook_secret=SECRET)

    @pytest.mark.parametrize(
        "payload",
        [
            {"status": "success", "message_batch": [{"Body": json.dumps(http(BODY, signed(BODY)))}]},
            http(BODY, signed(BODY)),
            base64_http(BODY, signed(BODY)),
            json.dumps(http(BODY, signed(BODY))),
            [http(BODY, {name.title(): value for name, value in signed(BODY).items()})],
        ],
        ids=["sqs", "request", "base64", "kafka", "list"],
    )
    def test_message_gives_the_same_items(self, payload: Any) -> None:
        assert queued_projects(watched(payload), "hooked") == [item("queued", conn_id="hooked")]
        assert queued_projects(watched(payload), "hooked", "errored") == []

    @pytest.mark.parametrize(
        "payload",
        [
            None,
            "nonsense",
            b"\xff",
            {},
            [],
            7,
            {"message_batch": [{}, None, 1, {"Body": "x"}, {"Body": None}]},
            http(BODY, {}),
            http(BODY, signed(BODY, "wrong")),
            http(BODY + b" ", signed(BODY)),
            http(BODY, signed(BODY, timestamp="1730742038")),
            http(b"{}", signed(b"{}")),
            {"headers": [], "body": 1},
        ],
    )
    def test_message_that_proves_nothing_is_passed_over(self, payload: Any) -> None:
        good = http(BODY, signed(BODY))
        events = {"queue": [*watched(payload)["queue"], *watched(good)["queue"]]}
        assert [project["id"] for project in queued_projects(events, "hooked")] == ["queued"]

    def test_message_may_have_waited_for_days(self) -> None:
        waited = str(int((datetime.now(UTC) - timedelta(days=13)).timestamp()))
        assert queued_projects(watched(http(BODY, signed(BODY, timestamp=waited))), "hooked")

    def test_connection_without_a_secret_gives_nothing(self, connect: Any) -> None:
        connect("http://127.0.0.1:1", "mhk_test_key", "silent")
        assert queued_projects(watched(http(BODY, signed(BODY))), "silent") == []

    @pytest.mark.usefixtures("airflow_db")
    def test_connection_that_does_not_exist_is_an_error(self) -> None:
        with pytest.raises(AirflowNotFoundException):
            queued_projects(watched(http(BODY, signed(BODY))), "misspelled")

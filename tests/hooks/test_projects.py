"""Reads and deletes projects: one or many, by id or by what a task returned."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.simulator import Simulator
from tests.hooks.support import GONE, routes
from tests.support.scripted_server import Reply


class TestProjects:
    def test_one_project_is_read(self, server, hook):
        server.script(Reply(body={"id": "a", "status": "brand-new"}))
        assert hook.get_project("image", "a") == {"id": "a", "status": "brand-new"}

    def test_list_is_read_in_order(self, server, hook):
        server.respond = lambda seen: Reply(body={"id": seen.path[-1]})
        assert [project["id"] for project in hook.get_project("image", ["c", "a", "c"])] == ["c", "a", "c"]

    def test_missing_project_of_a_list_is_named(self, server, hook):
        server.respond = lambda seen: GONE if seen.path.endswith("b") else Reply(body={})
        with pytest.raises(errors.MagicHourNotFoundError, match="image-projects/b") as caught:
            hook.get_project("image", ["a", "b"])
        assert caught.value.__notes__ == ["1 of 2 failed: b"]

    def test_several_failures_are_raised_as_one_error(self, server, hook):
        server.script(Reply(404, {"message": "gone"}))
        with pytest.raises(errors.MagicHourError, match=r"2 of 2.*a:.*gone.*b:.*gone"):
            hook.get_project("image", ["a", "b"])

    @pytest.mark.parametrize("project_id", [None, "", "../account", ["a", ""], "a?b"])
    def test_bad_id_is_refused_before_any_request(self, server, hook, project_id):
        for verb in (hook.get_project, hook.delete_project):
            with pytest.raises(errors.MagicHourArgumentError, match="project_id"):
                verb("image", project_id)
        assert server.seen == []

    def test_bad_kind_is_refused_before_any_request(self, server, hook):
        for verb in (hook.get_project, hook.delete_project):
            with pytest.raises(errors.MagicHourArgumentError, match="kind"):
                verb("picture", "a")
        assert server.seen == []


class TestDelete:
    def test_deleted_and_missing_projects_are_distinguished(self, server, hook):
        server.respond = lambda seen: GONE if seen.path.endswith("b") else Reply(204)
        assert hook.delete_project("video", "a") is True
        assert hook.delete_project("video", "b") is False
        assert hook.delete_project("video", ["a", "b"]) == [True, False]

    def test_missing_ok_false_raises_not_found(self, server, hook):
        server.script(GONE)
        with pytest.raises(errors.MagicHourNotFoundError):
            hook.delete_project("video", "a", missing_ok=False)

    def test_all_projects_are_tried_before_the_error(self, server, hook):
        server.respond = lambda seen: (
            Reply(422, {"message": "template"}) if seen.path.endswith("a") else Reply(204)
        )
        with pytest.raises(errors.MagicHourInvalidRequestError, match="template"):
            hook.delete_project("video", ["a", "b", "c"])
        assert routes(server) == [f"DELETE /v1/video-projects/{project_id}" for project_id in "abc"]

    @pytest.mark.parametrize(("second", "final"), [(422, True), (404, True), (501, False)])
    def test_several_failures_are_final_only_if_all_are(self, server, hook, second, final):
        server.respond = lambda seen: Reply(422 if seen.path.endswith("a") else second, {"message": "no"})
        with pytest.raises(errors.MagicHourBatchError, match=r"2 of 2 failed: a: .* b: ") as caught:
            hook.delete_project("video", ["a", "b"], missing_ok=False)
        assert isinstance(caught.value, AirflowFailException) is final


class TestPassingOnWhatATaskReturned:
    CREATED: ClassVar = {"id": "a", "kind": "video", "tool": "face-swap", "credits_charged": 5}

    def test_kind_comes_from_the_value(self, server, hook):
        server.script(Reply(body={"id": "a", "status": "complete"}))
        generated = {"project": {"id": "a", "kind": "video"}, "files": []}
        assert hook.get_project(None, self.CREATED)["id"] == "a"
        assert [one["id"] for one in hook.get_project(None, [self.CREATED, generated])] == ["a", "a"]
        assert hook.wait_for_project(None, generated, timedelta(seconds=30))["id"] == "a"
        assert hook.check_result(None, self.CREATED, False, False)["id"] == "a"
        assert hook.delete_project(None, self.CREATED) is True
        assert hook.delete_project(None, [generated]) == [True]
        assert {seen.path for seen in server.seen} == {"/v1/video-projects/a"}

    def test_contradicting_kind_never_leaves(self, server, hook):
        for method in (hook.get_project, hook.delete_project):
            with pytest.raises(errors.MagicHourArgumentError, match="video project a"):
                method("image", self.CREATED)
        with pytest.raises(errors.MagicHourArgumentError, match="video project a"):
            hook.wait_for_project("image", self.CREATED, 5)
        with pytest.raises(errors.MagicHourArgumentError, match="kind must be given"):
            hook.get_project(None, "a")
        assert server.seen == []

    def test_empty_list_is_nothing_to_do(self, server, hook, tmp_path):
        assert hook.get_project("image", []) == []
        assert hook.wait_for_project(None, [], 5) == []
        assert hook.delete_project(None, []) == []
        assert server.seen == []


class TestWrongKind:
    @pytest.fixture
    def image(self, connect):
        with Simulator(duration=0) as sim:
            connect(sim.url, sim.api_key)
            hook = MagicHourHook()
            made = hook.create_project("ai-image-generator", {"image_count": 1, "style": {"prompt": "a"}})
            yield sim, hook, made["id"]

    def test_error_says_which_kind_it_is(self, image):
        _, hook, project_id = image
        for kind in ("video", "audio"):
            with pytest.raises(
                errors.MagicHourWrongKindError, match=rf"{project_id} is an image, not an? {kind}"
            ):
                hook.get_project(kind, project_id)
        with pytest.raises(errors.MagicHourWrongKindError, match="is an image, not a video"):
            hook.get_project("video", ["nowhere", project_id][1:])

    def test_delete_of_another_kind_fails_also_with_missing_ok(self, image):
        sim, hook, project_id = image
        for missing_ok in (True, False):
            with pytest.raises(errors.MagicHourWrongKindError, match="is an image, not a video"):
                hook.delete_project("video", project_id, missing_ok)
        with pytest.raises(errors.MagicHourWrongKindError) as caught:
            hook.delete_project("video", ["nowhere", project_id])
        assert caught.value.__notes__ == [f"1 of 2 failed: {project_id}"]
        assert sim.state()["projects"][project_id]["enabled"]
        assert hook.delete_project("image", project_id) is True

    def test_delete_is_not_missing_while_the_other_kinds_cannot_be_asked(self, server, hook):
        server.respond = lambda seen: (
            GONE if "image" in seen.path else Reply(503, {"code": "unavailable", "message": "busy"})
        )
        with pytest.raises(errors.MagicHourServerError, match="busy"):
            hook.delete_project("image", "a")

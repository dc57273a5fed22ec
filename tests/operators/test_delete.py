from __future__ import annotations

import pytest

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour.operators import MagicHourCleanupOperator, MagicHourDeleteProjectOperator
from tests.support.files import complete_project, entries, write_old_receipt
from tests.support.tasks import task_context


def delete(project_id, **arguments):
    given = {"kind": "image", **arguments}
    operator = MagicHourDeleteProjectOperator(task_id="delete", project_id="{{ rendered }}", **given)
    operator.project_id = project_id  # as Airflow renders it
    return operator.execute(task_context())


def test_one_project_is_deleted(magichour_simulator, hook):
    project_id = complete_project(magichour_simulator, hook)
    assert delete(project_id) == {"deleted": [project_id], "missing": []}
    assert magichour_simulator.state()["projects"][project_id]["enabled"] is False
    assert delete(project_id) == {"deleted": [], "missing": [project_id]}
    with pytest.raises(errors.MagicHourNotFoundError):
        delete(project_id, missing_ok=False)


def test_list_is_deleted_with_one_call_each(magichour_simulator, hook):
    ids = [complete_project(magichour_simulator, hook) for _ in range(5)]
    assert delete([ids[0], "nowhere", *ids]) == {"deleted": ids, "missing": ["nowhere"]}
    assert len([one for one in magichour_simulator.requests() if one["method"] == "DELETE"]) == 6
    assert delete([]) == {"deleted": [], "missing": []}


def test_all_projects_are_tried_and_each_failure_is_named(magichour_simulator, hook):
    magichour_simulator.faults({"undeletable": True, "times": 2})
    ids = [complete_project(magichour_simulator, hook) for _ in range(4)]
    with pytest.raises(errors.MagicHourError, match="2 of 4") as caught:
        delete(ids)
    projects = magichour_simulator.state()["projects"]
    assert [projects[one]["enabled"] for one in ids] == [True, True, False, False]
    assert ids[0] in str(caught.value)
    assert ids[1] in str(caught.value)
    assert [projects[one]["deletes"] for one in ids[:2]] == [1, 1]  # 422 is not tried again


def test_transient_errors_are_retried(magichour_simulator, hook, monkeypatch):
    from airflow_provider_magichour._client import retry

    monkeypatch.setattr(retry, "retry_wait", lambda *_: 0.0)
    project_id = complete_project(magichour_simulator, hook)
    magichour_simulator.faults({"match": {"method": "DELETE"}, "status": 503, "times": 2})
    assert delete(project_id)["deleted"] == [project_id]


@pytest.mark.parametrize("kind", ["document", "", None])
def test_constructor_refuses_a_wrong_kind(kind):
    with pytest.raises(errors.MagicHourArgumentError, match="kind"):
        MagicHourDeleteProjectOperator(task_id="delete", project_id="p", kind=kind)


@pytest.mark.parametrize("project_id", [None, "", "a/b", ["a", ""], 7])
def test_wrong_id_is_refused_before_any_request(magichour_simulator, hook, project_id):
    with pytest.raises(errors.MagicHourArgumentError, match="project_id"):
        delete(project_id)
    assert magichour_simulator.requests() == []


def test_proxy_404_page_does_not_count_as_deleted(magichour_simulator, hook):
    project_id = complete_project(magichour_simulator, hook)
    page = {"match": {"route": "delete_project"}, "times": 1, "status": 404, "body": "<html>blocked</html>"}
    magichour_simulator.faults(page)
    with pytest.raises(errors.MagicHourGatewayError, match="blocked"):
        delete(project_id)
    assert delete(project_id) == {"deleted": [project_id], "missing": []}


@pytest.mark.parametrize("missing_ok", [True, False])
def test_gateway_that_refuses_deletes_does_not_count_as_deleted(
    magichour_simulator, hook, tmp_path, missing_ok
):
    project_id = complete_project(magichour_simulator, hook)
    hook.download_project("image", project_id, str(tmp_path))
    no_route = {"message": "no Route matched with those values"}
    magichour_simulator.faults({"match": {"route": "delete_project"}, "status": 404, "body": no_route})
    for given in (project_id, [project_id]):
        with pytest.raises(errors.MagicHourError, match=f"{project_id}.*but it is there"):
            delete(given, missing_ok=missing_ok, destination=str(tmp_path))
    magichour_simulator.clear_faults()
    assert delete(project_id, destination=str(tmp_path)) == {"deleted": [project_id], "missing": []}


def test_what_other_tasks_returned_is_deleted_without_a_kind(magichour_simulator, hook):
    first, second, third = (complete_project(magichour_simulator, hook) for _ in range(3))
    returned = [
        {"id": first, "kind": "image", "tool": "ai-image-generator", "credits_charged": 5},
        {"project": {"id": second, "kind": "image", "status": "complete"}, "files": []},
        third,
    ]
    assert delete(returned, kind=None) == {"deleted": [first, second, third], "missing": []}
    assert delete(returned[1], kind=None) == {"deleted": [], "missing": [second]}


@pytest.mark.parametrize("project_id", ["None", " null ", "{'id': 'p1', 'kind': 'image'}", {"status": "x"}])
@pytest.mark.parametrize("kind", ["image", None])
def test_missing_xcom_is_refused_before_any_request(magichour_simulator, hook, project_id, kind):
    with pytest.raises(errors.MagicHourArgumentError, match="project_id"):
        delete(project_id, kind=kind)
    assert magichour_simulator.requests() == []


@pytest.mark.parametrize("missing_ok", [True, False, "True"])
def test_project_of_another_kind_is_never_taken_for_deleted(magichour_simulator, hook, missing_ok):
    project_id = complete_project(magichour_simulator, hook)
    with pytest.raises(
        errors.MagicHourWrongKindError, match=f"{project_id} is an image, not a video"
    ) as caught:
        delete(project_id, kind="video", missing_ok=missing_ok)
    what_to_do, _, of_other_tasks = str(caught.value).partition(" Only if a create or generate task failed")
    assert what_to_do.endswith("pass kind='image' together with its id.")
    assert "download" in of_other_tasks
    assert magichour_simulator.state()["projects"][project_id]["enabled"]


def test_rendered_missing_ok_is_read_as_a_truth_value(magichour_simulator, hook):
    with pytest.raises(errors.MagicHourNotFoundError):
        delete("nowhere", missing_ok="False")
    with pytest.raises(errors.MagicHourArgumentError, match="missing_ok"):
        delete("nowhere", missing_ok="perhaps")


def test_base_url_may_end_in_v1(magichour_simulator, hook, connect):
    project_id = complete_project(magichour_simulator, hook)
    connect(f"{magichour_simulator.url}/v1", magichour_simulator.api_key)
    assert delete(project_id) == {"deleted": [project_id], "missing": []}


# --------------------------------------------------------------------------------------------- records


def test_deletion_is_recorded_where_the_destination_is_given(sim, hook, tmp_path):
    ids = [complete_project(sim, hook) for _ in range(3)]
    hook.download_project("image", ids, str(tmp_path))
    assert delete(ids[:2], destination=str(tmp_path)) == {"deleted": ids[:2], "missing": []}
    recorded = {
        data["project_id"]: data["outcome"] for name, data in entries(tmp_path).items() if data["event"]
    }
    assert recorded == dict.fromkeys(ids[:2], "deleted")
    deletions = len(sim.requests("delete_project"))
    clean_up = MagicHourCleanupOperator(task_id="c", destination=str(tmp_path), older_than="0 days")
    assert clean_up.execute(task_context()) == {"deleted": ids[2:], "missing": [], "kept": []}
    assert len(sim.requests("delete_project")) == deletions + 1


def test_deletion_is_recorded_below_the_root_of_a_template(sim, hook, tmp_path):
    project_id = complete_project(sim, hook)
    hook.download_project("image", project_id, str(tmp_path / "a"), index=str(tmp_path))
    operator = MagicHourDeleteProjectOperator(
        task_id="delete", project_id=project_id, kind="image", destination=f"{tmp_path}/{{{{ ds }}}}"
    )
    operator.destination = str(tmp_path / "a")
    operator.execute(task_context())
    assert len(entries(tmp_path)) == 2


def test_deletion_of_an_old_receipts_project_leaves_the_old_index(sim, hook, tmp_path):
    project_id = complete_project(sim, hook)
    (file,) = hook.download_project("image", project_id, str(tmp_path), receipt=False)
    hint = write_old_receipt(tmp_path, project_id, files=[{**file, "path": f"{project_id}/output.png"}])
    hook.delete_project("image", project_id)
    sim.faults({"match": {"route": "get_project"}, "status": 404})
    assert delete(project_id, destination=str(tmp_path)) == {"deleted": [], "missing": [project_id]}
    assert not hint.exists()
    assert {data["event"] for data in entries(tmp_path).values()} == {None, "deleted"}


def test_another_accounts_404_is_not_recorded(sim, hook, tmp_path, connect, caplog):
    project_id = complete_project(sim, hook)
    hook.download_project("image", project_id, str(tmp_path))
    sim.add_account("mhk_other_account")
    connect(sim.url, "mhk_other_account")
    assert delete(project_id, destination=str(tmp_path))["missing"] == [project_id]
    assert len(entries(tmp_path)) == 1
    assert "belongs to the account" in caplog.text


def test_404_is_not_recorded_where_the_account_cannot_be_read(sim, hook, tmp_path, caplog):
    project_id = complete_project(sim, hook)
    write_old_receipt(
        tmp_path, project_id, files=[{"path": f"{project_id}/output.png", "bytes": 3, "sha256": "a" * 64}]
    )
    sim.faults(
        {"match": {"route": "get_account"}, "status": 500},
        {"match": {"route": "get_project"}, "status": 404},
        {"match": {"route": "delete_project"}, "status": 404},
    )
    assert delete(project_id, destination=str(tmp_path))["missing"] == [project_id]
    assert entries(tmp_path) == {}
    assert "account cannot be read" in caplog.text


def test_what_succeeded_is_recorded_where_others_fail(sim, hook, tmp_path):
    sim.faults({"undeletable": True, "times": 1})
    template, other = (complete_project(sim, hook) for _ in range(2))
    hook.download_project("image", [template, other], str(tmp_path))
    with pytest.raises(errors.MagicHourError, match=template):
        delete([template, other], destination=str(tmp_path))
    assert [data["project_id"] for data in entries(tmp_path).values() if data["event"]] == [other]


def test_project_without_a_receipt_is_deleted_all_the_same(sim, hook, tmp_path):
    project_id = complete_project(sim, hook)
    assert delete(project_id, destination=str(tmp_path)) == {"deleted": [project_id], "missing": []}
    assert entries(tmp_path) == {}

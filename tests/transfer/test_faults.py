"""Downloads with faults: the file is complete in the end, or there is no file."""

from __future__ import annotations

import pytest
import requests

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.files import IMAGE, complete_project, sha256, visible
from tests.transfer.conftest import assert_whole, digest

DOWNLOADS = {"host": "downloads"}


def original(hook, project_id):
    """Return the sha256 of what Magic Hour has."""
    (download,) = hook.get_project("image", project_id)["downloads"]
    return digest(requests.get(download["url"], timeout=10).content)


def big_project(simulator, hook):
    simulator.faults({"output_bytes": 1_000_000, "times": 1})
    return complete_project(simulator, hook)


def test_download_cut_anywhere_is_resumed(magichour_simulator, hook, tmp_path):
    project_id = big_project(magichour_simulator, hook)
    wanted = original(hook, project_id)
    for tenth in range(11):
        rule = {"match": DOWNLOADS, "drop_after_percent": tenth * 10, "times": 1}
        magichour_simulator.faults(rule)
        files = hook.download_project("image", project_id, str(tmp_path), overwrite=True)
        assert_whole(files, wanted)
    assert visible(tmp_path) == [f"{project_id}/output.png"]


def test_many_cuts_resume_where_they_stopped(magichour_simulator, hook, tmp_path):
    project_id = big_project(magichour_simulator, hook)
    wanted = original(hook, project_id)
    magichour_simulator.faults({"match": DOWNLOADS, "drop_after_bytes": 100_000, "times": 9})
    assert_whole(hook.download_project("image", project_id, str(tmp_path)), wanted)
    asked = [one["headers"].get("range") for one in magichour_simulator.requests("download")][1:]
    assert asked == [None, *(f"bytes={tenth}00000-" for tenth in range(1, 10))]


@pytest.mark.parametrize(
    "rule",
    [
        {"hang_up": "reset", "drop": "before"},
        {"status": 500},
        {"status": 429, "headers": {"Retry-After": "0"}},
        {"expired": True},
        {"status": 403},
        {"status": 404},
        {"status": 410},
        {"html": True, "status": 200},
        {"html": True, "status": 502},
        {"body": {"message": "not now"}, "status": 200},
        {"gzip": True},
        {"chunked": True},
        {"chunked": True, "drop_after_percent": 50},
        {"gzip": True, "drop_after_percent": 50},
        {"drip_bytes": 300_000, "drip_seconds": 0.1},
    ],
)
def test_transient_error_is_retried(magichour_simulator, hook, tmp_path, rule):
    project_id = big_project(magichour_simulator, hook)
    wanted = original(hook, project_id)
    magichour_simulator.faults({"match": DOWNLOADS, "times": 1, **rule})
    assert_whole(hook.download_project("image", project_id, str(tmp_path)), wanted)


@pytest.mark.parametrize("wrong", ["shift", "refuse", "ignore"])
def test_wrong_content_range_restarts_the_file(magichour_simulator, hook, tmp_path, wrong):
    project_id = big_project(magichour_simulator, hook)
    wanted = original(hook, project_id)
    magichour_simulator.faults(
        {"match": DOWNLOADS, "drop_after_percent": 60, "times": 1},
        {"match": DOWNLOADS, "range": wrong, "times": 1},
    )
    assert_whole(hook.download_project("image", project_id, str(tmp_path)), wanted)


def test_changed_file_is_downloaded_from_the_start(magichour_simulator, hook, tmp_path):
    project_id = big_project(magichour_simulator, hook)
    before = original(hook, project_id)
    magichour_simulator.faults(
        {"match": DOWNLOADS, "drop_after_percent": 60, "times": 1},
        {"match": DOWNLOADS, "version": "second"},
    )
    (file,) = hook.download_project("image", project_id, str(tmp_path))
    assert file["sha256"] != before
    assert file["sha256"] == sha256(file["path"]) == original(hook, project_id)


def test_expired_url_is_renewed_within_a_download(magichour_simulator, hook, tmp_path):
    project_id = big_project(magichour_simulator, hook)
    wanted = original(hook, project_id)
    magichour_simulator.faults(
        {"match": DOWNLOADS, "drop_after_percent": 50, "times": 1},
        {"match": DOWNLOADS, "expired": True, "times": 3},
    )
    assert_whole(hook.download_project("image", project_id, str(tmp_path)), wanted)
    ranges = [one["headers"].get("range") for one in magichour_simulator.requests("download")]
    assert ranges[-1] not in {None, "bytes=0-"}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"expired": True}, "ExpiredToken|not valid"),
        ({"status": 500}, "500"),
        ({"html": True, "status": 200}, "web page|text/html"),
        ({"shorten_to_bytes": 0}, "empty"),
        ({"drop": "before"}, "tries in a row"),
        ({"drop_after_bytes": 1000}, "tries in a row"),
        ({"drip_bytes": 10, "drip_seconds": 0.3}, "bytes came in"),
    ],
)
def test_lasting_error_leaves_no_file(magichour_simulator, hook, tmp_path, connect, rule, said):
    project_id = complete_project(magichour_simulator, hook)
    timeout = 1.5 if "drip_bytes" in rule else 30
    connect(magichour_simulator.url, magichour_simulator.api_key, timeout=timeout, max_attempts=2)
    hook = MagicHourHook()
    magichour_simulator.faults({"match": DOWNLOADS, **rule})
    with pytest.raises(errors.MagicHourDownloadError, match=said) as caught:
        hook.download_project("image", project_id, str(tmp_path))
    assert caught.value.project_id == project_id
    assert "signature=" not in str(caught.value)
    assert visible(tmp_path) == []


def test_key_is_sent_to_no_download_host(magichour_simulator, hook, tmp_path):
    hook.download_project("image", complete_project(magichour_simulator, hook), str(tmp_path))
    assert magichour_simulator.state()["leaked_keys"] == 0


def test_fresh_urls_are_requested_three_times_without_progress(magichour_simulator, hook, tmp_path):
    project_id = complete_project(magichour_simulator, hook)
    magichour_simulator.faults({"match": DOWNLOADS, "expired": True})
    with pytest.raises(errors.MagicHourDownloadError, match="3 fresh presigned URLs"):
        hook.download_project("image", project_id, str(tmp_path))
    assert len(magichour_simulator.requests("download")) == 4
    assert len(magichour_simulator.requests("get_project")) == 4


@pytest.mark.parametrize(
    ("status", "said"),
    [("queued", "not complete"), ("rendering", "not complete"), ("complete", "no download")],
)
def test_project_without_files_names_the_reason(magichour_simulator, hook, tmp_path, status, said):
    project_id = str(hook.create_project("ai-image-generator", IMAGE)["id"])
    magichour_simulator.faults(
        {"match": {"route": "get_project"}, "merge": {"status": status, "downloads": []}}
    )
    with pytest.raises(errors.MagicHourDownloadError, match=said):
        hook.download_project("image", project_id, str(tmp_path))


def test_failed_project_quotes_the_api_message(magichour_simulator, hook, tmp_path):
    project_id = complete_project(magichour_simulator, hook)
    failed = hook.create_project("ai-image-generator", IMAGE)["id"]
    magichour_simulator.end_project(failed, "error", "no_source_face", "No face was found")
    with pytest.raises(errors.MagicHourProjectFailedError, match="No face was found"):
        hook.download_project("image", failed, str(tmp_path))
    with pytest.raises(errors.MagicHourProjectFailedError):
        hook.download_project("image", [failed, project_id], str(tmp_path))
    assert visible(tmp_path) == [f"{project_id}/output.png"]
    results = hook.download_all("image", [failed, project_id, "nowhere"], str(tmp_path))
    assert isinstance(results[0], errors.MagicHourProjectFailedError)
    assert results[1][0]["path"].endswith("output.png")
    assert isinstance(results[2], errors.MagicHourNotFoundError)

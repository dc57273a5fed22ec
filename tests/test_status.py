"""What a response means for a wait."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._client import api
from airflow_provider_magichour._polling.status import StatusCheck, classify_response


@given(st.binary(max_size=200), st.sampled_from([200, 201, 204, 302, 400, 422, 429, 500, 503]))
def test_response_about_another_project_ends_no_wait(body: bytes, status: int) -> None:
    request = api.get_project("image", "p1")
    check = classify_response(request, api.Response(status, {}, body))
    assert check.error is None
    assert check.outcome is None
    assert isinstance(check.transient_error, errors.MagicHourError)


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), st.integers()
    ),
    st.sampled_from(["queued", "rendering", "new!"]),
)
def test_unknown_fields_and_statuses_pass_through(more: dict[str, int], status: str) -> None:
    request = api.get_project("image", "p1")
    said = {**more, "id": "p1", "status": status, "enabled": True}
    check = classify_response(request, api.Response(200, {}, json.dumps(said).encode()))
    assert check == StatusCheck(project=said)

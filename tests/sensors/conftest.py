from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.support.airflow import IS_AIRFLOW_3

MODES = ("poke", "reschedule", "deferrable")


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "reschedule" and not IS_AIRFLOW_3:
        # Airflow 2 asks its database when the sensor was rescheduled first.
        now = datetime.now(UTC)
        monkeypatch.setattr("airflow.sensors.base._orig_start_date", lambda **_: now)
    return str(request.param)

"""Finds the faces in an image or a video."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._validation import argument_error, check_seconds, is_settled, optional
from airflow_provider_magichour.operators.base import MagicHourOperator, on_a_thread

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour.operators._submit import Submitter
    from airflow_provider_magichour.types import Templated

log = logging.getLogger(__name__)


class MagicHourDetectFacesOperator(MagicHourOperator):
    """
    Find the faces in an image or a video, to swap several of them in one project.

    This takes some seconds, so the task stays on its worker. A retry continues with the same detection, on
    Airflow 3.3 or newer, or with ``submit_records`` in the connection.

    :param assets: ``{"target_file_path": ...}``; a local path or an object-storage URL is uploaded first.
        (templated)
    :param confidence_score: the lowest confidence of a face, from 0 to 1; Magic Hour's default (0.5) if None.
        (templated)
    :param poll_interval: seconds between status checks; if None, the interval grows with time. (templated)
    :param timeout: the most seconds to wait. (templated)
    :param durable: whether to record the submit, so that a retry finds it.
    :param magichour_conn_id: the connection. (templated)
    :return: the faces, each as ``{"path", "url"}``. Use the path as ``original_face`` in the
        ``face_mappings`` of the tools ``face-swap`` and ``face-swap-photo``.
    :raises MagicHourUncertainSubmitError: if it is unknown whether the detection was accepted.
    :raises MagicHourRenderError: if the detection failed; a retry submits it again.
    :raises MagicHourTimeoutError: if it was not finished in time; a retry continues to wait.
    """

    template_fields: Sequence[str] = (
        *MagicHourOperator.template_fields,
        "assets",
        "confidence_score",
        "poll_interval",
        "timeout",
    )

    def __init__(
        self,
        *,
        assets: Templated[dict[str, Any]],
        confidence_score: Templated[float | str | None] = None,
        poll_interval: Templated[timedelta | float | str | None] = None,
        timeout: Templated[timedelta | float | str] = 600.0,
        durable: bool = True,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(magichour_conn_id=magichour_conn_id, **kwargs)
        self.assets: Any = assets
        self.confidence_score: Any = confidence_score
        self.poll_interval: Any = poll_interval
        self.timeout: Any = timeout
        self.durable = durable
        self._submitter: Submitter | None = None
        if is_settled(assets):
            _check_assets(assets)
        if is_settled(confidence_score):
            _check_score(confidence_score)
        if is_settled(poll_interval):
            optional(check_seconds, poll_interval, "poll_interval")
        if is_settled(timeout):
            check_seconds(timeout, "timeout")

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Submit, or continue with the detection of an earlier try; then wait."""
        from airflow_provider_magichour.exceptions import MagicHourError
        from airflow_provider_magichour.operators._create import open_records
        from airflow_provider_magichour.operators._detections import DetectionSubmitter

        body: dict[str, Any] = {"assets": _check_assets(self.assets)}
        if (score := _check_score(self.confidence_score)) is not None:
            body["confidence_score"] = score
        records = open_records(self, context)
        seconds = check_seconds(self.timeout, "timeout")
        interval = optional(check_seconds, self.poll_interval, "poll_interval")
        with records.ending(self._is_killed):
            self._submitter = DetectionSubmitter(self.hook, records)
            if self._is_killed():  # before there was a submitter to stop
                self._submitter.stop(0)
            (submitted,) = self._submitter.submit([body])
            if isinstance(submitted, MagicHourError):
                raise submitted
        faces = self._wait(str(submitted.id), seconds, interval).get("faces")
        found = [dict(face) for face in faces if isinstance(face, Mapping)] if isinstance(faces, list) else []
        log.info("Detection %s: %d faces.", submitted.id, len(found))
        records.end(succeeded=True)
        return found

    def on_kill(self) -> None:
        """Submit nothing more, and stop waiting."""
        from airflow_provider_magichour.operators._create import KILL_SECONDS

        super().on_kill()
        if (submitter := self._submitter) is not None:
            on_a_thread(lambda: submitter.stop(KILL_SECONDS), KILL_SECONDS + 1)

    def _wait(self, detection_id: str, seconds: float, interval: float | None) -> Mapping[str, Any]:
        from airflow_provider_magichour._polling.status import FACE_DETECTION
        from airflow_provider_magichour._polling.wait import wait_for_finished
        from airflow_provider_magichour._polling.wait_request import WaitRequest
        from airflow_provider_magichour.exceptions import MagicHourRenderError
        from airflow_provider_magichour.hooks.connection import get_settings_async

        request = WaitRequest(
            FACE_DETECTION,
            [detection_id],
            time.time() + seconds,
            interval,
            is_killed=self._is_killed,
        )
        outcomes, detections = wait_for_finished(
            request, self.magichour_conn_id, get_settings_async, logger=self.log
        )
        if outcomes[detection_id] != "complete":
            raise MagicHourRenderError(detection_id, None, "the face detection failed")
        return detections[detection_id]


def _check_assets(assets: Any) -> dict[str, Any]:
    from airflow_provider_magichour._validation.bodies import check_body

    checked = check_body(assets, "assets")
    target = checked.get("target_file_path")
    if not isinstance(target, str | os.PathLike) or not str(target).strip():
        raise argument_error(
            "assets must have target_file_path, the image or video to search for faces, "
            f"not {target!r} under that name"
        )
    return checked


def _check_score(score: Any) -> float | None:
    if score is None:
        return None
    try:
        number = float(score)  # a template gives text
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(score, bool) or not 0 <= number <= 1:
        raise argument_error(f"confidence_score must be a number from 0 to 1, not {score!r}")
    return number

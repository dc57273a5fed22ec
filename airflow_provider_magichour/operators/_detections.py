"""Submits face detections. They are not projects, but may cost credits in the future."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_magichour._client import api
from airflow_provider_magichour.operators._submit import Submitter

if TYPE_CHECKING:
    from airflow_provider_magichour.hooks import MagicHourHook
    from airflow_provider_magichour.operators._submit_records import SubmitRecords


class DetectionSubmitter(Submitter):
    """Submits one face detection, or continues with that of an earlier try."""

    def __init__(self, hook: MagicHourHook, records: SubmitRecords) -> None:
        super().__init__(hook, "face-detection", "image", records)

    def _request(self, body: dict[str, Any]) -> api.Request:
        return api.detect_faces(body)

    def _get(self, project_id: str) -> api.Request:
        return api.get_face_detection(project_id)

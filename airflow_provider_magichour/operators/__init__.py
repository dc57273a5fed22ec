"""What a DAG author writes: an operator for each stage of a project's life."""

from __future__ import annotations

from airflow_provider_magichour.operators.cleanup import MagicHourCleanupOperator
from airflow_provider_magichour.operators.create import MagicHourCreateProjectOperator
from airflow_provider_magichour.operators.delete import MagicHourDeleteProjectOperator
from airflow_provider_magichour.operators.detect_faces import MagicHourDetectFacesOperator
from airflow_provider_magichour.operators.download import MagicHourDownloadOperator
from airflow_provider_magichour.operators.generate import MagicHourGenerateOperator
from airflow_provider_magichour.operators.upload import MagicHourUploadOperator

__all__ = [
    "MagicHourCleanupOperator",
    "MagicHourCreateProjectOperator",
    "MagicHourDeleteProjectOperator",
    "MagicHourDetectFacesOperator",
    "MagicHourDownloadOperator",
    "MagicHourGenerateOperator",
    "MagicHourUploadOperator",
]

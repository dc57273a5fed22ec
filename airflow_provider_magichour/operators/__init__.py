"""The operators. Each one is imported when it is first used, so that DAG files are parsed quickly."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = ("cleanup", "create", "delete", "detect_faces", "download", "generate", "upload")


def __getattr__(name: str) -> Any:
    """Load an operator."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[__all__.index(name)]}")
    globals()[name] = operator = getattr(module, name)
    return operator

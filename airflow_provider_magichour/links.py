"""The "Magic Hour" button of a task: the project in the web app's library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

__all__ = ["MagicHourProjectLink"]

LIBRARY = "https://magichour.ai/my-library"


def project_url(kind: str, project_id: str) -> str:
    """Return where a person looks at the project."""
    return f"{LIBRARY}?{kind}Id={quote(project_id, safe='')}"


class MagicHourProjectLink(BaseOperatorLink):
    """Opens the task's project in the Magic Hour library; of a list, the first one's."""

    # Airflow declares both as properties, and reads them like any attribute. The key is the one that
    # Airflow 3 derives; 2.11 has none.
    name = "Magic Hour"  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    xcom_key = "_link_MagicHourProjectLink"  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address that the task left, empty where it left none."""
        key: Any = ti_key  # Airflow's two descriptions of the same key do not fit each other
        return str(XCom.get_value(key=self.xcom_key, ti_key=key) or "")

    @classmethod
    def push(cls, context: Mapping[str, Any], kind: str, project_id: str) -> None:
        """Leave the address while the task still runs or waits, so that the button works from then on."""
        context["ti"].xcom_push(key=cls.xcom_key, value=project_url(kind, project_id))

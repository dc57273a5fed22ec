"""The buttons of a task: its project in the web app's library, and its media in the view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom, conf

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

__all__ = ["MagicHourMediaLink", "MagicHourProjectLink"]

LIBRARY = "https://magichour.ai/my-library"
#: Where the API server has the view.
VIEW_PATH = "/magichour/view"
#: The most project ids in a link to the view. With more projects, the link shows the run.
MOST_PROJECTS = 50


def project_url(kind: str, project_id: str) -> str:
    """Return the page of the project in the library."""
    return f"{LIBRARY}?{kind}Id={quote(project_id, safe='')}"


def view_url(*, is_path: bool = False) -> str:
    """
    Return the URL of the view.

    :param is_path: whether to leave out the host, for pages of Airflow itself.
    """
    base = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{urlsplit(base).path if is_path else base}{VIEW_PATH}/"


def media_url(dag_id: str, run_id: str, project_ids: Sequence[str]) -> str:
    """Return the view's URL for the media of projects; empty if the view is off."""
    if not conf.get("magichour", "view_roots", fallback=""):
        return ""
    if len(project_ids) > MOST_PROJECTS:
        return f"{view_url()}?dag={quote(dag_id, safe='')}&run={quote(run_id, safe='')}"
    return f"{view_url()}?projects={quote(','.join(project_ids), safe=',')}"


class MagicHourProjectLink(BaseOperatorLink):
    """Opens the task's project in the Magic Hour library; for a list, the first project."""

    # Airflow declares both as properties, but reads them as attributes. The key is the one that Airflow 3
    # computes; 2.11 has none.
    name = "Magic Hour"  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    xcom_key = "_link_MagicHourProjectLink"  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL that the task stored, or an empty text."""
        key: Any = ti_key  # Airflow's two descriptions of the same key do not fit each other
        return str(XCom.get_value(key=self.xcom_key, ti_key=key) or "")


class MagicHourMediaLink(MagicHourProjectLink):
    """Opens the view with the task's projects; empty if the view is off."""

    name = "Media"  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    xcom_key = "_link_MagicHourMediaLink"  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]


def task_links() -> tuple[BaseOperatorLink, ...]:
    """Return the buttons of a task, without those that are off, because each one costs a write."""
    is_on = conf.get("magichour", "view_roots", fallback="")
    return (MagicHourProjectLink(), MagicHourMediaLink()) if is_on else (MagicHourProjectLink(),)


def push_links(context: Mapping[str, Any], kind: str, project_ids: Sequence[str]) -> None:
    """Store the URLs while the task still runs or waits, so that the buttons work from then on."""
    context["ti"].xcom_push(key=MagicHourProjectLink.xcom_key, value=project_url(kind, project_ids[0]))
    push_media_link(context, project_ids)


def push_media_link(context: Mapping[str, Any], project_ids: Sequence[str]) -> None:
    """Store the URL of the projects' media, if the view is on."""
    ti = context["ti"]
    if url := media_url(ti.dag_id, ti.run_id, project_ids):
        ti.xcom_push(key=MagicHourMediaLink.xcom_key, value=url)

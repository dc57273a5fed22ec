"""Adds the view to Airflow's API server and menu. It uses no resources while it is off."""

from __future__ import annotations

import functools
from typing import Any

from airflow.providers.common.compat.sdk import AirflowPlugin

from airflow_provider_magichour.links import VIEW_PATH, view_url
from airflow_provider_magichour.ui.roots import view_roots


@functools.cache
def _create_app() -> Any:
    """Return the application. It is created at the first request, because few processes need it."""
    from airflow_provider_magichour.ui.app import create_app
    from airflow_provider_magichour.ui.library import Library

    return create_app(Library(view_roots()))


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await _create_app()(scope, receive, send)


_IS_ON = bool(view_roots())


class MagicHourViewPlugin(AirflowPlugin):
    """Mounts the view in the API server, and opens it from the menu: Airflow 3.1 and newer."""

    name = "magichour_view"
    # in the form that Airflow requires, which it reads when it loads the plugin
    fastapi_apps = [{"app": _app, "url_prefix": VIEW_PATH, "name": "Magic Hour view"}][: int(_IS_ON)]
    external_views = [
        {
            "name": "Magic Hour",
            "href": view_url(is_path=True),
            "destination": "nav",
            "icon": f"{view_url(is_path=True)}static/icon.svg",
        }
    ][: int(_IS_ON)]

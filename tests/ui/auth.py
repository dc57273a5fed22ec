"""An auth manager of which one user may read one DAG only."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

USERS = [
    SimpleAuthManagerUser(username="admin", role="ADMIN"),
    SimpleAuthManagerUser(username="reader", role="VIEWER"),
    SimpleAuthManagerUser(username="stranger", role="VIEWER"),
]


class OneDagAuthManager(SimpleAuthManager):
    """``admin`` reads all DAGs, ``reader`` the DAG ``readable``, ``stranger`` none."""

    def is_authorized_dag(self, *, user: Any, details: Any = None, **_: Any) -> bool:
        if user.username == "admin":
            return True
        # what Airflow asks without a DAG's id is whether there is any right at all
        dag_id = details.id if details else None
        return dag_id is None or (user.username == "reader" and dag_id == "readable")

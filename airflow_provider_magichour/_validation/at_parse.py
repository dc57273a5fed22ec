"""Checks while a DAG is parsed, which load the checks of ids only where a DAG file holds ids."""

from __future__ import annotations

from airflow_provider_magichour._validation import is_settled


def check_projects_at_parse(value: object, kind: object) -> None:
    """
    Check the arguments that no template and no XCom can change, when a DAG is parsed.

    :raises MagicHourArgumentError: as :func:`projects.read_projects` does.
    """
    if is_settled(value) and is_settled(kind):
        from airflow_provider_magichour._validation.projects import read_projects

        read_projects(value, kind)
    elif kind is not None and is_settled(kind):
        from airflow_provider_magichour.tools import check_kind

        check_kind(kind)

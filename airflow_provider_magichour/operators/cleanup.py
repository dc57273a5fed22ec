"""The clean-up operator."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._transfer.locations import check_location
from airflow_provider_magichour._validation import check_age, check_bool, check_count, is_settled
from airflow_provider_magichour.operators.base import MagicHourOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour.types import Templated


class MagicHourCleanupOperator(MagicHourOperator):
    """
    Delete projects at Magic Hour that were downloaded long enough ago, if their files are still stored.

    The task reads the entries that downloads wrote into the catalogue. It uses only entries of its own
    connection and account. It keeps a project if a file is missing or has another size, or if Magic Hour does
    not delete it. It then logs a warning, and the next run tries again. The next run also completes a run
    that was interrupted.

    Returns ``{"deleted": [ids], "missing": [ids], "kept": [{"id", "reason"}]}``. Missing projects were
    already deleted. Kept projects were due but not deleted; in a dry run, also the projects that it would
    delete. Long lists are shortened; the XCom ``counts`` has the numbers.

    :param destination: the destination of the downloads, with the same template. The catalogue is in the part
        before the first template. (templated)
    :param older_than: how long ago a project must have been downloaded, as a ``timedelta``. (templated: a
        text such as ``30 days`` or ``12:00:00``)
    :param dry_run: whether to delete nothing and only report what would be deleted. (templated)
    :param limit: the most projects to delete, from the oldest day on; None for all. (templated)
    :param fail_on_kept: whether to fail at the end if a project was kept, except because of the dry run.
    :param check_sha256: whether to read the files and compare their sha256 as well.
    :param index: the folder of the catalogue, if the downloads have an ``index``. (templated)
    :param connections: further connections whose downloads are deleted with this connection's key, such as
        its name before it was renamed. The account must be the same. (templated)
    :param magichour_conn_id: the connection. (templated)
    :raises AirflowSkipException: if the catalogue is empty, so that you notice a wrong destination.
    :raises MagicHourArgumentError: if the catalogue has only downloads of other connections.
    :raises MagicHourAuthenticationError: if Magic Hour does not know the connection's API key.
    :raises MagicHourError: if the account cannot be read, or Magic Hour is not available. At the end, if a
        part of the catalogue could not be read, or with ``fail_on_kept`` if a project was kept.
    """

    template_fields: Sequence[str] = (
        "destination",
        "older_than",
        "dry_run",
        "limit",
        "index",
        "connections",
        *MagicHourOperator.template_fields,
    )

    def __init__(
        self,
        *,
        destination: Templated[str],
        older_than: Templated[timedelta | str],
        dry_run: Templated[bool | str] = False,
        limit: Templated[int | str | None] = None,
        fail_on_kept: bool = False,
        check_sha256: bool = False,
        index: Templated[str | None] = None,
        connections: Templated[Sequence[str]] = (),
        magichour_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(magichour_conn_id=magichour_conn_id, **kwargs)
        self.destination: Any = destination
        self.older_than: Any = older_than
        # BaseOperator has a method of this name, which only `airflow tasks test --dry-run` calls.
        self.dry_run = dry_run  # type: ignore[method-assign,assignment]
        self.limit: Any = limit
        self.fail_on_kept = fail_on_kept
        self.check_sha256 = check_sha256
        self.index: Any = index
        self.unrendered = {"destination": destination, "index": index}
        self.connections: Any = connections
        if is_settled(destination):
            check_location(destination)
        if is_settled(older_than) or isinstance(older_than, timedelta):
            check_age(older_than)
        if is_settled(dry_run):
            check_bool(dry_run, "dry_run")
        if limit is not None and is_settled(limit):
            check_count(limit, "limit")

    def execute(self, context: Context) -> dict[str, list[Any]]:
        """Delete the due projects."""
        from airflow_provider_magichour.operators._cleanup_run import CleanupRun

        self.check_places()
        return CleanupRun(self, context).run()

"""The upload operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_magichour import DEFAULT_CONN_ID
from airflow_provider_magichour._validation import argument_error, is_many
from airflow_provider_magichour.operators.base import MagicHourOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_magichour.types import Templated


class MagicHourUploadOperator(MagicHourOperator):
    """
    Upload files once, to use them in many projects.

    :param source: a local path or an object-storage URL such as ``s3://bucket/face.png``, or a list of them,
        which are uploaded in parallel. Sources that Magic Hour can read itself (``https://...``,
        ``api-assets/...``, ``saved-items/...``) are returned unchanged. (templated)
    :param magichour_conn_id: the connection. (templated)
    :return: the path for create calls, ``api-assets/...``; for a list, a list in the same order. Magic Hour
        deletes uploads after 7 days.
    :raises MagicHourArgumentError: if there is no such file, or it is empty, of an unknown type, or larger
        than the account's plan allows.
    :raises MagicHourUploadError: if it could not be uploaded; a retry may succeed.
    """

    template_fields: Sequence[str] = (*MagicHourOperator.template_fields, "source")

    def __init__(
        self,
        *,
        source: Templated[str | list[str]],
        magichour_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(magichour_conn_id=magichour_conn_id, **kwargs)
        self.source: Any = source
        _check_source(source)

    def execute(self, context: Context) -> Any:
        """Upload."""
        source = list(self.source) if is_many(self.source) else self.source
        _check_source(source)
        if source == []:
            self.log.info("source is an empty list: nothing to upload")
            return []
        return self.hook.upload_file(source)


def _check_source(source: Any) -> None:
    if source is None or (isinstance(source, str) and not source.strip()):
        raise argument_error(
            f"source must be a path or an object-storage URL, or a list of them, not {source!r}"
        )

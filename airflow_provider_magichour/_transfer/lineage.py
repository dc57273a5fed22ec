"""Reports stored files to Airflow's lineage, and to OpenLineage if it is installed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

log = logging.getLogger(__name__)


def record_outputs(context: Any, files: Iterable[Mapping[str, Any]]) -> None:
    """
    Add files to Airflow's hook lineage.

    :param context: the hook that stored them.
    :param files: the files, each with its ``path``.
    """
    if not _is_read():
        return
    try:
        from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

        collector: Any = get_hook_lineage_collector()  # type: ignore[no-untyped-call]
        for file in files:
            namespace, name = dataset_name(file["path"])
            uri = f"file://{name}" if namespace == "file" else f"{namespace}/{name}"
            collector.add_output_asset(context=context, uri=uri)
    except Exception:
        log.warning("The stored files could not be recorded as lineage", exc_info=True)


def _is_read() -> bool:
    """
    Return whether a plugin reads the lineage of hooks.

    Airflow's collector imports the assets of all providers (and so boto3), even if nobody reads the lineage.
    """
    try:
        from airflow.sdk.plugins_manager import get_hook_lineage_readers_plugins
    except ImportError:  # before Airflow 3.2
        return True
    return bool(get_hook_lineage_readers_plugins())


def openlineage_outputs(files: Iterable[Mapping[str, Any]]) -> Any:
    """Return files as the outputs of an OpenLineage event; None if OpenLineage is not installed."""
    try:
        from airflow.providers.common.compat.openlineage.facet import (
            OutputDataset,
            OutputStatisticsOutputDatasetFacet,
        )
        from airflow.providers.openlineage.extractors import OperatorLineage
    except ImportError:
        return None
    outputs = []
    for file in files:
        namespace, name = dataset_name(file["path"])
        statistics = OutputStatisticsOutputDatasetFacet(size=file["bytes"], fileCount=1)
        outputs.append(OutputDataset(namespace, name, outputFacets={"outputStatistics": statistics}))
    return OperatorLineage(outputs=outputs)


def dataset_name(path: str) -> tuple[str, str]:
    """Return the OpenLineage namespace and name of a file, without the id of a connection."""
    if "://" not in path:
        return "file", str(Path(path).expanduser().absolute())
    parts = urlsplit(path, allow_fragments=False)
    name = path.partition("://")[2].removeprefix(parts.netloc).lstrip("/")
    if parts.scheme in {"file", "local"}:
        return "file", f"/{name}"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", name

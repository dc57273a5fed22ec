"""Records in the catalogue what has no files to store: failed projects, submits, timeouts, reuse."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from airflow_provider_magichour._client import api
from airflow_provider_magichour._transfer import catalogue, receipts
from airflow_provider_magichour._transfer.destinations import open_destination
from airflow_provider_magichour._transfer.receipts import Writer
from airflow_provider_magichour._transfer.storage import Storage
from airflow_provider_magichour.tools import Kind

log = logging.getLogger(__name__)

#: Objects that are written at once.
PARALLEL = 16


class Recorder:
    """
    Write to the catalogue at one place. What cannot be written is warned of: no task fails by it.

    :param place: the root of the catalogue.
    """

    def __init__(self, place: str, kind: Kind, writer: Writer) -> None:
        self._place, self._writer = place, writer
        self._kind: Kind = kind

    @cached_property
    def _root(self) -> Storage:
        return open_destination(self._place, "catalog")

    def add_ends(self, projects: Mapping[str, Any]) -> None:
        """
        Write the entries of finished projects, and the event ``timed_out`` of others.

        :param projects: by id, each as the API gives it, or the error.
        """
        self._side_by_side(projects, self._add_end)

    def _add_end(self, project_id: str, project: Any) -> None:
        if not isinstance(project, Mapping) or project.get("enabled") is False:
            log.info("The end of project %s is not recorded, because it cannot be read any more", project_id)
        elif not api.is_finished(project):
            self._add_event(catalogue.TIMED_OUT, project_id, project)
        elif self._root.read(path := _path(project, project_id), receipts.MAX_BYTES) is None:
            # otherwise its files were stored meanwhile, or another task wrote its end
            self._root.write(path, receipts.dump(self._describe(project_id, project)))

    def add_events(self, event: str, projects: Mapping[str, Mapping[str, Any]]) -> None:
        """
        Record what happened to projects, with what they cost as far as that is known.

        :param event: ``submitted`` or ``reused``.
        :param projects: by id, as much as is known of each.
        """
        self._side_by_side(projects, lambda project_id, project: self._add_event(event, project_id, project))

    def _add_event(self, event: str, project_id: str, project: Mapping[str, Any]) -> None:
        data = self._describe(project_id, project)
        names = ("type", "status", "created_at", "credits_charged", "body_fingerprint")
        facts = {name: data[name] for name in names}
        catalogue.record(self._root, _path(project, project_id), event, data, **facts)

    def add_uncertain(self, fingerprints: Iterable[str]) -> None:
        """
        Record submits of which it is unknown whether they were accepted.

        :param fingerprints: of their bodies.
        """
        self._side_by_side({one: {} for one in fingerprints}, self._add_uncertain)

    def _add_uncertain(self, fingerprint: str, project: Mapping[str, Any]) -> None:
        data = {**self._describe(fingerprint, project), "project_id": None}
        path = _path(project, fingerprint)
        catalogue.record(self._root, path, catalogue.UNCERTAIN, data, body_fingerprint=fingerprint)

    def _describe(self, project_id: str, project: Mapping[str, Any]) -> dict[str, Any]:
        return receipts.describe(project, project_id, self._kind, self._writer)

    def _side_by_side(self, items: Mapping[str, Any], write: Callable[[str, Any], None]) -> None:
        def write_one(item: tuple[str, Any]) -> None:
            try:
                write(*item)
            except Exception as error:  # noqa: BLE001 - stores raise whatever their libraries do
                log.warning(
                    "The catalogue at %s has no record of %s: %s: %s",
                    self._place,
                    item[0],
                    type(error).__name__,
                    error,
                )

        if items:
            with ThreadPoolExecutor(min(PARALLEL, len(items)), "magichour-catalogue") as executor:
                list(executor.map(write_one, items.items()))


def _path(project: Mapping[str, Any], project_id: str) -> str:
    return catalogue.entry_path(receipts.created_at(project, datetime.now(UTC)), project_id)

"""Reads and writes the stores of submit records, again where one fails for a moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_magichour.exceptions import (
    MagicHourError,
    MagicHourSubmitRecordError,
    MagicHourUncertainSubmitError,
)
from airflow_provider_magichour.operators._clear_or_retry import UnreadableRecordError

if TYPE_CHECKING:
    from airflow_provider_magichour.operators._submit_stores import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between the tries to reach a store; an id that was paid for is worth more patience.
BEFORE_SUBMIT_PAUSES = (0.5, 2.0)
AFTER_SUBMIT_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)


def read_store(store: Store, method: Callable[..., T], *arguments: Any) -> T:
    """
    Read from a store, again after a pause where it fails.

    :param method: the store's, which does it.
    :raises MagicHourSubmitRecordError: if the store cannot be read.
    :raises MagicHourUncertainSubmitError: if what is stored is no record.
    """
    for pause in (*BEFORE_SUBMIT_PAUSES, None):
        try:
            return method(*arguments)
        except UnreadableRecordError as error:
            raise MagicHourUncertainSubmitError(
                f"{error} in {store.name} is no submit record that this version can read, so nobody "
                "knows what was submitted. Nothing was submitted now. Search "
                "https://magichour.ai/my-library whether there is a project already; then delete that "
                "record and clear the task"
            ) from error
        except MagicHourError:
            raise
        except Exception as error:
            if pause is None:
                raise MagicHourSubmitRecordError(
                    f"{store.name} could not be read, so nobody knows what was submitted already: "
                    f"{describe_error(error)}. Nothing was submitted; a retry may succeed"
                ) from error
            log.warning("%s: %s; trying again in %g s", store.name, describe_error(error), pause)
            time.sleep(pause)
    raise AssertionError


def must_write(stores: Sequence[Store], change: Callable[[Store], None], what: str) -> None:
    """
    Write to each store; Airflow's own may fail where there is another.

    :raises MagicHourSubmitRecordError: if the store that is needed fails.
    """
    errors = write_stores(stores, change, is_enough=lambda errors: stores[0] not in errors)
    if stores and (error := errors.get(stores[0])) is not None:
        raise MagicHourSubmitRecordError(
            f"Could not write {what} to {stores[0].name}: {describe_error(error)}. Nothing was submitted; "
            "a retry may succeed"
        ) from error


def write_stores(
    stores: Sequence[Store],
    change: Callable[[Store], None],
    pauses: Sequence[float] = BEFORE_SUBMIT_PAUSES,
    is_enough: Callable[[Mapping[Store, Exception]], bool] = lambda errors: not errors,
) -> dict[Store, Exception]:
    """
    Write to each store, again after a pause where one fails; return those that failed at last.

    :param is_enough: whether those that fail may be left alone.
    """
    errors: dict[Store, Exception] = {}
    left = list(stores)
    for pause in (*pauses, None):
        errors = {store: error for store in left if (error := _error_of(change, store)) is not None}
        left = list(errors)
        if not errors or is_enough(errors):
            break
        if pause is not None:
            log.warning("%s; trying again in %g s", describe_error(next(iter(errors.values()))), pause)
            time.sleep(pause)
    for store, error in errors.items():
        log.warning("Could not write to %s: %s", store.name, describe_error(error))
    return errors


def _error_of(change: Callable[[Store], None], store: Store) -> Exception | None:
    try:
        change(store)
    except Exception as error:  # noqa: BLE001  # stores raise whatever their libraries do
        return error
    return None


def describe_error(error: BaseException) -> str:
    """Return an error that is none of ours for a message."""
    from airflow_provider_magichour._client.sanitize import without_query

    return without_query(f"{type(error).__name__}: {error}")[:300]

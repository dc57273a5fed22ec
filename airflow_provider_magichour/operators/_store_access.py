"""Reads and writes the stores of submit records, again if one fails for a moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_magichour.exceptions import (
    MagicHourError,
    MagicHourSubmitRecordError,
    MagicHourUncertainSubmitError,
)
from airflow_provider_magichour.operators._clear_or_retry import Ending, Try, UnreadableRecordError

if TYPE_CHECKING:
    from airflow_provider_magichour.operators._submit_stores import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between the tries of a store. An id that was paid for has more tries.
BEFORE_SUBMIT_PAUSES = (0.5, 2.0)
AFTER_SUBMIT_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)


def read_store(store: Store, method: Callable[..., T], *arguments: Any) -> T:
    """
    Read from a store, again after a pause if it fails.

    :raises MagicHourSubmitRecordError: if the store cannot be read.
    :raises MagicHourUncertainSubmitError: if the stored data is not a record.
    """
    for pause in (*BEFORE_SUBMIT_PAUSES, None):
        try:
            return method(*arguments)
        except UnreadableRecordError as error:
            raise MagicHourUncertainSubmitError(
                f"{error} in {store.name} is not a submit record that this version can read, so it is "
                "not known what was submitted. Nothing was submitted now. Check at "
                "https://magichour.ai/my-library whether there is a project already. Then delete that "
                "record and clear the task"
            ) from error
        except MagicHourError:
            raise
        except Exception as error:
            if pause is None:
                raise MagicHourSubmitRecordError(
                    f"{store.name} could not be read, so it is not known what was submitted already: "
                    f"{describe_error(error)}. Nothing was submitted; a retry may succeed"
                ) from error
            log.warning("%s: %s; trying again in %g s", store.name, describe_error(error), pause)
            time.sleep(pause)
    raise AssertionError


def read_ending(stores: Sequence[Store], now: Try) -> tuple[Ending, bool]:
    """
    Return how the task last ended, and whether Airflow's own store has that.

    If a run was deleted and created again with the same id, it has no task state, but still objects.
    """
    found = {store: read_store(store, store.read_ending) or Ending() for store in stores}
    ending = max(found.values(), key=lambda one: (one.number, one.success is not None), default=Ending())
    same_run = any(not store.outlives_run and one.number == ending.number for store, one in found.items())
    # Version 0.1.0 recorded no Clear of a success: its records after one belong to the next epoch.
    if ending.number == 0 and now.is_cleared_after_success(ending, is_same_run=same_run):
        ending = replace(ending, epoch=ending.epoch + 1, success=None)
    return ending, same_run


def must_write(stores: Sequence[Store], change: Callable[[Store], None], what: str) -> None:
    """
    Write to each store. Airflow's own store may fail if there is another one, unless it refuses the try.

    It is written first, as in :func:`write_last`, so that a try that it refuses writes nothing.

    :raises MagicHourSubmitRecordError: if the required store fails, or another try has replaced this one.
    """
    for store in reversed(stores):
        is_required = store is stores[0]
        error = write_stores([store], change, BEFORE_SUBMIT_PAUSES if is_required else ()).get(store)
        if error is not None and is_refusal(error):
            raise MagicHourSubmitRecordError(
                f"Another try has replaced this one, so {store.name} refuses {what}. Nothing was submitted"
            ) from error
        if error is not None and is_required:
            raise MagicHourSubmitRecordError(
                f"Could not write {what} to {store.name}: {describe_error(error)}. Nothing was submitted; "
                "a retry may succeed"
            ) from error


def write_stores(
    stores: Sequence[Store],
    change: Callable[[Store], None],
    pauses: Sequence[float] = BEFORE_SUBMIT_PAUSES,
    is_enough: Callable[[Mapping[Store, Exception]], bool] = lambda errors: not errors,
) -> dict[Store, Exception]:
    """
    Write to each store, again after a pause if one fails, and return those that failed in the end.

    A refusal is final, so it is not repeated.

    :param is_enough: whether the failed stores may be ignored.
    """
    errors: dict[Store, Exception] = {}
    left = list(stores)
    for pause in (*pauses, None):
        for store in left:
            errors.pop(store, None)
            if (error := _error_of(change, store)) is not None:
                errors[store] = error
        left = [store for store, error in errors.items() if not is_refusal(error)]
        if not left or is_enough(errors):
            break
        if pause is not None:
            log.warning("%s; trying again in %g s", describe_error(errors[left[0]]), pause)
            time.sleep(pause)
    for store, error in errors.items():
        log.warning("Could not write to %s: %s", store.name, describe_error(error))
    return errors


def write_one(stores: Sequence[Store], change: Callable[[Store], None]) -> dict[Store, Exception]:
    """Write to each store until at least one took it, and return the errors if none did."""
    errors = write_stores(stores, change, AFTER_SUBMIT_PAUSES, lambda errors: len(errors) < len(stores))
    return errors if len(errors) == len(stores) else {}


def write_any(stores: Sequence[Store], change: Callable[[Store], None]) -> bool:
    """Write to each store, and return whether one of them took it."""
    return len(write_stores(stores, change)) < len(stores)


def write_last(stores: Sequence[Store], change: Callable[[Store], None]) -> bool:
    """
    Write what a try ends with, and return whether all stores took it.

    Airflow's own store is the last in the list, and is written first, because it refuses a try that it has
    replaced. Such a try may end after a Clear, and its end in a folder would look as if it had been cleared.
    After any other error, the folder is written all the same.
    """
    failed = False
    for store in reversed(stores):
        errors = write_stores([store], change)
        if any(map(is_refusal, errors.values())):
            return False
        failed = failed or bool(errors)
    return not failed


def is_refusal(error: BaseException | None) -> bool:
    """Return whether Airflow says that this task instance is gone: another try has replaced this one."""
    detail = getattr(getattr(error, "error", None), "detail", None)
    return isinstance(detail, Mapping) and detail.get("status_code") == 404


def _error_of(change: Callable[[Store], None], store: Store) -> Exception | None:
    try:
        change(store)
    except Exception as error:  # noqa: BLE001  # stores raise whatever their libraries do
        return error
    return None


def describe_error(error: BaseException) -> str:
    """Return the text for a message about an error of another library."""
    from airflow_provider_magichour._client.sanitize import without_query

    return without_query(f"{type(error).__name__}: {error}")[:300]

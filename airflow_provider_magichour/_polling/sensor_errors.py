"""The errors of a sensor: the same in every mode, and skips where the user asked for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from airflow_provider_magichour.exceptions import MagicHourSensorTimeoutError, MagicHourTimeoutError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseSensorOperator


@contextmanager
def sensor_errors(sensor: BaseSensorOperator) -> Iterator[None]:
    """
    Raise timeouts as a sensor's, and skip instead of failing where the user asked for that.

    :param sensor: whose ``soft_fail``, ``never_fail`` and ``execution_timeout`` count.
    """
    try:
        try:
            yield
        except MagicHourSensorTimeoutError:
            raise
        except MagicHourTimeoutError as error:
            raise MagicHourSensorTimeoutError(*error.args) from None
        except AirflowTaskTimeout as error:  # the last check took longer than the margin for it
            raise MagicHourSensorTimeoutError(
                f"Timed out after execution_timeout ({sensor.execution_timeout}). The project goes on at "
                "Magic Hour: clear the task to wait again"
            ) from error
    except (AirflowFailException, AirflowSensorTimeout) as error:
        if sensor.soft_fail or sensor.never_fail:
            argument = "soft_fail" if sensor.soft_fail else "never_fail"
            raise AirflowSkipException(f"Skipping due to {argument} is set to True: {error}") from error
        raise
    except AirflowSkipException:
        raise
    except Exception as error:
        if sensor.never_fail:
            raise AirflowSkipException(f"Skipping due to never_fail is set to True: {error}") from error
        raise

"""Hands verified webhooks to the database, off the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from airflow_provider_magichour.webhooks import store
from airflow_provider_magichour.webhooks.store import Delivery, Outcome

log = logging.getLogger(__name__)

#: How many deliveries share a transaction at most.
MAX_BATCH = 25
#: How many deliveries may wait. More would be given up before their turn, and hold up the others.
MAX_WAITING = 100
#: Seconds between two clean-ups of the memory of deliveries.
FORGET_EVERY = 3600.0

#: Seconds between two looks, and until the last one, for DAGs that were not started by what was written.
LOOK_EVERY = 3.0
LOOK_FOR = 20.0

_Waiting = tuple[Delivery, "asyncio.Future[Outcome]"]


class BusyError(Exception):
    """More comes than can be written. Magic Hour delivers again what is refused now."""


class Writer:
    """
    Writes what waits together: the busier it is, the more deliveries share one transaction.

    One thread is enough, because the writers of all API servers take turns: see :mod:`store`. Belongs to
    one event loop.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "magichour-webhooks")
        self._waiting: list[_Waiting] = []
        self._work: asyncio.Task[None] | None = None
        self._forgot_at = time.monotonic()
        self._looking: asyncio.Task[None] | None = None
        self._look_until = 0.0

    async def write(self, delivery: Delivery) -> Outcome:
        """
        Write a delivery, and return what became of it once that is certain.

        :raises BusyError: if too many wait already.
        :raises Exception: if it was not written.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise BusyError(f"{len(self._waiting)} webhooks wait to be written")
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((delivery, done))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._write_all())
        return await done

    async def _write_all(self) -> None:
        while self._waiting:
            batch = [one for one in self._waiting[:MAX_BATCH] if not one[1].done()]  # not given up yet
            del self._waiting[:MAX_BATCH]
            if not await self._write_together(batch):
                for one in batch:
                    await self._write_together([one])
        if not store.has_row_locks():
            self._look_until = time.monotonic() + LOOK_FOR
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look_after())
        await self._forget_old()

    async def _write_together(self, batch: Sequence[_Waiting]) -> bool:
        """Write a batch; return False if it has to be written one by one to see which one fails."""
        loop = asyncio.get_running_loop()
        batch = [one for one in batch if not one[1].done()]
        try:
            outcomes = await loop.run_in_executor(self._executor, store.record, [one[0] for one in batch])
        except Exception as error:  # noqa: BLE001  # whoever waits for it handles it
            if len(batch) > 1:
                return False
            for _, done in batch:
                if not done.done():
                    done.set_exception(error)
            return True
        for (_, done), outcome in zip(batch, outcomes, strict=True):
            if not done.done():
                done.set_result(outcome)
        return True

    async def _forget_old(self) -> None:
        if time.monotonic() - self._forgot_at < FORGET_EVERY:
            return
        self._forgot_at = time.monotonic()
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, store.forget_old)
        except Exception:
            log.warning("The memory of old Magic Hour webhooks was not cleaned up", exc_info=True)

    async def _look_after(self) -> None:
        """Start the DAGs that missed an event, which happens where the database cannot lock rows."""
        while time.monotonic() < self._look_until:
            await asyncio.sleep(LOOK_EVERY)
            try:
                await asyncio.get_running_loop().run_in_executor(self._executor, store.queue_again)
            except Exception:
                log.warning("Whether each Magic Hour webhook started its DAG is not known", exc_info=True)

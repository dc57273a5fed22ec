"""Sends over an Airflow connection, and reads it again if Magic Hour refuses its API key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from airflow_provider_magichour.exceptions import (
    MagicHourConnectionError,
    MagicHourConnectionNotFoundError,
    MagicHourError,
)

if TYPE_CHECKING:
    from airflow_provider_magichour._client import api
    from airflow_provider_magichour._client.settings import Settings
    from airflow_provider_magichour._client.transport import AsyncSender

    ReadSettings: TypeAlias = Callable[[], Awaitable[Settings]]
    ReadConnection: TypeAlias = Callable[[str], Awaitable[Settings]]

log = logging.getLogger(__name__)

#: A connection that cannot be read now. Airflow also says that it is missing if a secrets backend fails.
CANNOT_READ = (MagicHourConnectionError, MagicHourConnectionNotFoundError)
#: After a failure, the connection is read again after this many seconds at the earliest.
REREAD_PAUSE = 5.0


class RefreshingSender:
    """
    Send requests in parallel with the connection's current key, for all callers in one event loop.

    After a 401 the connection is read again, once for all callers, in case its key was replaced.
    """

    def __init__(self, read_settings: ReadSettings) -> None:
        self._read_settings = read_settings
        self._loop = asyncio.get_running_loop()
        self._reading = asyncio.Lock()
        self._rereading = asyncio.Lock()
        self._read_at = -1.0
        self._current: AsyncSender | None = None
        self._retired: list[AsyncSender] = []
        #: The sender whose key was refused even after the connection was read again.
        self._refused: AsyncSender | None = None
        self._reread_error: MagicHourError | None = None
        self._reread_failed_at = 0.0

    async def __aenter__(self) -> Self:
        await self.refresh()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def sender(self) -> AsyncSender:
        """
        Return the sender with the current key.

        :raises MagicHourConnectionError: before the connection was read, and after :meth:`close`.
        """
        if self._current is None:
            raise MagicHourConnectionError("The sender is closed")
        return self._current

    async def send(self, request: api.Request) -> Any:
        """
        Send a request, again if that may help, and return the API's response.

        :raises MagicHourError: as :meth:`AsyncSender.send` does.
        """
        from airflow_provider_magichour._client.transport import send_with_retries

        return await send_with_retries(self.attempt, request, self.sender.settings)

    async def attempt(self, request: api.Request, time_limit: float | None = None) -> api.Response:
        """
        Send a request once, and once more if its key was refused and the connection could be read again.

        :param time_limit: seconds that one try may take.
        :raises MagicHourConnectionError: if there was no complete response, or the key was refused and the
            connection cannot be read now.
        """
        was_read_again = False
        while True:
            sender, sent_at = self.sender, self._loop.time()
            response = await sender.attempt(request, time_limit)
            if response.status != 401:
                if self._refused is sender:
                    self._refused = None
                return response
            if was_read_again or self._refused is sender:
                self._refused = sender
                return response
            await self._read_again(sender, sent_at)
            was_read_again = True

    async def refresh(self) -> None:
        """Read the connection. Callers that wait for it share one read."""
        asked_at = self._loop.time()
        async with self._reading:
            if self._current is not None and self._read_at > asked_at:
                return
            started_at = self._loop.time()
            try:
                settings = await self._read_settings()
            except MagicHourError:
                raise
            except Exception as error:  # a secrets backend or a database may fail in any way
                raise MagicHourConnectionError(
                    f"The Airflow connection could not be read: {type(error).__name__}"
                ) from error
            self._use(settings)
            self._read_at = started_at

    async def _read_again(self, refused: AsyncSender, sent_at: float) -> None:
        """
        Read the connection after a 401, unless another caller did since.

        :raises MagicHourConnectionError: if it cannot be read now: whether the key was replaced is not known.
        """
        async with self._rereading:
            if refused is not self._current or self._read_at > sent_at:
                return
            if self._reread_error is None or self._loop.time() >= self._reread_failed_at + REREAD_PAUSE:
                log.warning("Magic Hour refused the API key (401): reading the connection again")
                try:
                    await self.refresh()
                    self._reread_error = None
                except CANNOT_READ as error:
                    log.warning("The connection could not be read again: %s", error)
                    self._reread_error, self._reread_failed_at = error, self._loop.time()
                except MagicHourError as error:
                    log.warning("The connection cannot be used any more: %s", error)
                    self._reread_error = None
            if self._reread_error is not None:
                raise MagicHourConnectionError(
                    f"Magic Hour refused the API key (401), and the connection could not be read again: "
                    f"{self._reread_error}"
                ) from self._reread_error

    def _use(self, settings: Settings) -> None:
        from airflow_provider_magichour._client.transport import AsyncSender

        if self._current is not None:
            if self._current.settings == settings:
                return
            self._retired.append(self._current)  # requests may be in progress on it
        self._current = AsyncSender(settings)

    async def close(self) -> None:
        """Close all connections."""
        senders, self._retired, self._current = [*self._retired, self._current], [], None
        for sender in senders:
            if sender is not None:
                await sender.close()

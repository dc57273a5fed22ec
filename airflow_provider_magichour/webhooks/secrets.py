"""Looks up the webhook secrets of a connection, off the event loop and not once for each event."""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Secrets = tuple[bytes, ...]

#: How long an answer is used again, in seconds: a changed secret counts after that.
KEEP_SECONDS = 5.0
#: How many answers are kept.
MAX_KEPT = 1000
#: How many look-ups of connections that never had a secret may wait at once; more are refused unseen.
MAX_STRANGERS = 20

_CONN_ID = re.compile(r"[\w#!()\-.:]{1,200}", re.ASCII)


def split_secrets(value: Any) -> Secrets:
    """
    Read ``webhook_secret``: a string, several separated by commas, or a list, any of which will do.

    While a secret is being replaced, the old one and the new one stand there together.
    """
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(part.strip().encode() for part in parts if isinstance(part, str) and part.strip())


def look_up(conn_id: str) -> Secrets:
    """
    Return the connection's webhook secrets; none where it has none, or there is no such connection.

    :raises Exception: if the connection cannot be looked up now.
    """
    from airflow.models import Connection
    from airflow.providers.common.compat.sdk import AirflowNotFoundException
    from airflow.utils.session import create_session
    from sqlalchemy import literal, select

    try:
        connection = Connection.get_connection_from_secrets(conn_id)
    except AirflowNotFoundException:
        # Airflow says the same where its database did not answer: ask that, before it is believed.
        with create_session(scoped=False) as session:
            session.scalar(select(literal(1)))
        return ()
    extra = connection.extra_dejson
    return split_secrets(extra.get("webhook_secret")) if isinstance(extra, dict) else ()


class SecretsCache:
    """
    Remembers for some seconds what was looked up, and bounds what strangers can make us look up.

    Belongs to one event loop.

    :param look_up: finds the secrets of a connection; it may block.
    :param clock: gives seconds that never run backwards.
    """

    def __init__(
        self, look_up: Callable[[str], Secrets] = look_up, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look_up = look_up
        self._clock = clock
        self._executor = ThreadPoolExecutor(2, "magichour-webhook-secrets")
        self._kept: OrderedDict[str, tuple[float, Secrets]] = OrderedDict()
        self._friends: set[str] = set()  # connections that had a secret; there are only so many
        self._pending: dict[str, asyncio.Future[Secrets]] = {}
        self._strangers = 0

    async def get(self, conn_id: str) -> Secrets:
        """
        Return the connection's secrets; none where it has none or does not exist.

        :raises Exception: if it cannot be looked up now.
        """
        if not _CONN_ID.fullmatch(conn_id):
            return ()
        if conn_id in self._kept:
            until, secrets = self._kept[conn_id]
            if self._clock() < until:
                return secrets
        if conn_id not in self._pending:
            stranger = conn_id not in self._friends
            if stranger and self._strangers >= MAX_STRANGERS:
                return ()
            self._strangers += stranger
            self._pending[conn_id] = asyncio.ensure_future(self._refresh(conn_id, stranger))
        return await asyncio.shield(self._pending[conn_id])

    async def _refresh(self, conn_id: str, stranger: bool) -> Secrets:
        try:
            secrets = await asyncio.get_running_loop().run_in_executor(self._executor, self._look_up, conn_id)
        finally:
            self._strangers -= stranger
            self._pending.pop(conn_id, None)
        (self._friends.add if secrets else self._friends.discard)(conn_id)
        self._kept[conn_id] = (self._clock() + KEEP_SECONDS, secrets)
        self._kept.move_to_end(conn_id)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return secrets

"""Reads an Airflow connection of type ``magichour``. If it cannot be used, the error says what to set."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_magichour import DEFAULT_BASE_URL, DEFAULT_CONN_ID
from airflow_provider_magichour._validation import check_bool, check_number
from airflow_provider_magichour.exceptions import MagicHourArgumentError, MagicHourConnectionNotFoundError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_magichour._client.settings import Settings

log = logging.getLogger(__name__)

KEYS_PAGE = "https://magichour.ai/developer?tab=api-keys"


def get_connection(conn_id: str) -> Connection:
    """
    Return the connection.

    :raises MagicHourArgumentError: if this is no id.
    :raises MagicHourConnectionNotFoundError: if there is none of this id.
    """
    _check_id(conn_id)
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        raise MagicHourConnectionNotFoundError(
            f"There is no connection {conn_id!r}: create one of type 'Magic Hour' {_where(conn_id)}, "
            f"with the API key as its password; create a key at {KEYS_PAGE}"
        ) from error


def get_settings(conn_id: str) -> Settings:
    """
    Read a connection.

    :raises MagicHourConnectionNotFoundError: if there is none of this id.
    :raises MagicHourArgumentError: naming what to set, and where.
    """
    return settings_of(get_connection(conn_id), conn_id)


async def get_settings_async(conn_id: str) -> Settings:
    """
    Read a connection as :func:`get_settings` does, without blocking the event loop.

    Under ``airflow dags test``, Airflow's own asynchronous function does not find a connection in the
    metadata database. The synchronous function does, in a thread.
    """
    from airflow.providers.common.compat.connection import get_async_connection

    _check_id(conn_id)
    try:
        connection = await get_async_connection(conn_id)
    except AirflowNotFoundException:
        connection = await asyncio.to_thread(get_connection, conn_id)
    return settings_of(connection, conn_id)


def settings_of(connection: Connection, conn_id: str) -> Settings:
    """
    Turn a connection into settings.

    :raises MagicHourArgumentError: naming what to set, and where.
    """
    from airflow_provider_magichour._client.settings import Settings

    return Settings(
        api_key=_api_key(connection, conn_id),
        base_url=_base_url(connection, conn_id),
        **_options(connection.extra_dejson, conn_id),
    )


def _check_id(conn_id: object) -> None:
    if not isinstance(conn_id, str) or not conn_id.strip():
        # A connection itself would show its key.
        shown = repr(conn_id) if isinstance(conn_id, str | int | None) else f"a {type(conn_id).__name__}"
        raise MagicHourArgumentError(
            f"magichour_conn_id must be the id of a connection, not {shown}: leave it out for "
            f"{DEFAULT_CONN_ID!r}"
        )


def _where(conn_id: str) -> str:
    return f"in Airflow under Admin > Connections, or in AIRFLOW_CONN_{conn_id.upper()}"


def _api_key(connection: Connection, conn_id: str) -> str:
    key = (connection.password or "").strip()
    if not key:
        raise MagicHourArgumentError(
            f"The connection {conn_id!r} has no API key: set it as the password {_where(conn_id)}; "
            f"create a key at {KEYS_PAGE}"
        )
    if not re.fullmatch(r"[!-~]+", key):
        raise MagicHourArgumentError(
            f"The API key of connection {conn_id!r} contains a space, a line break or another character that "
            f"no key has: set it again as the password {_where(conn_id)}"
        )
    return key


def _base_url(connection: Connection, conn_id: str) -> str:
    host = (connection.host or "").strip()
    if not host:
        return DEFAULT_BASE_URL
    if "://" not in host:
        scheme = "" if connection.schema == "v1" else connection.schema  # a URI's path is read as the schema
        host = f"{scheme or _default_scheme(host)}://{host}"
    try:
        parts = urlsplit(host)
        port = parts.port or connection.port
    except ValueError:
        parts, port = urlsplit(""), None
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or not re.fullmatch(r"[A-Za-z0-9._:\[\]-]+", parts.netloc)
        or not re.fullmatch(r"[A-Za-z0-9._~/-]*", parts.path)
        or parts.query
        or parts.fragment
    ):
        raise MagicHourArgumentError(
            f"The host of connection {conn_id!r} is not a base URL such as {DEFAULT_BASE_URL}: "
            f"set it, or leave it empty, {_where(conn_id)}"
        )
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = re.sub("(/v1)?/*$", "", parts.path)  # the paths of the calls begin with /v1
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{path}"


def _default_scheme(host: str) -> str:
    """Return the scheme of a host without one: HTTP only for the local machine."""
    local = re.fullmatch(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", host)
    return "http" if local else "https"


def _options(extra: Any, conn_id: str) -> dict[str, Any]:
    """Read the extra. Empty fields of the form count as not set."""
    if not isinstance(extra, Mapping):
        raise MagicHourArgumentError(
            f"The extra of connection {conn_id!r} must be a JSON object {_where(conn_id)}"
        )
    given = {name: value for name, value in extra.items() if value not in (None, "")}
    if unknown := tuple(sorted(str(name) for name in given.keys() - _READERS.keys() - {"webhook_secret"})):
        _warn_of_unknown(conn_id, unknown)
    return {
        name: read(given[name], f"{name!r} in the extra of connection {conn_id!r}")
        for name, read in _READERS.items()
        if name in given
    }


@functools.cache  # once for each process, because a connection is read often
def _warn_of_unknown(conn_id: str, names: tuple[str, ...]) -> None:
    import difflib

    for name in names:
        near = difflib.get_close_matches(name, [*_READERS, "webhook_secret"], 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_READERS)}, webhook_secret"
        log.warning(
            "%r in the extra of connection %r is not known and has no effect: %s", name, conn_id, hint
        )


def _count(value: object, what: str) -> int:
    return math.ceil(check_number(value, what))


def _folder(value: object, what: str) -> str:
    if not isinstance(value, str) or not re.match(r"[a-z][a-z0-9+.-]+://\S|/", value.strip()):
        raise MagicHourArgumentError(
            f"{what} must be the URL of a folder in object storage, such as 's3://bucket/magichour', "
            f"not {value!r}"
        )
    return value.strip().rstrip("/")


#: The names in the extra, without ``webhook_secret``, which only the webhooks read.
_READERS: Mapping[str, Callable[[object, str], Any]] = {
    "timeout": check_number,
    "max_attempts": _count,
    "requests_per_second": check_number,
    "max_connections": _count,
    "allow_private_hosts": check_bool,
    "submit_records": _folder,
    "catalog": _folder,
}

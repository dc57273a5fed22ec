"""Reads an Airflow connection of type ``magichour``, and says what to set where it cannot be used."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_magichour._client import api
from airflow_provider_magichour.exceptions import MagicHourArgumentError, MagicHourConnectionNotFoundError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_magichour._client.settings import Settings

KEYS_PAGE = "https://magichour.ai/developer?tab=api-keys"


def get_connection(conn_id: str) -> Connection:
    """
    Return the connection.

    :raises MagicHourConnectionNotFoundError: if there is none of this id.
    """
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        raise MagicHourConnectionNotFoundError(
            f"There is no connection {conn_id!r}: make one of type 'Magic Hour' {_where(conn_id)}, "
            f"with the API key as its password; keys are made at {KEYS_PAGE}"
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
    Read a connection without blocking the event loop, as :func:`get_settings` does.

    Airflow's own asynchronous look-up does not find a connection of the metadata database under
    ``airflow dags test``; the synchronous one does, in a thread.
    """
    from airflow.providers.common.compat.connection import get_async_connection

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


def _where(conn_id: str) -> str:
    return f"in Airflow under Admin > Connections, or in AIRFLOW_CONN_{conn_id.upper()}"


def _api_key(connection: Connection, conn_id: str) -> str:
    key = (connection.password or "").strip()
    if not key:
        raise MagicHourArgumentError(
            f"The connection {conn_id!r} has no API key: set it as the password {_where(conn_id)}; "
            f"keys are made at {KEYS_PAGE}"
        )
    if not re.fullmatch(r"[!-~]+", key):
        raise MagicHourArgumentError(
            f"The API key of connection {conn_id!r} holds a space, a line break or another character that "
            f"no key has: set it again as the password {_where(conn_id)}"
        )
    return key


def _base_url(connection: Connection, conn_id: str) -> str:
    host = (connection.host or "").strip()
    if not host:
        return api.DEFAULT_BASE_URL
    if "://" not in host:
        host = f"{connection.schema or _default_scheme(host)}://{host}"
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
            f"The host of connection {conn_id!r} is not a base URL such as {api.DEFAULT_BASE_URL}: "
            f"set it, or leave it empty, {_where(conn_id)}"
        )
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def _default_scheme(host: str) -> str:
    """Return the scheme of a host without one: plain HTTP only for what never leaves the machine."""
    local = re.fullmatch(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", host)
    return "http" if local else "https"


def _options(extra: Any, conn_id: str) -> dict[str, Any]:
    """Read the extra; form fields that were left empty count as not given."""
    if not isinstance(extra, Mapping):
        raise MagicHourArgumentError(
            f"The extra of connection {conn_id!r} must be a JSON object {_where(conn_id)}"
        )
    given = {name: value for name, value in extra.items() if value not in (None, "")}
    options: dict[str, Any] = {
        name: _number(given[name], name, conn_id)
        for name in ("timeout", "requests_per_second", "max_attempts")
        if name in given
    }
    if "max_attempts" in options:
        options["max_attempts"] = math.ceil(options["max_attempts"])
    if "allow_private_hosts" in given:
        options["allow_private_hosts"] = _boolean(
            given["allow_private_hosts"], "allow_private_hosts", conn_id
        )
    return options


def _number(value: object, name: str, conn_id: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise MagicHourArgumentError(
            f"{name!r} in the extra of connection {conn_id!r} must be a number above 0, not {value!r}"
        )
    return number


def _boolean(value: object, name: str, conn_id: str) -> bool:
    word = str(value).lower()
    if word not in {"true", "false"}:
        raise MagicHourArgumentError(
            f"{name!r} in the extra of connection {conn_id!r} must be true or false, not {value!r}"
        )
    return word == "true"

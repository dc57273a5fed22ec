"""The settings of a connection. It does not import the HTTP libraries."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from airflow_provider_magichour import (
    DEFAULT_BASE_URL,
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_MAX_CONNECTIONS,
    DEFAULT_REQUESTS_PER_SECOND,
    DEFAULT_TIMEOUT,
)
from airflow_provider_magichour._client.sanitize import Mask
from airflow_provider_magichour._client.throttle import Throttle, shared_throttle


@dataclass(frozen=True)
class Settings:
    """
    The settings of a connection to Magic Hour.

    :param api_key: the API key, never part of the repr.
    :param base_url: scheme, host and port, without a trailing slash.
    :param timeout: seconds that one try may take.
    :param max_attempts: tries that a call may take.
    :param requests_per_second: the rate limit of all calls of one process over this connection.
    :param max_connections: the most connections that one process opens for many projects.
    :param allow_private_hosts: whether files may be transferred from and to loopback and private addresses.
    :param submit_records: the folder in object storage where submits are recorded, None for none.
    :param catalog: the root of the catalogue for projects whose files are not stored, None for none.
    """

    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    timeout: float = DEFAULT_TIMEOUT
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    requests_per_second: float = DEFAULT_REQUESTS_PER_SECOND
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    allow_private_hosts: bool = True
    submit_records: str | None = None
    catalog: str | None = None

    @cached_property
    def mask(self) -> Mask:
        """Return the mask that removes the API key from responses and errors."""
        return Mask(self.api_key)

    @property
    def throttle(self) -> Throttle:
        """Return the rate limit that all calls of this process over this connection share."""
        return shared_throttle(self.base_url, self.api_key, self.requests_per_second)

"""How to reach Magic Hour: what a connection says, without the libraries that send."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from airflow_provider_magichour._client import api
from airflow_provider_magichour._client.sanitize import Mask


@dataclass(frozen=True)
class Settings:
    """
    How to reach Magic Hour.

    :param api_key: the API key, never part of the repr.
    :param base_url: scheme, host and port, without a trailing slash.
    :param timeout: seconds that one try may take.
    :param max_attempts: tries that a call may take.
    :param requests_per_second: the rate that all calls of one process over this connection keep to.
    :param allow_private_hosts: whether files may come from, and go to, loopback and private addresses.
    """

    api_key: str = field(repr=False)
    base_url: str = api.DEFAULT_BASE_URL
    timeout: float = 60.0
    max_attempts: int = 5
    requests_per_second: float = 500.0
    allow_private_hosts: bool = True

    @cached_property
    def mask(self) -> Mask:
        """Return what takes the API key out of answers and errors."""
        return Mask(self.api_key)

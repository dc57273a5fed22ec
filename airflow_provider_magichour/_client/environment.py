"""The proxy and the certificates that the environment names, the same for both senders."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

from airflow_provider_magichour.exceptions import MagicHourArgumentError


class Session(requests.Session):
    """A session that reads the environment once for each host: for each request, that costs as much as it."""

    def __init__(self) -> None:
        super().__init__()
        self._environment: dict[Any, Any] = {}

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Return the proxies, the certificates and so on of a request."""
        if proxies:
            return super().merge_environment_settings(url, proxies, stream, verify, cert)
        own = (self.trust_env, self.verify, self.cert, *sorted(self.proxies.items()))
        key = (*urlsplit(url)[:2], stream, verify, cert, *own)
        if key not in self._environment:
            self._environment[key] = super().merge_environment_settings(url, {}, stream, verify, cert)
        return {**self._environment[key]}


def proxy_for(base_url: str) -> str | None:
    """
    Return the URL of the proxy through which calls go, None for none.

    Without a scheme it is an HTTP proxy, as ``requests`` and curl read it.

    :raises MagicHourArgumentError: if it is a SOCKS proxy, which the two HTTP libraries do not both speak
        (a create call would pass where its wait could not), or no URL.
    """
    proxy = select_proxy(base_url, get_environ_proxies(base_url))
    if not proxy:
        return None
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme.lower() in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        scheme, _, rest = url.partition("://")
        shown = f"{scheme}://{rest.rpartition('@')[2]}"  # without its password
        raise MagicHourArgumentError(
            f"The environment's proxy {shown} cannot be used for {base_url}: set "
            "HTTPS_PROXY (or HTTP_PROXY, ALL_PROXY) to an HTTP proxy such as http://10.0.0.1:3128, or name "
            "the host in NO_PROXY; SOCKS is not supported. Nothing was sent"
        )
    return url


def ca_bundle() -> Path:
    """
    Return the file or the folder of the certificates that are trusted.

    :raises MagicHourArgumentError: if the environment names one that is not there.
    """
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # in this order, as requests does it
        if not (path := os.environ.get(name)):
            continue
        if not Path(path).exists():
            raise MagicHourArgumentError(
                f"{name} in the environment names {path!r}, which is not there: set it to the file of the "
                "certificates to trust, or unset it. Nothing was sent"
            )
        return Path(path)
    return Path(DEFAULT_CA_BUNDLE_PATH)


def ssl_context() -> ssl.SSLContext:
    """
    Return a context that trusts what ``requests`` trusts.

    :raises MagicHourArgumentError: if the bundle that the environment names is not there or not readable.
    """
    bundle = ca_bundle()
    try:
        return ssl.create_default_context(
            cafile=None if bundle.is_dir() else bundle, capath=bundle if bundle.is_dir() else None
        )
    except OSError as error:
        raise MagicHourArgumentError(f"The certificates in {bundle} cannot be read: {error}") from error


def check_environment(base_url: str) -> None:
    """
    Refuse what one of the senders could not use, before anything is paid.

    :raises MagicHourArgumentError: as :func:`proxy_for` and :func:`ca_bundle` do.
    """
    proxy_for(base_url)
    if base_url.startswith("https:"):
        ca_bundle()

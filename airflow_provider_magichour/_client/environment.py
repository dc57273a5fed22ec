"""The proxy and the certificates from the environment, the same for both senders."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

from airflow_provider_magichour.exceptions import MagicHourArgumentError


class Session(requests.Session):
    """A session that reads the environment once for each host, because that takes as long as a request."""

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
            found = super().merge_environment_settings(url, {}, stream, verify, cert)
            proxies = {name: _with_scheme(proxy) for name, proxy in found["proxies"].items()}
            self._environment[key] = {**found, "proxies": proxies}
        return {**self._environment[key]}


class Proxy(NamedTuple):
    """An HTTP proxy: its URL without user and password, so that no error can quote them, and their header."""

    url: str
    headers: Mapping[str, str]


def proxy_for(base_url: str) -> Proxy | None:
    """
    Return the proxy, or None if there is none.

    :raises MagicHourArgumentError: if it is not a URL, or a SOCKS proxy. Only one of the two HTTP libraries
        supports SOCKS: the create call would succeed, and the wait would fail.
    """
    url = _with_scheme(select_proxy(base_url, get_environ_proxies(base_url)) or "")
    if not url:
        return None
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host.encode("idna")
        if parts.scheme in {"http", "https"} and host and parts.port != 0:
            headers = HTTPAdapter().proxy_headers(url)
            return Proxy(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", headers)
    except ValueError:
        pass
    scheme, _, rest = url.partition("://")
    shown = f"{scheme}://{rest.rpartition('@')[2]}"  # without its password
    raise MagicHourArgumentError(
        f"The environment's proxy {shown} cannot be used for {base_url}: set "
        "HTTPS_PROXY (or HTTP_PROXY, ALL_PROXY) to an HTTP proxy such as http://10.0.0.1:3128, or name "
        "the host in NO_PROXY; SOCKS is not supported. Nothing was sent"
    )


def _with_scheme(proxy: str) -> str:
    """Return a proxy's URL; without a scheme it is an HTTP proxy, as curl reads it."""
    proxy = proxy.strip()
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def ca_bundle() -> Path:
    """
    Return the file or folder of the trusted certificates.

    :raises MagicHourArgumentError: if it does not exist.
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
    Return an SSL context with the same certificates as ``requests``.

    :raises MagicHourArgumentError: if the CA bundle does not exist or cannot be read.
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
    Refuse an environment that one of the senders cannot use, before anything is paid.

    :raises MagicHourArgumentError: as :func:`proxy_for` and :func:`ca_bundle` do.
    """
    proxy_for(base_url)
    if base_url.startswith("https:"):
        ca_bundle()

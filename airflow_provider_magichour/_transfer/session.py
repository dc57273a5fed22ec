"""
Asks download hosts for files: without the API key, and only hosts that the connection allows.

Redirects are followed here, counted and each checked. Where private hosts are refused, the address that was
checked is the address that is connected to, so that a name cannot change its meaning in between.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection
from urllib3.util.connection import create_connection

from airflow_provider_magichour._client.sanitize import without_query
from airflow_provider_magichour._client.timeouts import (
    BufferedResponse,
    PoolsAdapter,
    StreamedResponse,
    mount,
    pools,
)
from airflow_provider_magichour._client.transport import CONNECT_TIMEOUT, USER_AGENT
from airflow_provider_magichour.exceptions import MagicHourDownloadError

MAX_REDIRECTS = 5
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
#: For protocols, not for hosts (a cloud's metadata service is among them); older Pythons call it global.
_PROTOCOLS = ipaddress.ip_network("192.0.0.0/24")


class DownloadSession:
    """
    A pool of connections to download hosts, none of which ever sees the API key.

    :param timeout: seconds without a byte after which a connection counts as broken.
    :param allow_private_hosts: whether loopback and private addresses may be asked.
    :param connections: how many connections to a host are kept open.
    """

    def __init__(self, timeout: float, allow_private_hosts: bool, connections: int) -> None:
        self._timeout = (min(CONNECT_TIMEOUT, timeout), timeout)
        self._allow_private_hosts = allow_private_hosts
        self._session = requests.Session()
        self._session.auth = no_auth
        self._session.headers.update(
            {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        )
        limits = {"pool_connections": connections, "pool_maxsize": connections}
        mount(self._session, adapter(StreamedResponse, allow_private_hosts, **limits))

    def __enter__(self) -> DownloadSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._session.close()

    def open(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """
        Ask for a file and return the answer, its body still to be read.

        :raises MagicHourDownloadError: if the URL, or where it redirects to, must not be asked.
        :raises requests.RequestException: if no answer came.
        """
        for _ in range(MAX_REDIRECTS + 1):
            self._check(url)
            self._session.cookies.clear()
            response = self._session.get(
                url, headers=headers, timeout=self._timeout, allow_redirects=False, stream=True
            )
            target = self._session.get_redirect_target(response)
            if target is None:
                return response
            response.close()
            source, url = url, urljoin(url, target)
            if source.lower().startswith("https:") and not url.lower().startswith("https:"):
                raise MagicHourDownloadError(
                    f"{without_query(source)} redirects to {without_query(url)!r}, where anybody on the way "
                    "could change the file, so it was not asked for"
                )
        raise MagicHourDownloadError(f"more than {MAX_REDIRECTS} redirects, the last to {without_query(url)}")

    def _check(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            (host or "").encode("idna")
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if parts.scheme not in {"http", "https"} or not host:
            raise MagicHourDownloadError(
                f"{without_query(url)!r} is not an http or https URL, so it was not asked for"
            )
        if self._allow_private_hosts:
            return
        try:
            public_addresses(host, port or (443 if parts.scheme == "https" else 80))
        except socket.gaierror:
            settings = self._session.merge_environment_settings(url, {}, None, None, None)
            if not select_proxy(url, settings["proxies"]):  # a proxy may know the name
                raise requests.ConnectionError(f"the name {host!r} is not known") from None


def public_addresses(host: str, port: int) -> list[str]:
    """
    Return the addresses of a host.

    :raises MagicHourDownloadError: if one of them is not a public one.
    :raises socket.gaierror: if the name is not known.
    """
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not _is_public(address):
            raise MagicHourDownloadError(
                f"{host} is {address}, which is not a public address: refused, because the connection says "
                "allow_private_hosts=false; set it to true where downloads come from your own network"
            )
    return addresses


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
        if ip.is_site_local:
            return False
    elif ip in _PROTOCOLS:
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def no_auth(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    """Sign nothing; as an auth object it also keeps ``requests`` from sending a ``.netrc`` entry."""
    prepared.headers.pop("Authorization", None)
    return prepared


class _PublicConnection(HTTPConnection):
    """Connects to an address that was checked, not to a name that may mean another one by now."""

    def _new_conn(self) -> socket.socket:
        error: OSError | None = None
        for address in public_addresses(self._dns_host, self.port):
            try:
                return create_connection(
                    (address, self.port), self.timeout, self.source_address, self.socket_options
                )
            except OSError as caught:
                error = caught
        raise error or OSError(f"{self.host} has no address")


def adapter(answer: type[BufferedResponse], allow_private_hosts: bool, **options: Any) -> PoolsAdapter:
    """
    Return what connects a session to hosts that the connection allows.

    Through a proxy, it is the proxy that connects, and that knows the names.

    :param answer: how answers are read.
    :param options: as ``HTTPAdapter`` takes them.
    """
    if allow_private_hosts:
        return PoolsAdapter(pools(answer), **options)
    return PoolsAdapter(pools(answer, _PublicConnection), pools(answer), **options)

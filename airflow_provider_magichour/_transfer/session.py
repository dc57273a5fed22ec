"""
Requests to file hosts: without the API key, and only to hosts that the connection allows.

This module follows redirects, counts them and checks each one. If private hosts are refused, the connection
uses the address that was checked, so that a name cannot get another address in between.
"""

from __future__ import annotations

import ipaddress
import socket
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError
from urllib3.util.connection import create_connection

from airflow_provider_magichour._client import api
from airflow_provider_magichour._client.environment import Session
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
#: Reserved for protocols, not for hosts (it contains clouds' metadata services). Older Pythons call it
#: global.
_PROTOCOLS = ipaddress.ip_network("192.0.0.0/24")


class DownloadSession:
    """
    A pool of connections to download hosts. They never get the API key.

    :param timeout: seconds without a byte after which a connection counts as broken.
    :param allow_private_hosts: whether requests to loopback and private addresses are allowed.
    :param connections: how many connections to a host are kept open.
    """

    def __init__(self, timeout: float, allow_private_hosts: bool, connections: int) -> None:
        self._timeout = (min(CONNECT_TIMEOUT, timeout), timeout)
        self._allow_private_hosts = allow_private_hosts
        self._session = Session()
        self._session.auth = no_auth
        self._session.headers.update(
            {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        )
        limits = {"pool_connections": connections, "pool_maxsize": connections}
        self._sockets = Sockets()
        mount(self._session, adapter(StreamedResponse, allow_private_hosts, self._sockets, **limits))

    def __enter__(self) -> DownloadSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._session.close()

    def stop(self) -> None:
        """End the current reads, and send nothing more."""
        self._sockets.shut_down()

    def open(self, url: str, headers: Mapping[str, str], method: str = "GET") -> requests.Response:
        """
        Request a file, and return the response before its body is read.

        :raises MagicHourDownloadError: if the URL, or where it redirects to, is not allowed.
        :raises requests.RequestException: if no response came.
        """
        for _ in range(MAX_REDIRECTS + 1):
            self._check(url)
            self._session.cookies.clear()
            response = self._session.request(
                method, url, headers=headers, timeout=self._timeout, allow_redirects=False, stream=True
            )
            target = self._session.get_redirect_target(response)
            if target is None:
                return response
            response.close()
            source, url = url, urljoin(url, target)
            if source.lower().startswith("https:") and not url.lower().startswith("https:"):
                raise MagicHourDownloadError(
                    f"{without_query(source)} redirects to {without_query(url)!r}, which is not encrypted, "
                    "so it was not requested"
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
                f"{without_query(url)!r} is not an http or https URL, so it was not requested"
            )
        if self._allow_private_hosts:
            return
        try:
            public_addresses(host, port or (443 if parts.scheme == "https" else 80))
        except socket.gaierror:
            settings = self._session.merge_environment_settings(url, {}, None, None, None)
            if not select_proxy(url, settings["proxies"]):  # a proxy may know the name
                raise requests.ConnectionError(f"the name {host!r} is not known") from None


def quoted(response: requests.Response) -> str:
    """Return the first bytes of a response, even if the rest is slow or broken."""
    try:
        first = response.raw.read1(4096, decode_content=True) or b""
    except (HTTPError, OSError, ValueError):
        first = b""
    return api.quoted_message(api.Response(response.status_code, {}, first))


def public_addresses(host: str, port: int) -> list[str]:
    """
    Return the addresses of a host.

    :raises MagicHourDownloadError: if one of them is not public.
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
    """Sign nothing. Because it is an auth object, ``requests`` does not send a ``.netrc`` entry."""
    prepared.headers.pop("Authorization", None)
    return prepared


class _PublicConnection(HTTPConnection):
    """Connects to the address that was checked, because the name may have another address now."""

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


class Sockets:
    """The open sockets of a session, so that the end of a task can close them."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self.is_shut_down = False

    def registering(self, connection: type[HTTPConnection]) -> type[HTTPConnection]:
        """Return a connection class that registers its sockets here."""
        sockets = self

        class Registering(connection):  # type: ignore[misc,valid-type]
            def connect(self) -> None:
                if sockets.is_shut_down:
                    raise OSError("stopped, because the task ends")
                super().connect()
                sockets._open.add(self.sock)

        return Registering

    def shut_down(self) -> None:
        """End all reads and writes at once, and open no more connections."""
        self.is_shut_down = True
        for one in list(self._open):
            with suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)  # not TLS's own, which would wait


def adapter(
    response: type[BufferedResponse], allow_private_hosts: bool, sockets: Sockets, **options: Any
) -> PoolsAdapter:
    """
    Return the adapter that connects a session to the hosts that the connection allows.

    With a proxy, the proxy opens the connections and resolves the names.

    :param response: how responses are read.
    :param options: as ``HTTPAdapter`` takes them.
    """
    plain = pools(response, sockets.registering(HTTPConnection))
    if allow_private_hosts:
        return PoolsAdapter(plain, **options)
    return PoolsAdapter(pools(response, sockets.registering(_PublicConnection)), plain, **options)

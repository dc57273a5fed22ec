"""The requests to download hosts, and which hosts are allowed."""

from __future__ import annotations

import socket

import pytest
import requests

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._client import sanitize
from airflow_provider_magichour._transfer import session
from airflow_provider_magichour.hooks import MagicHourHook
from tests.support.files import visible
from tests.support.scripted_server import Reply, scripted_server


def download(tmp_path):
    return MagicHourHook().download_project("video", "p1", str(tmp_path))


def redirect(target, status=302):
    return Reply(status, headers={"Location": target})


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://127.0.0.1/",
        "data://x/,abc",
        "http://",
        "http://[::1/x",
        "http://a..b/x",
        f"http://{'a' * 64}.com/x",
    ],
)
def test_only_http_urls_are_requested(host, tmp_path, url):
    host.paths = [url]
    with pytest.raises(errors.MagicHourDownloadError, match="not an http or https URL"):
        download(tmp_path)
    assert visible(tmp_path) == []


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirect_to_another_scheme_is_refused(host, tmp_path, target):
    host.fetch = lambda seen: redirect(target)
    with pytest.raises(errors.MagicHourDownloadError, match="not an http or https URL"):
        download(tmp_path)
    assert visible(tmp_path) == []
    assert len(host.fetches) == 1


def test_redirect_is_followed_without_the_key(host, tmp_path, media):
    def fetch_it(seen):
        assert "authorization" not in seen.headers
        assert "cookie" not in seen.headers
        if seen.path.startswith("/files/"):
            return Reply(307, headers={"Location": "/real/a.mp4", "Set-Cookie": "a=b"})
        return Reply(body=media)

    host.fetch = fetch_it
    assert download(tmp_path)[0]["bytes"] == len(media)
    assert any("authorization" in seen.headers for seen in host.server.seen)


def test_number_of_redirects_is_limited(host, tmp_path, media):
    def fetch_it(seen):
        number = int(seen.path.rpartition("/")[2].partition("?")[0].removeprefix("output.mp4") or 0)
        return Reply(body=media) if number == limit else redirect(f"/files/{number + 1}")

    host.fetch = fetch_it
    limit = 5
    assert download(tmp_path / "a")
    limit = 6
    with pytest.raises(errors.MagicHourDownloadError, match="redirects"):
        download(tmp_path / "b")


def test_netrc_entry_is_not_sent(host, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret")
    monkeypatch.setenv("NETRC", str(netrc))
    download(tmp_path / "out")
    assert all("authorization" not in seen.headers for seen in host.fetches)


@pytest.fixture
def strict(host, connect):
    connect(host.server.url, "mhk_test_key", timeout=30, max_attempts=2, allow_private_hosts=False)
    return host


def test_private_hosts_are_refused_where_the_connection_says_so(strict, tmp_path):
    with pytest.raises(errors.MagicHourDownloadError, match="allow_private_hosts"):
        download(tmp_path)
    assert strict.fetches == []
    assert visible(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f.1",
        "0.0.0.0",  # noqa: S104 - asked for, not bound
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "[fe80::1]",
        "[fd00::1]",
        "100.64.0.1",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "224.0.0.1",
        "255.255.255.255",
        "172.16.5.4",
        "198.18.0.1",
        "192.0.0.192",
        "[fec0::1]",
    ],
)
def test_private_addresses_are_recognized(strict, tmp_path, name, monkeypatch):
    strict.paths = [f"http://{name}:9/output.mp4"]
    with monkeypatch.context() as patched:
        patched.setattr(session.socket, "getaddrinfo", _numeric(session.socket.getaddrinfo))
        with pytest.raises(errors.MagicHourDownloadError, match="not a public address"):
            download(tmp_path)


def _numeric(checked):
    """Look up addresses as the system does, and names as the tests' guard lets us."""
    import _socket

    def resolve(host, port, *args, **kwargs):
        try:
            return _socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
        except socket.gaierror:
            return checked(host, port, *args, **kwargs)

    return resolve


def test_checked_address_is_the_one_connected_to(strict, tmp_path, monkeypatch):
    """A name that means a public address when it is checked, and this machine a moment later."""
    real = session.socket.getaddrinfo
    asked = []

    def rebinding(host, port, *args, **kwargs):
        if host != "files.example.com":
            return real(host, port, *args, **kwargs)
        asked.append(host)
        address = "93.184.215.14" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(session.socket, "getaddrinfo", rebinding)
    port = strict.server.url.rpartition(":")[2]
    strict.paths = [f"http://files.example.com:{port}/output.mp4"]
    with pytest.raises(errors.MagicHourDownloadError, match=r"127\.0\.0\.1, which is not a public"):
        download(tmp_path)
    assert strict.fetches == []
    assert len(asked) == 2


def test_redirect_from_public_to_private_host_is_refused(strict, tmp_path, monkeypatch):
    allowed = session._is_public
    monkeypatch.setattr(session, "_is_public", lambda address: address == "127.0.0.1" or allowed(address))
    strict.fetch = lambda seen: redirect("http://[::1]:9/secret")
    with pytest.raises(errors.MagicHourDownloadError, match="::1, which is not a public"):
        download(tmp_path)
    strict.fetch = lambda seen: Reply(body=b"media")
    assert download(tmp_path)


def test_downloads_go_through_the_proxy(host, tmp_path, monkeypatch):
    with scripted_server() as proxy:
        proxy.script(Reply(body=b"from the proxy"))
        host.paths = ["http://files.example.com/output.mp4"]
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        (file,) = download(tmp_path)
    assert file["bytes"] == len(b"from the proxy")
    assert proxy.seen[0].path == "http://files.example.com/output.mp4"


def test_messages_contain_no_signature():
    text = "HTTPConnectionPool(host='a'): url: /x?Signature=abc&b=c (Caused by y)"
    assert sanitize.without_query(text) == "HTTPConnectionPool(host='a'): url: /x?... (Caused by y)"


def test_unresolvable_name_is_retried(strict, tmp_path):
    strict.paths = ["http://nowhere.invalid/output.mp4"]
    with pytest.raises(errors.MagicHourDownloadError, match="not known"):
        download(tmp_path)
    with pytest.raises(requests.ConnectionError), session.DownloadSession(1, False, 1) as opened:
        opened.open("http://nowhere.invalid/x", {})

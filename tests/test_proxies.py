"""Calls through proxies, and interim responses."""

from __future__ import annotations

import socket
import threading
import traceback
from types import SimpleNamespace

import pytest
import requests

from airflow_provider_magichour import exceptions as errors
from airflow_provider_magichour._client import environment, retry
from airflow_provider_magichour._client.settings import Settings
from airflow_provider_magichour._client.transport import Sender
from tests.support.scripted_server import Reply
from tests.support.senders import CREATE, GET, KEY, send_async, send_sync, settings_for


class TestProxies:
    """Both senders go through the same proxies, or the connection is refused before anything is paid."""

    def use(self, monkeypatch, proxy):
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("ALL_PROXY", proxy)

    def test_proxy_without_a_scheme_is_an_http_proxy(self, server, send, monkeypatch):
        self.use(monkeypatch, server.url.removeprefix("http://"))
        server.script(Reply(body={"id": "abc"}))
        settings = settings_for(server, base_url="http://magichour.invalid")
        assert send(settings, GET) == {"id": "abc"}
        assert Sender(settings).send(CREATE) == {"id": "abc"}
        assert [seen.path for seen in server.seen] == [
            "http://magichour.invalid/v1/image-projects/abc",
            "http://magichour.invalid/v1/text-to-video",
        ]

    @pytest.mark.parametrize(
        "form", ["localhost:{port}", "user:pass-word@127.0.0.1:{port}", " {url}", "{url}\n"]
    )
    def test_all_calls_take_the_same_proxy(self, server, send, monkeypatch, form):
        self.use(monkeypatch, form.format(url=server.url, port=server.url.rpartition(":")[2]))
        server.script(Reply(body={"id": "abc"}))
        settings = settings_for(server, base_url="http://magichour.invalid", max_attempts=1)
        assert send(settings, GET) == {"id": "abc"}
        assert Sender(settings).send(CREATE) == {"id": "abc"}
        credentials = "Basic dXNlcjpwYXNzLXdvcmQ=" if "user" in form else None
        assert [seen.headers.get("proxy-authorization") for seen in server.seen] == [credentials] * 2

    @pytest.mark.parametrize("status", [407, 502, 600])
    def test_password_of_a_proxy_is_in_no_error_and_no_log(self, server, send, monkeypatch, caplog, status):
        self.use(monkeypatch, server.url.replace("http://", "http://user:pass-word@"))
        server.script(Reply(status=status))
        settings = settings_for(server, base_url="https://magichour.invalid", max_attempts=2)
        monkeypatch.setattr(retry, "BACKOFF_FIRST", 0.01)
        with pytest.raises(errors.MagicHourConnectionError) as caught:
            send(settings, GET)
        said = "".join(traceback.format_exception(caught.value)) + caplog.text
        assert "trying again" in said
        assert "pass-word" not in said
        assert {seen.method for seen in server.seen} == {"CONNECT"}
        assert KEY not in str(server.seen)
        assert {seen.headers["proxy-authorization"] for seen in server.seen} == {"Basic dXNlcjpwYXNzLXdvcmQ="}

    @pytest.mark.parametrize(
        "proxy",
        [
            "socks5h://127.0.0.1:1",
            "SOCKS5://user:pass-word@127.0.0.1:1",
            "ftp://127.0.0.1:1",
            "http://:1",
            "http://user:pass-word@.",
            "http://\u0142:pass-word@127.0.0.1:1",
        ],
    )
    @pytest.mark.parametrize("base_url", ["http://magichour.invalid", "https://magichour.invalid"])
    def test_unusable_proxy_is_refused_first(self, server, send, monkeypatch, proxy, base_url):
        self.use(monkeypatch, proxy)
        settings = settings_for(server, base_url=base_url)
        with pytest.raises(errors.MagicHourArgumentError, match=r"HTTPS_PROXY.*NO_PROXY") as caught:
            send(settings, GET)
        with pytest.raises(errors.MagicHourArgumentError, match="SOCKS is not supported"):
            Sender(settings).send(CREATE)
        assert "pass-word" not in str(caught.value)

    def test_session_goes_through_the_proxies_that_it_is_given(self, server):
        url, proxies = "http://magichour.invalid/", {"http": server.url}
        with environment.Session() as session:
            with pytest.raises(requests.ConnectionError):
                session.get(url, timeout=30)
            assert session.get(url, proxies=proxies, timeout=30).ok
            session.proxies = proxies
            assert session.get(url, timeout=30).ok
        assert [seen.path for seen in server.seen] == [url, url]

    def test_proxy_of_other_hosts_does_not_matter(self, server, send, monkeypatch):
        self.use(monkeypatch, "socks5h://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        server.script(Reply(body={"id": "abc"}))
        assert send(settings_for(server), GET) == {"id": "abc"}

    @pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_missing_ca_bundle_is_refused_before_anything_is_sent(self, server, send, monkeypatch, name):
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        monkeypatch.setenv(name, "/nowhere/bundle.pem")
        settings = settings_for(server, base_url=server.url.replace("http:", "https:"))
        with pytest.raises(errors.MagicHourArgumentError, match=rf"{name}.*/nowhere/bundle.pem"):
            send(settings, GET)
        with pytest.raises(errors.MagicHourArgumentError, match="Nothing was sent"):
            Sender(settings).send(CREATE)
        assert server.seen == []

    def test_ca_bundle_that_is_none_is_named(self, server, monkeypatch, tmp_path):
        (tmp_path / "bundle.pem").write_text("no certificate")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "bundle.pem"))
        settings = settings_for(server, base_url=server.url.replace("http:", "https:"), max_attempts=1)
        with pytest.raises(errors.MagicHourArgumentError, match=r"bundle\.pem cannot be read"):
            send_async(settings, GET)
        with pytest.raises(errors.MagicHourConnectionError, match=r"(?i)certificate"):
            send_sync(settings, CREATE)


class TestInterimResponses:
    """A 1xx is followed by the final response (RFC 9110, 15.2)."""

    @pytest.fixture
    def interim(self):
        """Serve, on one connection after the other, interim responses before the final one."""
        server = socket.create_server(("127.0.0.1", 0))
        seen: list[bytes] = []

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    sent = connection.recv(65536)
                    while sent.startswith(b"POST") and not sent.endswith(b"}"):
                        sent += connection.recv(65536)
                    seen.append(sent.split(b"\r\n")[0])
                    for status in ("100 Continue", "102 Processing", "103 Hints\r\nLink: </x>", "103 Hints"):
                        connection.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())
                    body = b'{"id": "abc", "credits_charged": 5}'
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                    connection.sendall(head.encode() + body)

        thread = threading.Thread(target=serve)
        thread.start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.getsockname()[1]}", seen=seen)
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()

    def test_interim_responses_are_not_final(self, interim, send):
        settings = Settings(api_key=KEY, base_url=interim.url, timeout=30, max_attempts=1)
        assert send(settings, GET)["id"] == "abc"
        assert Sender(settings).send(CREATE)["id"] == "abc"
        assert interim.seen == [b"GET /v1/image-projects/abc HTTP/1.1", b"POST /v1/text-to-video HTTP/1.1"]

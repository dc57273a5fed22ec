"""The receiver as a program: where there is no Airflow, in one file, and behind nginx as the docs show it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import requests

from scripts.dist import ROOT, build_receiver
from scripts.local.processes import free_port
from tests.webhooks.support import FakeAirflow, event_body, serving, signed, used

#: Runs the receiver with every import of Airflow and of other heavy libraries refused.
WITHOUT_AIRFLOW = """
import sys
class NoAirflow:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in {"airflow", "sqlalchemy", "requests", "aiohttp", "fastapi"}:
            raise ImportError("the receiver must not import " + name)
sys.meta_path.insert(0, NoAirflow())
from airflow_provider_magichour.webhooks.__main__ import main
sys.exit(main())
"""
SECRETS = {"team_a": "whsec_program"}


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The receiver as ``make dist`` packs it, and a Python that has no library at all."""
    folder = tmp_path_factory.mktemp("receiver")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    return [str(folder / "venv" / "bin" / "python"), "-I", str(build_receiver(folder))]


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the receiver, and give its process and its port."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        **{f"MAGICHOUR_WEBHOOKS_{name}": value for name, value in environment.items()},
    }
    process, port = start(command, env)
    try:
        yield process, port
    finally:
        process.terminate()
        process.communicate(timeout=120)


def start(command: Sequence[str], env: Mapping[str, str]) -> tuple[subprocess.Popen[str], int]:
    for _ in range(3):
        port = free_port()
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            env=env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if serves(f"http://127.0.0.1:{port}/health", process):
            return process, port
        process.kill()
        printed = process.communicate()[0]
        # Another test's connection may have been given the port.
        assert "already in use" in printed, printed
    pytest.fail("three ports were taken by others")


def serves(url: str, process: subprocess.Popen[str]) -> bool:
    """Wait until the receiver responds, and return whether it does."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            requests.get(url, timeout=5).raise_for_status()
            return True
        time.sleep(0.1)
    return False


def user(airflow_url: str) -> dict[str, str]:
    return {
        "AIRFLOW_URL": airflow_url,
        "USERNAME": "webhooks",
        "PASSWORD": "secret",
        "SECRETS": json.dumps(SECRETS),
    }


def deliver(root: str, body: bytes) -> requests.Response:
    url = f"{root}/magichour/webhooks/team_a"
    return requests.post(url, data=body, headers=signed(body, SECRETS["team_a"]), timeout=30)


@pytest.mark.parametrize("form", ["package", "one file"])
def test_receiver_runs_where_there_is_no_airflow(form: str, one_file: list[str]) -> None:
    command = one_file if form == "one file" else [sys.executable, "-c", WITHOUT_AIRFLOW]
    airflow = FakeAirflow()
    airflow.use(used())
    with serving(airflow.app()) as airflow_port:
        with running(command, user(f"http://127.0.0.1:{airflow_port}")) as (process, port):
            assert deliver(f"http://127.0.0.1:{port}", event_body()).json() == {"status": "accepted"}
        printed = process.communicate()[0]
    assert "Magic Hour sent video.completed for project 'cm1' over connection team_a" in printed
    assert process.returncode in {0, -15}


def test_receiver_closes_connections_that_begin_no_request() -> None:
    """Some hundred of them would otherwise use up its file descriptors."""
    command = [sys.executable, "-m", "airflow_provider_magichour.webhooks"]
    with running(command, user("http://127.0.0.1:1")) as (_, port), contextlib.ExitStack() as stack:
        for begun in (b"", b"POST /magichour/webhooks/team_a HTTP/1.1\r\nX: "):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            client.sendall(begun)
            assert client.recv(100) == b""


def test_receiver_without_settings_says_what_is_missing() -> None:
    command = [sys.executable, "-m", "airflow_provider_magichour.webhooks"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAGICHOUR")}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "MAGICHOUR_WEBHOOKS_AIRFLOW_URL" in done.stderr


# ---------------------------------------------------------------------------------------------- the docs


def block(language: str, word: str) -> str:
    """Return the only code block of a language on the docs' page that has a word in it."""
    page = (ROOT / "docs" / "webhooks.md").read_text()
    (found,) = [
        code for code in re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL) if word in code
    ]
    return str(found)


NGINX = """\
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {snippet}
}}
"""


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed; .ci/run installs it")
def test_nginx_of_the_docs_passes_webhooks_and_nothing_else(tmp_path: Path, one_file: list[str]) -> None:
    airflow, public = FakeAirflow(), free_port()
    airflow.use(used())
    root = f"http://127.0.0.1:{public}"
    with serving(airflow.app()) as airflow_port, contextlib.ExitStack() as stack:
        _, port = stack.enter_context(running(one_file, user(f"http://127.0.0.1:{airflow_port}")))
        snippet = block("nginx", "limit_req")
        for there, here in (
            ("listen 443 ssl;", f"listen 127.0.0.1:{public};"),
            ("127.0.0.1:8090", f"127.0.0.1:{port}"),
        ):
            assert there in snippet
            snippet = snippet.replace(there, here)
        snippet = re.sub(r" *ssl_certificate.*\n", "", snippet)
        (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, snippet=snippet))
        nginx = subprocess.Popen(["nginx", "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)])
        stack.callback(nginx.wait, 30)
        stack.callback(nginx.terminate)
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(requests.RequestException):
                if deliver(root, event_body(name="ä \\u00e4")).json() == {"status": "accepted"}:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert deliver(root, b"x" * (1024 * 1024 + 1)).status_code == 413
        assert requests.post(f"{root}/magichour/webhooks/team_a", data=b"x", timeout=30).status_code == 401
        for path in ("/health", "/", "/api/v2/version"):
            assert requests.get(root + path, timeout=30).status_code == 404


def test_dockerfile_of_the_docs_starts_the_receiver(tmp_path: Path, one_file: list[str]) -> None:
    """Its steps without Docker: what is copied is what is run, with the settings of the page's example."""
    lines = block("dockerfile", "FROM").splitlines()
    assert [line.split()[0] for line in lines if line] == ["FROM", "COPY", "USER", "EXPOSE", "ENTRYPOINT"]
    _, source, target = next(line for line in lines if line.startswith("COPY")).split()
    assert source == "dist/magichour-webhooks.pyz"
    (entry,) = [json.loads(line.partition(" ")[2]) for line in lines if line.startswith("ENTRYPOINT")]
    assert entry[:2] == ["python", target]
    airflow = FakeAirflow()
    airflow.use(used())
    with serving(airflow.app()) as airflow_port:
        config = tmp_path / "webhooks.toml"
        example = block("toml", "[secrets]")
        example = example.replace("https://airflow.example.com", f"http://127.0.0.1:{airflow_port}")
        config.write_text(example.replace("the password", "secret").replace("magichour_default", "team_a"))
        assert "whsec_..." in example
        config.write_text(config.read_text().replace("whsec_...", SECRETS["team_a"]))
        arguments = [re.sub(r"^0(\.0){3}$", "127.0.0.1", argument) for argument in entry[2:]]
        with running([*one_file, *arguments], {"CONFIG": str(config)}) as (_, port):
            assert deliver(f"http://127.0.0.1:{port}", event_body()).json() == {"status": "accepted"}

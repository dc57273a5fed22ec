"""Programs started on the side end with the one that started them, whatever ends it."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from scripts.local.processes import ProcessError, Processes, free_port, only_one

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
# A program whose child leaves the process group, as the tasks of Airflow do.
PARENT = [
    sys.executable,
    "-S",
    "-c",
    "import os, sys, time\nif os.fork() == 0: os.setsid()\nprint('ready', flush=True)\ntime.sleep(600)",
]
IGNORES = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""
STUBBORN = [sys.executable, "-S", "-c", IGNORES]
# Starts a program with a runaway child, says so, and waits; a test ends it in one way or another.
OWNER = f"""
import os, sys, time
from pathlib import Path
from scripts.local.processes import Processes
with Processes(Path(sys.argv[1]), os.environ) as processes:
    processes.start("parent", {PARENT!r})
    while processes.log_text("parent").count("ready") < 2:
        time.sleep(0.01)
    print(*processes.marked_pids(), flush=True)
    time.sleep(600)
"""


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path / "logs of processes", os.environ)


def test_detached_child_is_ended_at_exit(processes: Processes) -> None:
    with processes:
        processes.start("parent", PARENT)
        wait_until(lambda: processes.log_text("parent").count("ready") == 2)
        pids = processes.marked_pids()
        assert len(pids) == 2
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_program_that_ignores_sigterm_is_killed(processes: Processes) -> None:
    pid = processes.start("stubborn", STUBBORN)
    wait_until(lambda: "ready" in processes.log_text("stubborn"))
    processes.stop_all(grace=0.2)
    assert not is_alive(pid)


def test_killed_program_can_be_restarted(processes: Processes) -> None:
    with processes:
        first = processes.start("sleep", SLEEP)
        with pytest.raises(ProcessError, match="running already"):
            processes.start("sleep", SLEEP)
        processes.kill("sleep")
        assert not processes.is_running("sleep")
        assert processes.exit_code("sleep") == -signal.SIGKILL
        assert processes.start("sleep", SLEEP) != first
        assert processes.is_running("sleep")


def test_killed_program_ends_its_detached_child(processes: Processes) -> None:
    with processes:
        for name in ("parent", "other"):
            processes.start(name, PARENT)
        wait_until(lambda: all(processes.log_text(each).count("ready") == 2 for each in ("parent", "other")))
        killed, left = processes.marked_pids("parent"), processes.marked_pids("other")
        assert len(killed) == len(left) == 2
        processes.kill("parent")
        wait_until(lambda: not any(is_alive(pid) for pid in killed))
        assert all(is_alive(pid) for pid in left)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_program_can_run_as_another_user(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    script = """
import os, sys, time
from pathlib import Path
from scripts.local.processes import Processes
with Processes(Path(sys.argv[1]), os.environ) as processes:
    print(processes.start("sleep", ["sleep", "600"], user="nobody"), flush=True)
    time.sleep(600)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as owner:
        assert owner.stdout is not None
        process = psutil.Process(int(owner.stdout.readline()))
        try:
            wait_until(lambda: process.name() == "sleep")
            assert set(process.uids()) == {nobody.pw_uid}
            assert set(process.gids()) == {nobody.pw_gid}
        finally:
            owner.kill()
    wait_until(lambda: not is_alive(process.pid))  # the kernel ends it, as it does ours


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_programs_end_with_their_owner(tmp_path: Path, sig: signal.Signals) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as owner:
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) == 2
        owner.send_signal(sig)
    # Killed outright, the owner can do nothing: the kernel ends what it started itself.
    ended = pids if sig == signal.SIGINT else [min(pids)]
    wait_until(lambda: not any(is_alive(pid) for pid in ended))
    for pid in pids:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_free_port_is_free() -> None:
    assert 1024 < free_port() < 65536


def test_second_one_in_a_folder_is_refused(tmp_path: Path) -> None:
    with only_one("playground", tmp_path), pytest.raises(ProcessError, match="another playground is"):
        only_one("playground", tmp_path).__enter__()
    with only_one("playground", tmp_path):
        pass

"""Child programs that end with their parent."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

#: Mark every process started here, and whatever those start in their turn: by set, and by name in it.
MARK = "LOCAL_PROCESSES_MARK"
NAME_MARK = "LOCAL_PROCESSES_NAME"

# Runs first in each child. A parent that is killed outright cannot end its children, so the kernel is
# asked to (Linux). A small program of its own, because code between fork and exec (preexec_fn) may hang
# where the parent has threads. The user comes before that: changing it makes the kernel forget. Another
# user may be unable to read our Python: all is imported first, warnings for execvp.
_LAUNCHER = """
import ctypes, os, pwd, signal, sys, warnings
if sys.argv[2]:
    user = pwd.getpwnam(sys.argv[2])
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.chdir("/")
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the process that started this one is gone")
signal.signal(signal.SIGINT, signal.default_int_handler)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class ProcessError(RuntimeError):
    """A program could not be started, or ended too early."""


@contextlib.contextmanager
def only_one(what: str, folder: Path) -> Iterator[None]:
    """
    Keep a second one, such as ``demo``, from sharing the Airflow of the first in a folder.

    :raises ProcessError: if another one is running there.
    """
    with (folder / f".airflow-{what}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ProcessError(f"another {what} is running in {folder}") from None
        yield


def free_port() -> int:
    """Return a TCP port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Processes:
    """
    A set of named programs, each in its own process group with its output in a log file.

    They are ended by :meth:`stop_all`, which leaving the ``with`` block or the interpreter calls too.
    Start them from the main thread: on Linux they end with the thread that started them.

    :param log_folder: where each program's output goes, as ``NAME.log``; made where missing.
    :param env: the environment of all of them.
    """

    def __init__(self, log_folder: Path, env: Mapping[str, str]) -> None:
        self.log_folder = log_folder
        self.mark = uuid.uuid4().hex
        # Without SPT_NOENV, a program that sets its title overwrites the mark that we find it by.
        self.env = {**env, MARK: self.mark, "SPT_NOENV": "1"}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *args: object) -> None:
        self.stop_all()

    def start(
        self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None, *, user: str = ""
    ) -> int:
        """
        Start a program and return its process id.

        :param env: what to add to the environment.
        :param user: whose process it shall be, for programs that refuse to run as root; ours if empty.
        """
        if self.is_running(name):
            raise ProcessError(f"{name} is running already")
        atexit.unregister(self.stop_all)
        atexit.register(self.stop_all)
        self.log_folder.mkdir(parents=True, exist_ok=True)
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), user, *command]
        with self.log_path(name).open("ab") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603  # the caller's own command
                launch,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self.env, **(env or {}), NAME_MARK: name},
                start_new_session=True,
            )
        return self._running[name].pid

    def pid(self, name: str) -> int:
        """Return the process id of a program that was started."""
        return self._running[name].pid

    def is_running(self, name: str) -> bool:
        """Return whether a program was started and has not ended."""
        return name in self._running and self._running[name].poll() is None

    def exit_code(self, name: str) -> int | None:
        """Return how a program ended, None while it runs."""
        return self._running[name].poll()

    def kill(self, name: str, sig: int = signal.SIGKILL, timeout: float = 60) -> None:
        """
        Send a signal to a program; SIGKILL also to all that it started, as a lost machine would.

        :param timeout: how many seconds it may take to end.
        :raises ProcessError: if it continues running.
        """
        process = self._running[name]
        if sig == signal.SIGKILL:
            runaways = self.marked_pids(name)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sig)  # first: it must not see those die that have left the group
            _kill_all(runaways)
        else:
            process.send_signal(sig)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{name} did not end within {timeout:.0f} s of signal {sig}") from None
        if sig == signal.SIGKILL:
            self._kill_marked(name)  # what was started meanwhile

    def stop_all(self, grace: float = 8) -> None:
        """
        End everything that was started here, and everything that those started.

        :param grace: how many seconds they have to end by themselves before they are killed.
        """
        with _uninterrupted():
            for process in self._running.values():
                if process.poll() is None:
                    process.terminate()
            deadline = time.monotonic() + grace
            for process in self._running.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(deadline - time.monotonic(), 0.01))
            for process in self._running.values():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            self._kill_marked()
            self._running.clear()
            atexit.unregister(self.stop_all)

    def log_path(self, name: str) -> Path:
        """Return where a program's output goes."""
        return self.log_folder / f"{name}.log"

    def log_text(self, name: str) -> str:
        """Return what a program has printed so far."""
        path = self.log_path(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def marked_pids(self, name: str | None = None) -> list[int]:
        """
        Return every living process that was started here, directly or not (Linux; else none).

        :param name: only those of this program.
        """
        wanted = {f"{MARK}={self.mark}".encode()}
        if name is not None:
            wanted.add(f"{NAME_MARK}={name}".encode())
        return [pid for pid, environment in _environments() if wanted <= set(environment.split(b"\0"))]

    def _kill_marked(self, name: str | None = None) -> None:
        # A task runs in its own process group, and its parent may be dead already.
        for _ in range(50):
            pids = self.marked_pids(name)
            if not pids:
                return
            _kill_all(pids)
            time.sleep(0.1)


def _kill_all(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _environments() -> Iterator[tuple[int, bytes]]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes()
            if environment:  # a zombie has none left
                yield int(entry.name), environment


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back a second Ctrl-C: stopping is what the first one requested."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sig: signal.signal(sig, signal.SIG_IGN) for sig in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)

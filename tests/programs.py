"""Runs `happy-server-light …` in processes that `tests.launcher` forks, which costs a fifth of a start of its own."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TextIO

COMMAND = (sys.executable, "-m", "happy_light")
"""For tests of what a process imports, or inherits beyond its environment: a start that imports for itself."""
ROOT = Path(__file__).parent.parent


class Launcher:
    """The process that forks, and the socket on which it is asked to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, other = socket.socketpair()
        with other:
            kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.launcher", str(other.fileno())], pass_fds=[other.fileno()],
                cwd=ROOT, env={**kept, "PYTHONWARNINGS": "default"}, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def fork(self, arguments: Sequence[str], environ: Mapping[str, str], *descriptors: int) -> None:
        """Ask for a process; the descriptors are for stdin, stdout, stderr, and its pid and exit status."""
        request = {"arguments": arguments, "environ": dict(environ), "folder": str(Path.cwd())}
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode() + b"\n"], descriptors)

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        self._process.wait(20)


@functools.cache
def _launcher() -> Launcher:
    return Launcher()


def close() -> None:
    """End the launcher, if there is one."""
    if _launcher.cache_info().currsize:
        _launcher().close()
        _launcher.cache_clear()


class Program:
    """A running `happy-server-light …`. What has the name of a member of subprocess.Popen is as there."""

    stdout: TextIO
    stderr: TextIO

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str], *files: io.FileIO | IO[bytes]) -> None:
        """Start it with nothing on stdin. `files` are for stdout and stderr; without them, both are pipes."""
        self.returncode: int | None = None
        self._status, status = _pipe()
        with contextlib.ExitStack() as given:
            given.enter_context(status)
            if not files:
                out, writing = _pipe()
                err, writing_errors = _pipe()
                self.stdout, self.stderr = (io.TextIOWrapper(io.BufferedReader(file)) for file in (out, err))
                files = (given.enter_context(writing), given.enter_context(writing_errors))
            nothing = given.enter_context(Path(os.devnull).open("rb"))
            _launcher().fork(arguments, environ, *(file.fileno() for file in (nothing, *files, status)))
        self.pid = self._number()

    def _number(self) -> int:
        line = self._status.readline()
        assert line, "the launcher has ended"
        return int(line)

    def poll(self) -> int | None:
        """Return the exit status if it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once it has ended. Raises subprocess.TimeoutExpired after `timeout` s."""
        if self.returncode is None:
            ready = select.poll()
            ready.register(self._status, select.POLLIN)
            if not ready.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(COMMAND, timeout or 0)
            self.returncode = self._number()
            self._status.close()
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Send a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _pipe() -> tuple[io.FileIO, io.FileIO]:
    reading, writing = os.pipe()
    return io.FileIO(reading, "r"), io.FileIO(writing, "w")


def run(arguments: Sequence[str], environ: Mapping[str, str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run it to its end, which must come within `timeout` s, with nothing on stdin, and return what it wrote.

    With PYTHONPATH, which is for its imports, it is not forked.
    """
    if "PYTHONPATH" in environ:
        return subprocess.run(
            [*COMMAND, *arguments], env=environ, capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        program = Program(arguments, environ, out, err)
        try:
            status = program.wait(timeout)
        except BaseException:
            program.kill()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([*COMMAND, *arguments], status, out.read().decode(), err.read().decode())

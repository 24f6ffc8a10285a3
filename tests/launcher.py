"""`python -m tests.launcher FD`: import the server once, and fork a process for each that a test wants (fork server).

Imports are most of what a start costs. What is forked is a process as any other: it runs `happy_light.__main__` with
arguments, environment, folder, and open files of its own. Requests come over the Unix socket FD: a line of JSON with
the descriptors for stdin, stdout, stderr, and a pipe to which the pid and later the exit status are written. The end
of the socket ends the launcher. `tests.programs` is the client.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any

import happy_light

MODULE = "happy_light"
LATE = (
    "brotli", "cryptography.hazmat.primitives.ciphers.aead", "httpx", "nacl.exceptions", "nacl.signing",
    "platformdirs", "prometheus_client", "prometheus_client.core", "segno", "uvloop", "websockets.speedups", "wsproto",
)  # fmt: skip
"""Libraries that the server imports only when it needs them, or (uvloop) if they are installed."""


def import_server() -> None:
    """Import all modules of the server, except the program itself and what is for other people's tests."""
    for module in pkgutil.walk_packages(happy_light.__path__, f"{MODULE}."):
        if module.name not in (f"{MODULE}.__main__", f"{MODULE}.pytest_plugin"):
            importlib.import_module(module.name)
    for name in LATE:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)


class Launcher:
    """The processes that were forked: `pipes` has the pipe of each that runs."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pipes: dict[int, int] = {}

    def run(self) -> list[str] | None:
        """Fork a process per request. Return its arguments in each of these, and None here when requests end."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
        signal.signal(signal.SIGCHLD, self._report)
        while True:
            line, descriptors, _, _ = socket.recv_fds(self._control, 65_536, 4)
            if not line:
                self._control.close()
                return None
            while not line.endswith(b"\n"):
                line += self._control.recv(65_536)
            request = json.loads(line)
            # What has ended is reported only after its pipe is known.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            pid = os.fork()
            if pid == 0:
                self._become(request, descriptors)
                return list(request["arguments"])
            self._pipes[pid] = descriptors.pop()
            os.write(self._pipes[pid], b"%d\n" % pid)
            for descriptor in descriptors:
                os.close(descriptor)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def _report(self, _signum: int, _frame: FrameType | None) -> None:
        while self._pipes:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            pipe = self._pipes.pop(pid)
            os.write(pipe, b"%d\n" % os.waitstatus_to_exitcode(status))
            os.close(pipe)

    def _become(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """Leave nothing of the launcher in the process that was forked."""
        for number, descriptor in enumerate(descriptors[:3]):
            os.dup2(descriptor, number)
        for descriptor in (*descriptors, *self._pipes.values(), self._control.detach()):
            os.close(descriptor)
        for name in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(name, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.environ.clear()
        os.environ.update(request["environ"])
        time.tzset()
        os.chdir(request["folder"])


def main() -> None:
    """Serve requests; in a forked process, run the program."""
    import_server()
    gc.collect()
    gc.freeze()
    arguments = Launcher(socket.socket(fileno=int(sys.argv[1]))).run()
    if arguments is not None:
        sys.argv[1:] = arguments
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

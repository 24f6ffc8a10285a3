"""The servers that are measured, each a process of its own: this one, the bare stack, or whatever a command starts."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

OURS = f"{shlex.quote(sys.executable)} -m happy_light --port {{port}} --data-dir {{folder}}"
BARE = f"{shlex.quote(sys.executable)} -m tests.bench.bare {{port}}"
START_MAX = 60.0  # s


class Server:
    """A process that answers HTTP on this computer. `command` has {port} and {folder}, an empty folder, filled in."""

    def __init__(self, name: str, command: str, folder: Path) -> None:
        self.name = name
        self.bare = command == BARE
        self._command = command
        self._folder = folder
        self.start()

    def start(self) -> None:
        """Start the process, and wait until it answers GET /health."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = shlex.split(self._command.format(port=port, folder=shlex.quote(str(self._folder))))
        environment = {**os.environ, "METRICS_ENABLED": "false", "LOG_LEVEL": "warning"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
        began = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        while True:
            try:
                urllib.request.urlopen(self.url + "/health", timeout=1).close()
                break
            except OSError:
                if time.monotonic() > began + START_MAX or self.process.poll() is not None:
                    raise
                time.sleep(0.003)
        self.start_seconds = time.monotonic() - began
        self.start_cpu = self.cpu()

    def cpu(self) -> float:
        """Return the seconds of CPU that the process has used, its threads included, its children not."""
        return time.clock_gettime((~self.process.pid << 3) | 2)  # CPUCLOCK_SCHED of another process (Linux)

    def memory(self) -> float:
        """Return the MiB that are its own share (PSS)."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def stop(self) -> None:
        """End the process."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

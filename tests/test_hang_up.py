"""SIGHUP: a server without a terminal opens its log again and goes on; one whose terminal was closed stops."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import Start
from tests.test_start import environ, refused

pytestmark = pytest.mark.slow


def has_line(log: Path, text: str) -> bool:
    """Wait for a line of a log, which is written behind the answer."""
    deadline = time.monotonic() + 10
    while text not in log.read_text():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_the_log_file_is_opened_again(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    server = start("--log-file", str(log), "--access-log", "true")
    httpx.get(f"{server.url}/health?before", trust_env=False)
    assert has_line(log, "/health") and server.log == []
    log.rename(tmp_path / "server.log.1")
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert log.read_text() == "", "without a line that would open it by itself"
    assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200
    assert has_line(log, "/health")
    assert server.stop() == 0


def test_a_log_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "missing" / "server.log"
    sentence = f"{file} cannot be used: No such file or directory."
    assert refused(tmp_path / "data", "--log-file", str(file)) == sentence


@pytest.mark.parametrize("nohup", [False, True])
def test_a_closed_terminal_stops_the_server_unless_nohup(tmp_path: Path, nohup: bool) -> None:
    terminal, end = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(end, termios.TIOCSCTTY, 0)
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = subprocess.Popen(
        [sys.executable, "-m", "happy_light", "--port", "0", "--data-dir", str(tmp_path / "data")],
        env=environ(tmp_path), stdin=end, stdout=end, stderr=end, start_new_session=True, preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(end)
    shown = b""
    while b"Ctrl-C stops it." not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)  # the kernel sends SIGHUP
    try:
        if nohup:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
    assert not (tmp_path / "data" / "happy-server-light.sqlite-wal").exists(), "the database was closed"

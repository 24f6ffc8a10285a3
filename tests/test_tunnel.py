"""--tunnel: the address of the program becomes the public URL, and the program ends with the server.

The programs are scripts on PATH that print what the real ones print.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import Start
from tests.test_start import Background, command

pytestmark = pytest.mark.slow  # every test starts the program

CLOUDFLARED = """\
2026-01-31T12:00:00Z INF Thank you for trying Cloudflare Tunnel. See https://developers.cloudflare.com/terms
2026-01-31T12:00:00Z INF Requesting new quick Tunnel on trycloudflare.com...
2026-01-31T12:00:03Z INF +--------------------------------------------------------------------+
2026-01-31T12:00:03Z INF |  Your quick Tunnel has been created! Visit it at (it may take some time):  |
2026-01-31T12:00:03Z INF |  https://first-second-third.trycloudflare.com                                              |
2026-01-31T12:00:03Z INF +--------------------------------------------------------------------+"""
TAILSCALE = """\
Available within your tailnet:

https://box.tail0123.ts.net/
|-- proxy http://127.0.0.1:3005

Press Ctrl+C to exit."""
NOT_ENABLED = """\
Serve is not enabled on your tailnet.
To enable, visit:

         https://login.tailscale.com/f/serve?node=nABC"""
NO_QUICK_TUNNEL = (
    'ERR failed to request quick Tunnel: Post "https://api.trycloudflare.com/tunnel": dial tcp: no such host'
)


def stand_in(folder: Path, name: str, printed: str, then: str = "exec sleep 600") -> Path:
    """Make a program `name` that notes its arguments and its process, prints a text, and goes on with `then`."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\necho $$ \"$@\" > '{folder}/called'\ncat >&2 <<'END'\n{printed}\nEND\n{then}\n")
    program.chmod(0o755)
    return folder


def path_with(folder: Path) -> str:
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def called(folder: Path) -> tuple[int, str]:
    """Return the process of the program that was called, and its arguments."""
    pid, _, arguments = (folder / "called").read_text().strip().partition(" ")
    return int(pid), arguments


def runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("name", "printed", "url", "arguments"),
    [
        ("cloudflared", CLOUDFLARED, "https://first-second-third.trycloudflare.com",
         "tunnel --no-autoupdate --no-tls-verify --url {}"),
        ("tailscale", TAILSCALE, "https://box.tail0123.ts.net", "serve {}"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_address_is_the_public_url_until_the_server_ends(
    start: Start, tmp_path: Path, name: str, printed: str, url: str, arguments: str, signum: signal.Signals
) -> None:
    folder = stand_in(tmp_path / "bin", name, printed)
    server = start("--tunnel", name, PATH=path_with(folder))
    text = "\n".join(server.printed)
    assert f"\n  Public   {url}\n" in text
    assert f"the first screen; enter {url}\n" in text
    assert "registration is open" in text, "others reach the server now"
    page = httpx.get(server.url, headers={"accept": "text/html"}, trust_env=False, verify=False).text
    assert f'aria-label="QR code of {url}"' in page
    pid, given = called(folder)
    assert given == arguments.format(server.url)
    assert runs(pid)
    assert server.stop(signum) == 0
    assert not runs(pid)


@pytest.mark.parametrize(
    ("name", "printed", "then", "sentence"),
    [
        ("tailscale", NOT_ENABLED, "exec sleep 600",
         "refused. It said: Serve is not enabled on your tailnet. To enable, visit: https://login.tailscale.com/f/serve?node=nABC"),
        ("tailscale", "failed to connect to local tailscaled; it doesn't appear to be running", "exit 1",
         "refused. It said: failed to connect to local tailscaled"),
        ("cloudflared", NO_QUICK_TUNNEL, "exit 1", "refused. It said: ERR failed to request quick Tunnel"),
        ("cloudflared", "", "exit 3", "refused, and said nothing."),
    ],
)  # fmt: skip
def test_a_program_that_refuses_is_one_sentence(
    tmp_path: Path, name: str, printed: str, then: str, sentence: str
) -> None:
    folder = stand_in(tmp_path / "bin", name, printed, then)
    ended = command(tmp_path, "--port", "0", "--tunnel", name, PATH=path_with(folder))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"happy-server-light: --tunnel {name}: it {sentence}"), ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not runs(called(folder)[0])


def test_a_program_that_is_missing_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("tailscale", "cloudflared"):
        ended = command(tmp_path, "--port", "0", "--tunnel", name, PATH=str(tmp_path / "empty"))
        assert ended.returncode == 2
        assert f"--tunnel {name} needs the program {name}, which is not installed: https://" in ended.stderr


def test_a_tunnel_and_a_public_url_are_refused_together(tmp_path: Path) -> None:
    folder = stand_in(tmp_path / "bin", "tailscale", TAILSCALE)
    ended = command(
        tmp_path, "--port", "0", "--tunnel", "tailscale", PUBLIC_URL="https://x.example", PATH=path_with(folder)
    )
    assert ended.returncode == 2 and "PUBLIC_URL and --tunnel are both set" in ended.stderr
    assert not (folder / "called").exists()


def test_a_stop_while_the_program_still_connects(tmp_path: Path) -> None:
    folder = stand_in(tmp_path / "bin", "cloudflared", "connecting")
    server = Background(tmp_path, "--port", "0", "--tunnel", "cloudflared", PATH=path_with(folder))
    while not (folder / "called").exists():
        time.sleep(0.01)
    status, _, err = server.end()
    assert (status, err) == (0, "")
    assert not runs(called(folder)[0])


def test_a_program_that_ends_by_itself_is_logged(start: Start, tmp_path: Path) -> None:
    folder = stand_in(tmp_path / "bin", "cloudflared", CLOUDFLARED)
    server = start("--tunnel", "cloudflared", PATH=path_with(folder))
    os.kill(called(folder)[0], signal.SIGKILL)
    for _ in range(500):
        if "cloudflared ended with status" in "".join(server.log):
            break
        time.sleep(0.02)
    assert "nobody reaches this server at https://first-second-third.trycloudflare.com" in "".join(server.log)
    assert server.stop() == 0


def test_a_program_that_does_not_end_is_killed_with_what_it_started(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    then = f"cd {folder}; sleep 600 & trap '' TERM; echo $! > new; mv new child; while :; do wait; done"
    stand_in(folder, "tailscale", TAILSCALE, then)
    server = Background(tmp_path, "--port", "0", "--tunnel", "tailscale", PATH=path_with(folder))
    assert server.process.stdout is not None
    while not server.process.stdout.readline().startswith("Ctrl-C"):
        pass
    while not (folder / "child").exists():
        time.sleep(0.01)
    status, _, err = server.end()
    assert (status, err) == (0, "")
    assert not runs(called(folder)[0])
    assert not runs(int((folder / "child").read_text()))


def test_a_second_ctrl_c_ends_the_program_too(tmp_path: Path) -> None:
    folder = stand_in(tmp_path / "bin", "tailscale", TAILSCALE, "trap '' TERM; sleep 600 & wait; wait")
    server = Background(tmp_path, "--port", "0", "--tunnel", "tailscale", PATH=path_with(folder))
    assert server.process.stdout is not None
    while not server.process.stdout.readline().startswith("Ctrl-C"):
        pass
    while server.process.poll() is None:  # two signals that are pending at the same time count as one
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    pid = called(folder)[0]
    for _ in range(200):
        if not runs(pid):
            break
        time.sleep(0.02)
    assert not runs(pid)

"""Starting and stopping: the folder, the secret, who is refused and how, what is printed, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from happy_light.auth import master_secret
from happy_light.errors import OperatorError
from tests import programs
from tests.client import World
from tests.conftest import SECRET, Process, Start

pytestmark = pytest.mark.slow


def environ(folder: Path, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "METRICS_ENABLED": "false", **more}


def command(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `happy-server-light …` to its end."""
    return programs.run(arguments, environ(folder, **more))


def refused(folder: Path, *arguments: str, **more: str) -> str:
    """Return the sentence with which a start on `folder` is refused: exit 2, nothing else said."""
    ended = command(folder, "--data-dir", str(folder), "--port", "0", *arguments, **more)
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    assert ended.stderr.startswith("happy-server-light: ") and ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr.removeprefix("happy-server-light: ").strip()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ------------------------------------------------------------------------------------------ the data folder
def test_everything_made_is_for_its_user_only(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "data"
    server = start(folder=folder, HANDY_MASTER_SECRET="")
    assert mode(folder) == 0o700
    made = {path.name: mode(path) for path in folder.iterdir() if path.is_file()}
    assert made.keys() >= {"happy-server-light.sqlite", "handy-master-secret.txt", "server.pid"}
    assert set(made.values()) == {0o600}
    assert server.stop() == 0
    left = {path.name for path in folder.iterdir()}
    assert not {name for name in left if name.endswith(("-wal", "-shm"))}, "the write-ahead log was folded in"


def test_default_folder_is_below_home(tmp_path: Path) -> None:
    assert command(tmp_path, "migrate").stdout.startswith(str(tmp_path / ".happy/server-light"))
    assert command(tmp_path, "migrate", DATA_DIR="~/b c").stdout.startswith(str(tmp_path / "b c"))
    assert mode(tmp_path / ".happy/server-light") == 0o700


def test_a_folder_open_to_others_is_noted(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    printed = "\n".join(start(folder=folder).printed)
    assert f"chmod 700 {folder}" in printed
    assert mode(folder) == 0o755


def test_a_folder_that_is_a_file_is_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.write_text("")
    assert refused(folder, HOME=str(tmp_path)).startswith(f"The data folder {folder} cannot be ")


def test_a_second_server_is_told_the_pid_of_the_first(start: Start, tmp_path: Path) -> None:
    server = start()
    text = refused(server.folder)
    assert text.startswith(f"Another server (pid {server.pid}) runs on {server.folder}; ")
    ended = command(tmp_path, "migrate", "--data-dir", str(server.folder))
    assert ended.returncode == 2 and f"(pid {server.pid})" in ended.stderr
    server.kill()
    assert start(folder=server.folder).stop() == 0, "a killed server leaves nothing in the way"


def test_two_folders_cannot_share_a_database(start: Start, tmp_path: Path) -> None:
    shared = tmp_path / "shared.sqlite"
    server = start(DATABASE_URL=f"file:{shared}")
    assert f"(pid {server.pid})" in refused(tmp_path / "other", DATABASE_URL=f"file:{shared}")
    assert not (server.folder / "happy-server-light.sqlite").exists()


# ----------------------------------------------------------------------------------------------- the secret
def test_a_secret_is_made_once_and_kept(start: Start, tmp_path: Path) -> None:
    server = start(HANDY_MASTER_SECRET="")
    file = server.folder / "handy-master-secret.txt"
    made = file.read_text()
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", made)
    assert server.stop() == 0
    assert start(HANDY_MASTER_SECRET="").stop() == 0
    assert file.read_text() == made
    file.write_text(f"\n  {made} \n")
    assert start(HANDY_MASTER_SECRET="").stop() == 0, "white space around it does not count"
    assert start(HANDY_MASTER_SECRET=made).stop() == 0


def test_the_environment_wins_and_no_file_is_made(start: Start) -> None:
    server = start()
    assert not (server.folder / "handy-master-secret.txt").exists()
    assert server.stop() == 0
    (server.folder / "handy-master-secret.txt").write_text("another")
    assert start(HANDY_MASTER_SECRET=SECRET).stop() == 0


def test_another_secret_is_refused(start: Start) -> None:
    """It ends at all: a connection of aiosqlite that is left open keeps the process alive."""
    server = start()
    assert server.stop() == 0
    text = refused(server.folder, HANDY_MASTER_SECRET="qwertz")
    assert text.startswith("The master secret is not the one that ")
    assert "qwertz" not in text and SECRET not in text
    assert start(folder=server.folder).stop() == 0, "and works again with the old one"


def test_an_empty_secret_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "handy-master-secret.txt"
    file.write_text(" \n")
    assert refused(tmp_path).startswith(f"The master secret file {file} is empty; ")
    assert file.read_text() == " \n"


def test_processes_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from happy_light.auth import master_secret\n"
        "while time.time() < float(sys.argv[2]): pass\n"
        "print(master_secret.find_or_create(None, Path(sys.argv[1])))"
    )
    moment = str(time.time() + 2)
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s"), moment], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    answers = {process.communicate(timeout=60)[0].strip() for process in running}
    assert answers == {(tmp_path / "s").read_text()}
    assert [path.name for path in tmp_path.iterdir()] == ["s"], "no drafts are left"


def test_another_servers_folder_gets_nothing_of_ours(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "happy-server-light.sqlite")) as connection:
        connection.executescript('CREATE TABLE "Account" (id TEXT); CREATE TABLE "SessionMessage" (id TEXT);')
    assert "was made by another Happy server and was not touched" in refused(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"happy-server-light.sqlite", "server.pid"}


# ---------------------------------------------------------------------------------------------- the address
def test_a_taken_port_is_a_sentence(start: Start, tmp_path: Path) -> None:
    port = start().url.rpartition(":")[2]
    text = refused(tmp_path / "other", "--port", port)
    assert text.startswith(f"Port {port} of 127.0.0.1 is taken; ")


@pytest.mark.parametrize("host", ["192.0.2.77", "no such host", "256.1.1.1"])
def test_an_address_of_somebody_else_is_a_sentence(tmp_path: Path, host: str) -> None:
    sentence = refused(tmp_path, "--host", host)
    assert sentence.startswith((f"HOST {host!r} is no address of this computer; ", f"HOST is {host!r}, which is no "))


def printed_urls(server: Process) -> list[str]:
    return re.findall(r"^  (?:Server|Network|        ) +(http\S+)$", "\n".join(server.printed), re.MULTILINE)


def test_every_printed_url_answers(start: Start) -> None:
    server = start("--host", "0.0.0.0")
    urls = printed_urls(server)
    assert urls[0] == server.url
    for url in urls:
        assert httpx.get(f"{url}/health", trust_env=False, verify=False).json()["status"] == "ok"
    text = "\n".join(server.printed)
    assert "registration is open: --registration first closes it" in text
    assert "plain HTTP" in text


def test_the_text_says_what_to_do_and_what_is_off(start: Start) -> None:
    server = start("--public-url", "https://happy.example/", "--registration", "first", ELEVENLABS_API_KEY="x")
    text = "\n".join(server.printed)
    assert printed_urls(server) == [server.url]
    assert "\n  Public   https://happy.example\n" in text
    assert f"\n  Data     {server.folder}\n" in text
    assert "\n  Accounts open for the first account, then closed\n" in text
    assert "\n  Computer HAPPY_SERVER_URL=https://happy.example happy\n" in text
    assert "\n  Off      web app, LiveKit, GitHub (`happy-server-light config` shows their settings)\n" in text
    assert text.index("Phone") < text.index("Data") < text.index("Metrics") < text.index("Off")
    assert "metrics at" not in "".join(server.log), "they have their line in the text"
    assert "Note" not in text
    assert "\033" not in text, "plain when nobody sees it"


def test_bold_on_a_terminal_only_and_not_with_no_color(tmp_path: Path) -> None:
    def shown(**more: str) -> str:
        import pty

        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "happy_light", "--ephemeral"], env=environ(tmp_path, **more), stdout=theirs
        )
        os.close(theirs)
        text = b""
        while b"Ctrl-C" not in text:
            text += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        os.close(ours)
        return text.decode()

    assert "\033[1mhappy-server-light\033[0m" in shown(TERM="xterm")
    assert "\033" not in shown(TERM="xterm", NO_COLOR="1")
    assert "\033" not in shown(TERM="dumb")


class Background:
    """A server whose output is read as it comes, for those that do not print the usual text."""

    def __init__(self, folder: Path, *arguments: str, **more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "happy_light", *arguments], env=environ(folder, **more),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self) -> tuple[int, str, str]:
        """Send SIGTERM and return the exit status, the rest of stdout and that of stderr."""
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=15)
        return self.process.returncode, out, err


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def until_well(folder: Path, port: int) -> None:
    """Wait until a server answers there."""
    for _ in range(100):
        if command(folder, "health", "--port", str(port), "--quiet").returncode == 0:
            return
    raise AssertionError("it did not start")


def test_quiet_says_nothing(tmp_path: Path) -> None:
    port = free_port()
    server = Background(tmp_path, "--quiet", "--port", str(port))
    until_well(tmp_path, port)
    assert server.end() == (0, "", "")


def test_json_log_has_the_start_as_an_entry(tmp_path: Path) -> None:
    port = free_port()
    server = Background(tmp_path, "--log-format", "json", "--port", str(port))
    until_well(tmp_path, port)
    status, out, err = server.end()
    assert (status, out) == (0, "")
    entries = [json.loads(line) for line in err.splitlines()]
    ready = next(entry for entry in entries if entry["message"] == "ready")
    assert ready["urls"] == [f"http://127.0.0.1:{port}"]
    assert ready["level"] == "info" and ready["time"].endswith("Z")


def test_open_shows_the_page(start: Start, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {shown}.part && mv {shown}.part {shown}\n')
    browser.chmod(0o755)
    server = start("--open", BROWSER=str(browser))
    for _ in range(200):
        if shown.exists():
            break
        time.sleep(0.05)
    assert shown.read_text().strip() == server.url


# ----------------------------------------------------------------------------------------------- the end
async def crowd(server: Process, world: World) -> None:
    """Fifty sockets of both transports, and idle connections beside them."""
    account = await world.account()
    await asyncio.gather(*(account.socket() for _ in range(25)))
    await asyncio.gather(*(account.socket(transports=("polling",)) for _ in range(25)))
    await asyncio.gather(*(world.http.get("/health") for _ in range(10)))


async def test_a_stop_with_fifty_sockets_is_clean(start: Start) -> None:
    """Hypercorn does not stop on Python 3.12 and later while a websocket is open."""
    server = start()
    async with World(server.url) as world:
        await crowd(server, world)
        begun = time.monotonic()
        status = await asyncio.to_thread(server.stop, signal.SIGTERM, 15)
        assert status == 0
        assert time.monotonic() - begun < 5, "the promise: within 5 seconds"
        assert "Traceback" not in "".join(server.log) and "cut off" not in "".join(server.log), server.log
        await asyncio.gather(*(asyncio.wait_for(socket.dropped.wait(), 10) for socket in world.sockets))


def test_a_second_ctrl_c_ends_at_once(start: Start) -> None:
    server = start()
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as upload:
        # A request that never ends keeps the first Ctrl-C waiting.
        head = "POST /v1/auth HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        upload.sendall(head.encode())
        time.sleep(0.3)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert server.process.poll() is None, "it waits for the request"
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(2) == 1
    assert "Traceback" not in "".join(server.log)


def test_sigterm_during_the_start_leaves_no_traceback(tmp_path: Path) -> None:
    for step in range(8):
        server = Background(tmp_path, "--port", "0", "--data-dir", str(tmp_path / str(step)), "--quiet")
        time.sleep(0.1 + step * 0.12)
        status, _, err = server.end()
        assert err == ""
        assert status in (0, -signal.SIGTERM), "ended by the server, or before its first line"


def test_ctrl_c_during_the_start_leaves_no_traceback(tmp_path: Path) -> None:
    for step in range(3):
        folder = tmp_path / str(step)
        server = Background(tmp_path, "--port", "0", "--data-dir", str(folder), "--quiet")
        while not folder.exists() and server.process.poll() is None:
            time.sleep(0.005)
        time.sleep(step * 0.02)
        server.process.send_signal(signal.SIGINT)
        _, err = server.process.communicate(timeout=15)
        assert (server.process.returncode, err) == (0, "")


def test_systemd_hears_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(30)
        server = Background(tmp_path, "--port", "0", NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert channel.recv(100) == b"READY=1"
        assert server.end()[0] == 0
        assert channel.recv(100) == b"STOPPING=1"


# ------------------------------------------------------------------------------------------- for developers
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_ephemeral_leaves_nothing_behind(tmp_path: Path, signum: signal.Signals) -> None:
    temporary, home = tmp_path / "tmp", tmp_path / "home"
    temporary.mkdir()
    server = Background(home, "--ephemeral", "--quiet", TMPDIR=str(temporary), PORT="1", PUBLIC_URL="https://x.example")
    assert server.process.stdout is not None
    name, _, url = server.process.stdout.readline().strip().partition("=")
    assert name == "URL"
    assert httpx.get(f"{url}/health", trust_env=False, verify=False).status_code == 200
    (folder,) = temporary.iterdir()
    assert (folder / "happy-server-light.sqlite").exists() and mode(folder) == 0o700
    server.process.send_signal(signum)
    out, err = server.process.communicate(timeout=15)
    assert (server.process.returncode, out, err) == (0, "", "")
    assert not list(temporary.iterdir()) and not home.exists()


def test_ephemeral_does_not_go_with_a_folder(tmp_path: Path) -> None:
    text = refused(tmp_path, "--ephemeral")
    assert text == "--data-dir cannot go with --ephemeral, which leaves nothing behind."


def test_the_secret_of_a_start_that_fails_is_never_shown(tmp_path: Path) -> None:
    with pytest.raises(OperatorError) as error:
        master_secret.find_or_create(None, tmp_path / "nowhere" / "secret")
    assert str(error.value).startswith("The master secret ")

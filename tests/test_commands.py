"""The small commands, and what is logged: health, --version, --help, no token in any log."""

from __future__ import annotations

import http.server
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from happy_light import __version__, log_setup
from happy_light.cli import commands
from tests.client import World
from tests.conftest import SECRET, Start
from tests.test_start import command, environ, free_port

pytestmark = pytest.mark.slow


def test_version_and_help(tmp_path: Path) -> None:
    assert command(tmp_path, "--version").stdout == f"happy-server-light {__version__}\n"
    overview = command(tmp_path, "--help").stdout
    for each in commands():
        assert re.search(rf"^    {each.name} ", overview, re.MULTILINE), each.name
        ended = command(tmp_path, each.name, "--help")
        assert ended.returncode == 0 and ended.stdout.startswith(f"usage: happy-server-light {each.name} "), each.name
    ended = command(tmp_path, "nonsense")
    assert ended.returncode == 2 and ended.stderr.startswith("happy-server-light: nonsense is no command; there are ")
    assert not list(tmp_path.iterdir()), "asking makes nothing"


def test_who_stops_reading_is_no_error(tmp_path: Path) -> None:
    for arguments in (("config",), ("config", "--json")):
        reading, writing = os.pipe()
        os.close(reading)
        ended = subprocess.run(
            [sys.executable, "-m", "happy_light", *arguments],
            env=environ(tmp_path), stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
        os.close(writing)
        assert (ended.returncode, ended.stderr) == (0, "")


# ---------------------------------------------------------------------------------------------------- health
def test_health_of_a_running_server(start: Start, tmp_path: Path) -> None:
    server = start()
    for arguments in (("--url", server.url), ("--url", f"{server.url}/"), ("--port", server.url.rpartition(":")[2])):
        ended = command(tmp_path, "health", *arguments)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{server.url} is healthy\n", "")
    assert server.stop() == 0
    ended = command(tmp_path, "health", "--url", server.url)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"{server.url} is not healthy: Connection refused\n"


class OtherServer(http.server.BaseHTTPRequestHandler):
    """Another program: its answer is in the path."""

    def do_GET(self) -> None:
        status, body = {"/sick/health": (503, '{"status":"error"}'), "/else/health": (200, "<html>")}.get(
            self.path, (200, '["ok"]')
        )
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def other() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), OtherServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_health_of_others(other: str, tmp_path: Path) -> None:
    for path, problem in (
        ("/sick", "it answers 503"),
        ("/else", "it is another program"),
        ("", "it is another program"),
    ):
        ended = command(tmp_path, "health", "--url", other + path)
        assert (ended.returncode, ended.stderr) == (1, f"{other}{path} is not healthy: {problem}\n")
    assert command(tmp_path, "health", "--quiet", "--port", str(free_port())).returncode == 1
    for arguments in (("--url", "nonsense"), ("--port", "0")):
        ended = command(tmp_path, "health", *arguments)
        assert ended.returncode == 2 and ended.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------------ logs
async def test_no_secret_reaches_the_log_at_any_level(start: Start) -> None:
    server = start("--log-level", "debug", ELEVENLABS_API_KEY="eleven-secret")
    async with World(server.url) as world:
        account = await world.account()
        session = await account.session()
        for transport in (("websocket",), ("polling",), ("polling", "websocket")):
            socket = await account.socket(session=session["id"], transports=transport)
            await socket.call("ping")
        with pytest.raises(ConnectionError):
            await world.socket({"token": account.token + "x"})
        await account.send(session["id"], "one", content="ciphertext-of-somebody")
        await world.http.get("/v1/sessions", headers={"Authorization": f"Bearer {account.token}y"})
        await world.http.post("/v1/auth", content=b"{broken")
    assert server.stop() == 0
    text = "".join(server.log) + "".join(server.printed)
    for secret in (
        account.token,
        account.token.split(".")[2],
        SECRET,
        "eleven-secret",
        "ciphertext-of-somebody",
        "Bearer",
    ):
        assert secret not in text
    assert "Traceback" not in text


def formatted(formatter: logging.Formatter, message: str, *args: object, **more: object) -> str:
    record = logging.LogRecord("happy_light.x", logging.WARNING, __file__, 1, message, args, None)
    record.__dict__.update(more)
    return formatter.format(record)


@pytest.mark.parametrize("formatter", [log_setup.TextFormatter(), log_setup.JsonFormatter()])
def test_what_looks_like_a_token_is_cut_out(formatter: logging.Formatter) -> None:
    token = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJjbTEifQ.c2lnbmF0dXJl-_x"
    for text in (token, f"Authorization: Bearer {token}", "authorization=bearer abc.def", "ExponentPushToken[abc]"):
        line = formatted(formatter, "before %s after", text)
        assert "[token] after" in line
        assert not {"eyJ", "abc", "c2lnb"} & set(re.findall(r"eyJ|abc|c2lnb", line))


def test_json_lines_hold_whatever_was_said() -> None:
    line = formatted(log_setup.JsonFormatter(), 'a "quote"\nand %s', "Zoë", fields={"port": 1})
    assert "\n" not in line
    entry = json.loads(line)
    assert entry["message"] == 'a "quote"\nand Zoë'
    assert (entry["level"], entry["logger"], entry["port"]) == ("warning", "happy_light.x", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"])

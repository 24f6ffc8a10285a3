"""What a new user meets first: how a phone is connected, misspelt names, and a web app that cannot work."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from happy_light.commands import qr_code
from happy_light.http import addresses
from happy_light.ui import insecure_bar
from tests.conftest import Start
from tests.test_start import command, environ
from tests.webapp import ENTRY, INDEX, ask, build

pytestmark = pytest.mark.slow  # every test starts the program

BROWSER = "text/html,*/*;q=0.8"
LAN = [each for each in addresses.reachable("0.0.0.0") if not addresses.is_loopback(each)]
has_lan = pytest.mark.skipif(not LAN, reason="this computer is in no network")


def on_a_terminal(folder: Path, *arguments: str, **more: str) -> str:
    """Return what a server prints on a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "happy_light", "--port", "0", "--data-dir", str(folder / "data"), *arguments],
        env=environ(folder, TERM="xterm", **more), stdout=theirs, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs)
    text = b""
    while b"Ctrl-C stops it." not in text:
        text += os.read(ours, 65_536)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    os.close(ours)
    return text.decode().replace("\r\n", "\n")


# ------------------------------------------------------------------------------------------------- phones
def test_bound_to_loopback_the_text_says_how_phones_get_there(start: Start) -> None:
    text = "\n".join(start().printed)
    assert "No phone reaches this server" in text
    assert "--host 0.0.0.0" in text and "--tunnel tailscale" in text
    for address in LAN:
        assert f"http://{address}:" in text
    assert "Custom Server URL" not in text


@has_lan
def test_bound_to_the_network_the_text_says_what_to_enter_where(start: Start) -> None:
    server = start("--host", "0.0.0.0")
    text = "\n".join(server.printed)
    url = server.url.replace("127.0.0.1", LAN[0])
    assert f"the server icon at the top right of the first screen; enter {url}\n" in text
    assert "as Custom Server URL; Save." in text
    assert f"\n  Computer HAPPY_SERVER_URL={url} happy" in text
    assert "No phone" not in text and "Settings > Server" not in text


@has_lan
def test_a_terminal_shows_the_qr_code_of_the_address_for_phones(tmp_path: Path) -> None:
    text = on_a_terminal(tmp_path, "--host", "0.0.0.0")
    found = re.search(rf"http://{re.escape(LAN[0])}:\d+", text)
    assert found is not None
    drawn = [line.removeprefix(" " * 11) for line in text.split("\n") if "\033[97;40m" in line]
    assert [re.sub(r"^.*?(?=\033\[97)", "", line) for line in drawn] == qr_code.lines(found[0], True)


def test_a_terminal_shows_no_qr_code_of_an_address_that_no_phone_reaches(tmp_path: Path) -> None:
    text = on_a_terminal(tmp_path)
    assert "\033[97;40m" not in text and "█" not in text
    assert "█" not in on_a_terminal(tmp_path, PUBLIC_URL="http://localhost:3005")
    assert "█" in on_a_terminal(tmp_path, PUBLIC_URL="https://happy.example", NO_COLOR="1")


@has_lan
def test_the_page_shows_a_phone_the_address_in_the_network(start: Start) -> None:
    server = start("--host", "0.0.0.0")
    text = ask(server, "/", accept=BROWSER).text  # asked for as 127.0.0.1
    lan = server.url.replace("127.0.0.1", LAN[0])
    assert f'aria-label="QR code of {lan}"' in text
    assert "QR code of http://127" not in text and "Settings</strong>" not in text
    assert "server icon</strong> at the top right of the first screen" in text


def test_the_page_has_a_hint_in_place_of_a_qr_code_of_localhost(start: Start, tmp_path: Path) -> None:
    text = ask(start(), "/", accept=BROWSER).text
    assert "QR code" not in text and "--host 0.0.0.0" in text
    second = start(folder=tmp_path / "second", PUBLIC_URL="http://localhost:3005")
    text = ask(second, "/", accept=BROWSER).text
    assert "QR code" not in text and "--host 0.0.0.0" in text


# ------------------------------------------------------------------------------------------------- typing
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--prot", "4000"), "--prot is no flag; did you mean --port?"),
        (("--hots=0.0.0.0",), "--hots is no flag; did you mean --host?"),
        (("bakcup", "/b"), "bakcup is no command; did you mean backup?"),
        (("accounts", "lst"), "lst is no command; did you mean list?"),
        (("health", "--qiet"), "--qiet is no flag; did you mean --quiet?"),
        (("--zzzzzz",), "--zzzzzz is no flag; `happy-server-light --help` lists them"),
        (("accounts", "list", "--yes"), "unrecognized arguments: --yes; `happy-server-light --help` explains it"),
    ],
)
def test_a_misspelt_word_gets_the_nearest_one(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    ended = command(tmp_path, *arguments)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"happy-server-light: {sentence}\n")


def test_a_misspelt_variable_is_named_at_the_start(start: Start) -> None:
    server = start(HAPPY_SERVER_LIGHT_REGISTRATON="closed", HAPPY_SERVER_LIGHT_PUSH="false")
    text = "\n".join(server.printed)
    assert (
        "HAPPY_SERVER_LIGHT_REGISTRATON is no setting and has no effect; did you mean HAPPY_SERVER_LIGHT_REGISTRATION?"
        in text
    )
    assert "HAPPY_SERVER_LIGHT_PUSH is" not in text


# ------------------------------------------------------------------------------------------------ web app
def test_the_web_app_over_plain_http_says_why_it_does_nothing(start: Start, tmp_path: Path) -> None:
    server = start(HAPPY_SERVER_UI_DIR=str(build(tmp_path / "dist")))
    for headers, shown in (
        ({"host": "192.168.1.5:3005"}, True),
        ({"host": "box.lan", "x_forwarded_proto": "http"}, True),
        ({"host": "box.lan", "x_forwarded_proto": "https"}, False),
        ({"host": "localhost:3005"}, False),
        ({}, False),
    ):
        answer = ask(server, "/", accept=BROWSER, **headers)
        assert ('"happy-insecure"' in answer.text) is shown, headers
        assert answer.text.endswith("<!-- Welcome to Happy Server! -->\n")
        assert "<body>app</body>" in answer.text, "the app's own page is as it was"
    assert "happy-insecure" not in ask(server, f"/{ENTRY}", host="192.168.1.5:3005").text


def test_the_bar_names_the_address_that_works() -> None:
    assert b"Open https://happy.example instead." in insecure_bar.element("http://box.lan", "https://happy.example")
    assert b"Ask the operator" in insecure_bar.element("http://box.lan", "http://happy.example")


def test_a_prefix_that_the_build_does_not_know_is_said_at_the_start(start: Start, tmp_path: Path) -> None:
    folder = build(tmp_path / "dist")
    linked = INDEX.replace("</head>", '<script src="{}/_expo/a.js" defer></script></head>')
    (folder / "index.html").write_text(linked.format(""))
    text = "\n".join(start("--ui-dir", str(folder), "--ui-prefix", "/ui").printed)
    assert "the web app is mounted at /ui, but its index.html links /_expo/a.js" in text
    (folder / "index.html").write_text(linked.format("/ui"))
    server = start("--ui-dir", str(folder), "--ui-prefix", "/ui", folder=tmp_path / "second")
    text = "\n".join(server.printed)
    assert "is mounted at" not in text and "\n  Web app  http" in text


def test_a_web_app_that_is_not_there_is_not_offered(start: Start, tmp_path: Path) -> None:
    server = start("--ui-dir", str(tmp_path / "missing"), "--ui-prefix", "/ui")
    text = "\n".join(server.printed)
    assert "\n  Web app" not in text and "\n  Off      web app, " in text
    assert f"no web app: {tmp_path / 'missing'} has no index.html" in text
    page = ask(server, "/", accept=BROWSER).text
    assert 'href="/ui"' not in page and "<dd>None; <code>HAPPY_SERVER_UI_DIR</code>" in page

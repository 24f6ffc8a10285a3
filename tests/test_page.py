"""The start page: its content, who gets it, and its content security policy."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator

import pytest
import segno

from happy_light import __version__
from tests.conftest import Process, Start
from tests.webapp import Answer, ask

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def page(server: Process, **headers: str) -> Answer:
    """GET / as a browser asks."""
    answer = ask(server, "/", accept=BROWSER, **headers)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    return answer


def warns(answer: Answer) -> bool:
    return 'id="insecure"' in answer.text


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Return a server that knows its public URL and takes no new accounts."""
    process = Process(
        tmp_path_factory.mktemp("data"),
        PUBLIC_URL="https://happy.example.org",
        HAPPY_SERVER_LIGHT_REGISTRATION="closed",
    )
    yield process
    assert process.stop() == 0


def test_browsers_get_the_page_and_other_clients_the_welcome_text(server: Process) -> None:
    answer = page(server)
    assert "<h1>Welcome to Happy Server!</h1>" in answer.text
    assert answer.headers["cache-control"] == "no-store"
    for headers in ({}, {"accept": "*/*"}, {"accept": "text/plain"}, {"accept": "text/html;q=0"}):
        plain = ask(server, "/", **headers)
        assert (plain.status, plain.text, plain.kind) == (200, "Welcome to Happy Server!", "text/plain"), headers
        assert "accept" in plain.headers["vary"].lower()
    head = ask(server, "/", "HEAD", accept=BROWSER)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(answer.body)))


def test_without_a_web_app_every_other_path_is_unknown(server: Process) -> None:
    for path in ("/index.html", "/ui", "/session/x", "/<b>"):
        page = ask(server, path, accept=BROWSER)
        assert (page.status, page.kind) == (404, "text/html")
        assert "There is nothing here" in page.text and "<b>" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        other = ask(server, path)
        assert (other.status, other.kind) == (404, "application/json")


def test_there_is_an_icon(server: Process) -> None:
    icon = ask(server, "/favicon.ico")
    assert (icon.status, icon.kind) == (200, "image/svg+xml")
    assert icon.body.startswith(b"<svg")


def test_the_page_shows_the_requested_address(server: Process) -> None:
    for headers, url in (
        ({}, server.url),
        ({"host": "box.lan:3005"}, "http://box.lan:3005"),
        ({"host": "x", "x_forwarded_proto": "https", "x_forwarded_host": "happy.example.org"},
         "https://happy.example.org"),
    ):  # fmt: skip
        text = page(server, **headers).text
        assert f'<code class="url" id="url" data-explicit="no">{url}</code>' in text
        assert f">HAPPY_SERVER_URL={url} happy</code>" in text
        assert f">export HAPPY_SERVER_URL={url}</code>" in text
        assert (f'aria-label="QR code of {url}"' in text) is ("127.0.0.1" not in url)


def test_the_public_url_replaces_the_requested_address(public: Process) -> None:
    text = page(public, host="box.lan:3005").text
    assert 'data-explicit="yes">https://happy.example.org</code>' in text
    assert "HAPPY_SERVER_URL=https://happy.example.org happy" in text
    assert "box.lan" not in text


def test_the_qr_code_contains_the_address(server: Process) -> None:
    for host in ("a.example.org", "b.example.org:3005"):
        code = segno.make(f"http://{host}", error="m", micro=False, mask=3, boost_error=False)
        drawn = code.svg_inline(border=3)
        found = re.search(r' d="[^"]+"', drawn)
        assert found is not None
        assert found[0] in page(server, host=host).text


@pytest.mark.parametrize("host", ['"><script>alert(1)</script>', "a b", "$(id)", "[::zz", "[:::]", "x" * 2000, "a/b@c"])
def test_a_malicious_host_header_is_escaped(server: Process, host: str) -> None:
    text = page(server, host=host).text
    assert text.count("<script") == 1
    assert "alert" not in text and "$(id)" not in text


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, False),
        ({"host": "localhost:3005"}, False),
        ({"host": "happy.localhost"}, False),
        ({"host": "127.8.8.8"}, False),
        ({"host": "[::1]:3005"}, False),
        ({"host": "192.168.1.5:3005"}, True),
        ({"host": "localhost.evil.com"}, True),
        ({"host": "box.lan", "x_forwarded_proto": "https"}, False),
        ({"host": "box.lan", "x_forwarded_proto": "http"}, True),
    ],
)
def test_plain_http_from_another_host_shows_a_warning(server: Process, headers: dict[str, str], expected: bool) -> None:
    assert warns(page(server, **headers)) is expected


def test_the_warning_links_to_an_https_public_url(public: Process) -> None:
    answer = page(public, host="192.168.1.5:3005")
    assert warns(answer)
    assert 'Open <a href="https://happy.example.org">' in answer.text


def test_a_loopback_address_shows_how_phones_connect(server: Process, public: Process, start: Start) -> None:
    assert "--host 0.0.0.0" in page(server).text
    assert "Only this computer" not in page(server, host="box.lan").text
    assert "Only this computer" not in page(public).text
    everywhere = page(start("--host", "0.0.0.0")).text
    assert "Only this computer" in everywhere and "--host 0.0.0.0" not in everywhere


def test_the_page_shows_the_state_of_the_server(server: Process, public: Process) -> None:
    text = page(server).text
    assert '<dd id="health" class="" ' in text and '<span id="health-text">Healthy</span>' in text
    assert f"<dd>{__version__}</dd>" in text
    assert "<dd>Open: " in text
    assert "HAPPY_SERVER_UI_DIR" in text
    assert "<dd>Closed: no new accounts</dd>" in page(public).text


def test_the_policy_allows_its_own_style_and_script_and_nothing_from_elsewhere(server: Process) -> None:
    answer = page(server)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    for element in ("style", "script"):
        (text,) = re.findall(f"<{element}>(.*?)</{element}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy
    assert not re.findall(r"\son\w+=|\sstyle=|<link rel=.stylesheet|<script src|@import|url\(", answer.text)
    assert not re.findall(r"(?:src|href)=.(?!data:|http)[^>]*", answer.text)

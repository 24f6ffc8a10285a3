"""The web app's index page: which paths return it, at / and at /ui, and what is inserted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from happy_light.ui.webapp import with_config
from tests.conftest import Process, Start
from tests.webapp import BANNER, ENTRY, FONT, FOREVER, INDEX, ask, build, is_app, is_nothing, running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("web") / "dist")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """At /."""
    yield from running(folder, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def below_ui(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """At /ui, and PUBLIC_URL is set."""
    yield from running(
        folder,
        tmp_path_factory.mktemp("data"),
        HAPPY_SERVER_LIGHT_UI_PREFIX="/ui/",
        PUBLIC_URL="https://happy.example.org",
        HAPPY_INJECT_HTML_CONFIG='{"disableAnalytics":false,"note":"</script><!--\u2028","deep":{"a":[1,null]}}',
    )


@pytest.mark.parametrize(
    "path",
    ["/", "/?a=1", "/index.html", "/index.html?x", "/terminal/connect", "/settings/account", "/session/c0ffee",
     "/restore", "/uiX", "/filesystem", "/healthy", "/UI/", "//"],
)  # fmt: skip
def test_index_html_answers_with_configuration_and_banner(server: Process, path: str) -> None:
    answer = ask(server, path, accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert is_app(answer)
    assert ask(server, path, if_none_match=answer.headers["etag"]).status == 304
    head = ask(server, path, "HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(answer.body)))


def test_the_root_contains_the_welcome_text_for_every_client(server: Process) -> None:
    plain = ask(server, "/", accept="text/plain")
    assert (plain.status, plain.text, plain.kind) == (200, "Welcome to Happy Server!", "text/plain")
    assert "accept" in plain.headers["vary"].lower()
    for accept in ("*/*", "text/plain, text/html", "text/html;q=0.1, text/plain", "application/json"):
        answer = ask(server, "/", accept=accept)
        assert is_app(answer), accept
        assert "accept" in answer.headers["vary"].lower()
    assert ask(server, "/", accept="text/html;q=0, text/plain").kind == "text/plain"
    assert is_app(ask(server, "/index.html", accept="text/plain"))


@pytest.mark.parametrize(
    "path",
    ["/v1/unknown", "/v1", "/v2/x", "/v3/x?y=1", "//v1/auth", "/%76%31/x", "/files/missing.png", "/health/x",
     "/metrics", "/logs-combined-from-cli-and-mobile-for-simple-ai-debugging", "/socket.io/"],
)  # fmt: skip
def test_api_paths_do_not_return_the_index_page(server: Process, path: str) -> None:
    answer = ask(server, path)
    assert (answer.status, answer.kind) == (404, "application/json")
    assert json.loads(answer.body)["error"] == "Not found"


@pytest.mark.parametrize("path", ["/assets/missing.png", "/_expo/static/js/old.js", "/.well-known/x", "/assets/"])
def test_missing_files_of_a_build_do_not_return_the_index_page(server: Process, below_ui: Process, path: str) -> None:
    for process, prefix in ((server, ""), (below_ui, ""), (below_ui, "/ui")):
        asked = prefix + path
        assert is_nothing(ask(process, asked, accept="*/*"), asked), asked
        page = ask(process, asked, accept="text/html")
        assert (page.status, page.kind) == (404, "text/html") and b"There is nothing here" in page.body, asked


def test_only_get_returns_the_web_app_and_api_routes_take_precedence(server: Process) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = ask(server, "/settings", method, content_length="0")
        assert (answer.status, json.loads(answer.body)["error"]) == (404, "Not found")
    assert json.loads(ask(server, "/health").body)["status"] == "ok"
    assert ask(server, "/v1/sessions").status == 401


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/ui", "/"),
        ("/ui/", "/"),
        ("/ui?a=1", "/?a=1"),
        ("/ui/session/a%20b?x=/y", "/session/a%20b?x=/y"),
        ("/ui//evil.com", "/evil.com"),
        ("/ui///evil.com/x", "/evil.com/x"),
        ("/ui/\\evil.com", "/evil.com"),
        ("/ui/%2Fevil.com", "/%2Fevil.com"),
        ("/ui/https://evil.com", "/https://evil.com"),
    ],
)
def test_ui_redirects_to_the_root_and_never_to_another_host(server: Process, path: str, target: str) -> None:
    answer = ask(server, path)
    assert (answer.status, answer.headers["location"]) == (302, target)


def test_with_a_prefix_the_root_is_the_start_page(below_ui: Process) -> None:
    text = '{"serverUrl":"https://happy.example.org","disableAnalytics":false,"note":"\\u003c/script>\\u003c!--\\u2028"'
    element = f'<head data-x="a>b"><script>window.__HAPPY_CONFIG__ = {text},"deep":{{"a":[1,null]}}}};</script><meta'
    for path in ("/ui", "/ui/", "/ui/index.html", "/ui/session/x", "/ui/v1/x"):
        answer = ask(below_ui, path)
        assert (answer.status, element in answer.text, answer.text.endswith(f"{BANNER}\n")) == (200, True, True), path
    assert ask(below_ui, "/", accept="text/plain").text == "Welcome to Happy Server!"
    assert ask(below_ui, "/").text == "Welcome to Happy Server!"
    page = ask(below_ui, "/", accept="text/html").text
    assert "Welcome to Happy Server!" in page and 'href="/ui"' in page and "__HAPPY_CONFIG__" not in page
    for path in ("/session/x", "/index.html", "/manifest.webmanifest", "/uiX", "/_expo/missing.js", "/ui/../secret"):
        assert is_nothing(ask(below_ui, path), path), path


def test_with_a_prefix_absolute_links_of_the_build_work_at_both_paths(below_ui: Process, folder: Path) -> None:
    names = [ENTRY, FONT, ".well-known/assetlinks.json", "favicon.ico", "favicon-active.ico", "canvaskit.wasm",
             "metadata.json"]  # fmt: skip
    for name in names:
        for path in (f"/{name}", f"/ui/{name}"):
            answer = ask(below_ui, path)
            assert (answer.status, answer.body) == (200, (folder / name).read_bytes()), path
            hashed = name.startswith(("_expo", "assets"))
            assert answer.headers["cache-control"] == (FOREVER if hashed else "no-cache")


def test_without_an_index_page_requests_are_404_until_it_exists(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "dist"
    server = start(HAPPY_STATIC_DIR=str(folder))
    for path in ("/", "/index.html", "/session/x"):
        answer = ask(server, path, accept="text/html")
        assert (answer.status, answer.kind) == (404, "text/html") and b"There is nothing here" in answer.body, path
        assert answer.headers["cache-control"] == "no-cache"
    assert is_nothing(ask(server, "/session/x", accept="*/*"), "/session/x")
    assert ask(server, "/", accept="text/plain").text == "Welcome to Happy Server!"
    folder.mkdir()
    (folder / "index.html").write_text(INDEX)
    assert is_app(ask(server, "/session/x"))
    assert server.stop() == 0
    assert [line for line in server.log if str(folder) in line and "index.html" in line]


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (b"<html><HEAD>\n<title>", b"<html><HEAD>#\n<title>"),
        (b"<head lang='>' a=\">\"><script>", b"<head lang='>' a=\">\">#<script>"),
        (b"<!-- <head> --><header></header><head><x>", b"<!-- <head> --><header></header><head>#<x>"),
        (b"<!DOCTYPE html><body>", b"<!DOCTYPE html>#<body>"),
        (b"text", b"#text"),
        (b"", b"#"),
    ],
)
def test_the_configuration_is_inserted_before_all_scripts(page: bytes, expected: bytes) -> None:
    assert with_config(page, b"#") == expected + f"\n{BANNER}\n".encode()

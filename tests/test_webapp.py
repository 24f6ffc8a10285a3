"""The web app: a folder of the shape that the app's web export makes, served at / and at /ui."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from happy_light.ui.webapp import with_config
from tests.conftest import Process

HASH = "3f2a9c0d1b4e5f60718293a4b5c6d7e8"
ENTRY = f"_expo/static/js/web/entry-{HASH}.js"
FONT = f"assets/__node_modules/.pnpm/@expo+icons@15.0.2_a+b@1/node_modules/@expo/icons/Ionicons.{HASH}.ttf"
INDEX = '<!DOCTYPE html><html lang="en"><head data-x="a>b"><meta charset="utf-8"></head><body>app</body></html>'
BANNER = "<!-- Welcome to Happy Server! -->"
INJECTED = '<script>window.__HAPPY_CONFIG__ = {"serverUrl":location.origin,"disableAnalytics":true};</script>'
FOREVER = "public, max-age=31536000, immutable"
NOT_OURS = "file outside of the folder"


def contents() -> dict[str, bytes]:
    """900 files such as `expo export --platform web` makes in a monorepo with pnpm: path -> content."""
    files: dict[str, str | bytes] = {
        "index.html": INDEX,
        ENTRY: "window.entry = 1;" * 50_000,
        f"_expo/static/js/web/module-{HASH}.mjs": "export {};",
        f"_expo/static/js/web/entry-{HASH}.js.map": "{}",
        f"_expo/static/css/web-{HASH}.css": "body{}",
        "_expo/.routes.json": "[]",
        FONT: b"\0\1\0\0 a font",
        "assets/sound.mp3": b"ID3",
        ".well-known/apple-app-site-association": "{}",
        ".well-known/assetlinks.json": "[]",
        "canvaskit.wasm": b"\0asm\1\0\0\0",
        "favicon.ico": b"\0\0\1\0",
        "favicon-active.ico": b"\0\0\1\1",
        "metadata.json": "{}",
        "manifest.webmanifest": "{}",
        "fonts/a.woff2": b"wOF2",
        "picture.svg": "<svg/>",
        "a b/ü@2x+1 %41.png": b"\x89PNG",
    }
    while len(files) < 900:
        number = len(files)
        package = f".pnpm/@scope+package-{number}@1.{number}.0/node_modules/@scope/package"
        files[f"assets/__node_modules/{package}/picture@2x.{HASH}.png"] = b"\x89PNG %d" % number
    return {name: content.encode() if isinstance(content, str) else content for name, content in files.items()}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def kind(self) -> str:
        return self.headers["content-type"].partition(";")[0]


def ask(server: Process, path: str, method: str = "GET", **headers: str) -> Answer:
    """One request with the path as it is here. `accept_encoding="br"` is a header."""
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host="host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web") / "dist"
    for name, content in contents().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def running(folder: Path, data: Path, **environ: str) -> Iterator[Process]:
    process = Process(data, HAPPY_SERVER_UI_DIR=str(folder), **environ)
    yield process
    assert process.stop() == 0
    assert not re.search("Traceback|ResourceWarning", "".join(process.log)), "".join(process.log)


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


def is_app(answer: Answer) -> bool:
    """Whether this is index.html as it has to be answered: never kept, with configuration and banner."""
    expected = INDEX.replace('"a>b">', f'"a>b">{INJECTED}') + f"\n{BANNER}\n"
    return (
        (answer.status, answer.text, answer.kind) == (200, expected, "text/html")
        and answer.headers["cache-control"] == "no-cache"
        and answer.headers["x-content-type-options"] == "nosniff"
        and answer.headers["x-frame-options"] == "SAMEORIGIN"
    )


def is_nothing(answer: Answer, path: str) -> bool:
    return answer.status == 404 and json.loads(answer.body) == {"error": "Not found", "path": path, "method": "GET"}


# ------------------------------------------------------------------------------------------- files
def test_every_one_of_900_files_comes_back_as_it_is(server: Process) -> None:
    files = contents()
    assert len(files) == 900
    del files["index.html"]
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=20)
    for name, content in files.items():
        connection.request("GET", "/" + quote(name, safe="/@+"))
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, content), name
        assert response.getheader("x-content-type-options") == "nosniff"
    connection.close()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (ENTRY, "text/javascript"),
        (f"_expo/static/js/web/module-{HASH}.mjs", "text/javascript"),
        (f"_expo/static/js/web/entry-{HASH}.js.map", "application/json"),
        (f"_expo/static/css/web-{HASH}.css", "text/css"),
        (FONT, "font/ttf"),
        (quote(FONT, safe=""), "font/ttf"),
        ("fonts/a.woff2", "font/woff2"),
        ("canvaskit.wasm", "application/wasm"),
        ("manifest.webmanifest", "application/manifest+json"),
        ("metadata.json", "application/json"),
        (".well-known/apple-app-site-association", "application/json"),
        ("favicon.ico", "image/x-icon"),
        ("picture.svg", "image/svg+xml"),
        ("assets/sound.mp3", "audio/mpeg"),
        ("a%20b/%C3%BC@2x+1%20%2541.png", "image/png"),
    ],
)
def test_types(server: Process, path: str, kind: str) -> None:
    answer = ask(server, f"/{path}")
    assert (answer.status, answer.kind) == (200, kind)


@pytest.mark.parametrize(
    ("path", "kept"),
    [(ENTRY, FOREVER), (FONT, FOREVER), ("_expo/.routes.json", "no-cache"), ("canvaskit.wasm", "no-cache"),
     ("metadata.json", "no-cache"), (".well-known/assetlinks.json", "no-cache")],
)  # fmt: skip
def test_what_has_a_hash_in_its_name_is_kept_for_ever_and_the_rest_asked_for_again(
    server: Process, path: str, kept: str
) -> None:
    answer = ask(server, f"/{path}")
    assert answer.headers["cache-control"] == kept
    again = ask(server, f"/{path}", if_none_match=answer.headers["etag"])
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", answer.headers["etag"])
    assert again.headers["cache-control"] == kept
    assert ask(server, f"/{path}", if_none_match='"other"').status == 200


def test_ranges_and_head(server: Process, folder: Path) -> None:
    content = (folder / ENTRY).read_bytes()
    head = ask(server, f"/{ENTRY}", "HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(content)))
    assert head.headers["accept-ranges"] == "bytes"
    part = ask(server, f"/{ENTRY}", range="bytes=100-299")
    assert (part.status, part.body) == (206, content[100:300])
    assert part.headers["content-range"] == f"bytes 100-299/{len(content)}"
    tail = ask(server, f"/{ENTRY}", range="bytes=-5", if_range=head.headers["etag"])
    assert (tail.status, tail.body) == (206, content[-5:])
    assert ask(server, f"/{ENTRY}", range="bytes=0-1", if_range='"older"').body == content
    assert ask(server, f"/{ENTRY}", range=f"bytes={len(content)}-").status == 416


def test_a_change_on_disk_is_noticed_at_once(server: Process, folder: Path) -> None:
    path = folder / "changing.json"
    assert is_app(ask(server, "/changing.json"))
    path.write_text("1")
    first = ask(server, "/changing.json")
    replacement = folder / "replacement"
    replacement.write_text("2")
    os.utime(replacement, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    replacement.replace(path)
    second = ask(server, "/changing.json", if_none_match=first.headers["etag"])
    assert (first.body, second.status, second.body) == (b"1", 200, b"2")
    path.unlink()
    assert is_app(ask(server, "/changing.json"))


def test_a_compressed_file_beside_it_is_sent_to_who_takes_it(server: Process, folder: Path) -> None:
    (folder / "big.js").write_text("plain " * 100)
    (folder / "big.js.br").write_bytes(b"brotli")
    (folder / "big.js.gz").write_bytes(gzip.compress(b"plain " * 100))
    tags = set()
    for accepted, coding in (
        ("gzip, deflate, br", "br"), ("gzip", "gzip"), ("br;q=0, gzip;q=0.5", "gzip"), ("BR", "br"),
        ("identity", None), ("brotli", None), ("", None), ("*", None),
    ):  # fmt: skip
        answer = ask(server, "/big.js", accept_encoding=accepted)
        assert answer.status == 200
        assert answer.headers.get("content-encoding") == coding, accepted
        assert answer.kind == "text/javascript"
        assert "accept-encoding" in answer.headers["vary"].lower()
        body = {"br": b"brotli", "gzip": (folder / "big.js.gz").read_bytes(), None: b"plain " * 100}[coding]
        assert answer.body == body
        tags.add(answer.headers["etag"])
        known = ask(server, "/big.js", accept_encoding=accepted, if_none_match=answer.headers["etag"])
        assert known.status == 304
        assert "accept-encoding" in known.headers["vary"].lower()
    assert len(tags) == 3
    part = ask(server, "/big.js", accept_encoding="br", range="bytes=0-4")
    assert (part.body, part.headers.get("content-encoding")) == (b"plain", None)
    assert "accept-encoding" not in ask(server, "/canvaskit.wasm", accept_encoding="br").headers.get("vary", "").lower()


def test_a_compressed_file_older_than_its_original_is_not_used(server: Process, folder: Path) -> None:
    (folder / "edited.js").write_text("new")
    (folder / "edited.js.gz").write_bytes(gzip.compress(b"old"))
    os.utime(folder / "edited.js.gz", (1, 1))
    assert ask(server, "/edited.js", accept_encoding="gzip").body == b"new"


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "/assets/../../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/..%5csecret.txt",
     "/assets/..\\..\\secret.txt", "/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/a%00.js", "/C:/secret.txt", "/leak.txt",
     "/leak/secret.txt", "/_expo/../../secret.txt", "/favicon.ico/../../secret.txt"],
)  # fmt: skip
def test_nothing_outside_the_folder_comes_back(server: Process, folder: Path, path: str) -> None:
    (folder.parent / "secret.txt").write_text(NOT_OURS)
    for name, target in (("leak.txt", folder.parent / "secret.txt"), ("leak", folder.parent)):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
    answer = ask(server, path)
    assert NOT_OURS not in answer.text
    assert is_nothing(answer, path), answer


def test_links_inside_the_folder_work_and_no_link_to_a_compressed_file_does(server: Process, folder: Path) -> None:
    (folder / "again.wasm").symlink_to(folder / "canvaskit.wasm")
    assert ask(server, "/again.wasm").body == (folder / "canvaskit.wasm").read_bytes()
    (folder.parent / "other").write_text(NOT_OURS)
    (folder / "plain.css").write_text("plain")
    (folder / "plain.css.br").symlink_to(folder.parent / "other")
    assert ask(server, "/plain.css", accept_encoding="br").body == b"plain"


def test_no_file_of_another_kind_is_opened(server: Process, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert is_app(ask(server, "/pipe"))
    assert is_app(ask(server, "/assets"))
    assert is_app(ask(server, "/" + "x" * 3000))
    assert is_app(ask(server, "/%ff%fe"))
    assert is_app(ask(server, "/canvaskit.wasm/"))


# ----------------------------------------------------------------------------------------- the page
@pytest.mark.parametrize(
    "path",
    ["/", "/?a=1", "/index.html", "/index.html?x", "/terminal/connect", "/settings/account", "/session/c0ffee",
     "/restore", "/assets/missing.png", "/uiX", "/filesystem", "/healthy", "/UI/", "//"],
)  # fmt: skip
def test_index_html_answers_with_configuration_and_banner(server: Process, path: str) -> None:
    answer = ask(server, path, accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert is_app(answer)
    assert ask(server, path, if_none_match=answer.headers["etag"]).status == 304
    head = ask(server, path, "HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(answer.body)))


def test_the_apps_accept_the_server_by_what_get_answers_to_whom_it_may(server: Process) -> None:
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
def test_a_client_that_asks_the_server_gets_no_page(server: Process, path: str) -> None:
    answer = ask(server, path)
    assert (answer.status, answer.kind) == (404, "application/json")
    assert json.loads(answer.body)["error"] == "Not found"


def test_only_get_gets_the_app_and_routes_come_first(server: Process) -> None:
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


def test_below_a_prefix_the_root_stays_the_servers_own(below_ui: Process) -> None:
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


def test_below_a_prefix_what_the_export_links_absolutely_answers_from_both(below_ui: Process, folder: Path) -> None:
    names = [ENTRY, FONT, ".well-known/assetlinks.json", "favicon.ico", "favicon-active.ico", "canvaskit.wasm",
             "metadata.json"]  # fmt: skip
    for name in names:
        for path in (f"/{name}", f"/ui/{name}"):
            answer = ask(below_ui, path)
            assert (answer.status, answer.body) == (200, (folder / name).read_bytes()), path
            hashed = name.startswith(("_expo", "assets"))
            assert answer.headers["cache-control"] == (FOREVER if hashed else "no-cache")


def test_without_an_index_the_answer_says_so_until_there_is_one(start: Callable[..., Process], tmp_path: Path) -> None:
    folder = tmp_path / "dist"
    server = start(HAPPY_STATIC_DIR=str(folder))
    for path in ("/", "/index.html", "/session/x"):
        answer = ask(server, path, accept="text/html")
        assert is_nothing(answer, path)
        assert answer.headers["cache-control"] == "no-cache"
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
def test_the_configuration_stands_before_all_scripts(page: bytes, expected: bytes) -> None:
    assert with_config(page, b"#") == expected + f"\n{BANNER}\n".encode()

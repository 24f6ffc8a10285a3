"""Files of the web app: content, types, caching, compression and nothing outside the folder."""

from __future__ import annotations

import gzip
import http.client
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from tests.conftest import Process
from tests.webapp import ENTRY, FONT, FOREVER, HASH, NOT_OURS, ask, build, contents, is_app, is_nothing, running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("web") / "dist")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    yield from running(folder, tmp_path_factory.mktemp("data"))


def test_900_files_are_returned_unchanged(server: Process) -> None:
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
def test_hashed_files_are_immutable_and_others_are_revalidated(server: Process, path: str, kept: str) -> None:
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


def test_changes_on_disk_take_effect_at_once(server: Process, folder: Path) -> None:
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


def test_a_compressed_file_is_sent_to_clients_that_accept_it(server: Process, folder: Path) -> None:
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
    assert "accept-encoding" not in ask(server, "/fonts/a.woff2", accept_encoding="br").headers.get("vary", "").lower()


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
def test_files_outside_the_folder_are_not_found(server: Process, folder: Path, path: str) -> None:
    (folder.parent / "secret.txt").write_text(NOT_OURS)
    for name, target in (("leak.txt", folder.parent / "secret.txt"), ("leak", folder.parent)):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
    answer = ask(server, path)
    assert NOT_OURS not in answer.text
    assert is_nothing(answer, path), answer


def test_links_inside_the_folder_work_but_not_to_a_compressed_file(server: Process, folder: Path) -> None:
    (folder / "again.wasm").symlink_to(folder / "canvaskit.wasm")
    assert ask(server, "/again.wasm").body == (folder / "canvaskit.wasm").read_bytes()
    (folder.parent / "other").write_text(NOT_OURS)
    (folder / "plain.css").write_text("plain")
    (folder / "plain.css.br").symlink_to(folder.parent / "other")
    assert ask(server, "/plain.css", accept_encoding="br").body == b"plain"


def test_only_regular_files_are_opened(server: Process, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert is_app(ask(server, "/pipe"))
    assert is_app(ask(server, "/assets"))
    assert is_app(ask(server, "/" + "x" * 3000))
    assert is_app(ask(server, "/%ff%fe"))
    assert is_app(ask(server, "/canvaskit.wasm/"))


def test_dot_files_are_served_only_if_the_index_page_names_them(server: Process, folder: Path) -> None:
    for name in (".git/config", ".env", "assets/.git/config", ".routes.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("secret")
        assert ask(server, f"/{name}").status == 404, name
    index = folder / "index.html"
    before = index.read_bytes()
    index.write_bytes(before + b'<script src="/.routes.json"></script>')
    answer = ask(server, "/.routes.json")
    assert (answer.status, answer.body) == (200, b"secret")
    index.write_bytes(before)
    for name in (".git/config", ".env", "assets/.git/config", ".routes.json"):
        (folder / name).unlink()

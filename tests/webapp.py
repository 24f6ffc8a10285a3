"""A web app's folder of the shape that the app's web export makes, servers that serve it, and requests to them."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

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
    """What the server answered."""

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


def build(folder: Path) -> Path:
    """Make such a folder and return it."""
    for name, content in contents().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def running(folder: Path, data: Path, **environ: str) -> Iterator[Process]:
    """Run a server with that web app, and check its log at the end."""
    process = Process(data, HAPPY_SERVER_UI_DIR=str(folder), **environ)
    yield process
    assert process.stop() == 0
    assert not re.search("Traceback|ResourceWarning", "".join(process.log)), "".join(process.log)


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
    """Whether this is the 404 of a path that there is not."""
    return answer.status == 404 and json.loads(answer.body) == {"error": "Not found", "path": path, "method": "GET"}

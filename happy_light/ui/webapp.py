"""The web app: a folder with a build of it, served at / or below a prefix (light.md section 4).

Nothing is remembered between requests, so what changes on disk is noticed at once; the disk is only
touched on other threads.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import stat
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from starlette.responses import Response

from happy_light.blobs import file_response
from happy_light.http import content_types, responses
from happy_light.http.request import Request
from happy_light.ui.web_app_config import INDEX

log = logging.getLogger(__name__)

WELCOME: Final = "Welcome to Happy Server!"
"""The apps accept a custom server by this text."""

_HASHED: Final = ("/_expo/", "/assets/")
"""Folders in which a build's file names carry a hash of what is in them."""
_ABSOLUTE: Final = (*_HASHED, "/.well-known/")
_ABSOLUTE_FILES: Final = ("/favicon.ico", "/favicon-active.ico", "/canvaskit.wasm", "/metadata.json")
_OURS: Final = re.compile(r"/+(v[123]|socket|logs-|(files|health|metrics|openapi\.json|docs|admin)(/|$))")
"""What is the server's own even where it has no such route: a client that asks for it expects no page."""
_CODINGS: Final = (("br", ".br"), ("gzip", ".gz"))
_COPIED: Final = 2_000_000_000  # ns by which a compressed file may be older than its original: cp has no order
_HEAD: Final = re.compile(rb"<!--.*?-->|(<head(?:\s(?:[^>\"']|\"[^\"]*\"|'[^']*')*)?>)", re.IGNORECASE | re.DOTALL)
_DOCTYPE: Final = re.compile(rb"\s*<!doctype[^>]*>", re.IGNORECASE)

_IMMUTABLE: Final = "public, max-age=31536000, immutable"
_REVALIDATE: Final = "no-cache"
_PAGE_HEADERS: Final = {
    # No script-src: the app needs inline scripts and WebAssembly, and talks to servers that users enter.
    "content-security-policy": "base-uri 'self'; object-src 'none'; frame-ancestors 'self'",
    "x-frame-options": "SAMEORIGIN",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": _REVALIDATE,
}


class Outside(Exception):
    """A path that leads out of the folder, or tries to."""


async def answer(request: Request[Any, Any]) -> Response:
    """The answer to a GET that no route of the server's own takes."""
    app = request.context.web_app
    if app.folder is None:
        return responses.not_found(request.scope)
    raw: str = request.scope["raw_path"].decode("ascii")
    if not app.prefix and (raw == "/ui" or raw.startswith("/ui/")):
        return _redirect(raw[3:], request.scope["query_string"])
    path = unquote(raw)
    if path == app.prefix or path.startswith(f"{app.prefix}/"):
        path, page = path[len(app.prefix) :], bool(app.prefix) or _OURS.match(path) is None
    elif path.startswith(_ABSOLUTE) or path in _ABSOLUTE_FILES:
        page = False
    else:
        return _nothing(request)
    return await asyncio.to_thread(_find, app.folder, path, page, request)


def _find(folder: Path, path: str, page: bool, request: Request[Any, Any]) -> Response:
    """The file at a decoded path below the mount; in its absence index.html, if `page`."""
    try:
        file = below(folder, path)
    except Outside:
        return _nothing(request)
    answer = None
    if file is not None and file.name == INDEX:
        answer = _page(file, request)
    elif file is not None:
        answer = _file(file, path, request)
    if answer is None and page:
        try:
            file = below(folder, INDEX)
        except Outside:
            return _nothing(request)
        answer = _page(file, request) if file is not None else None
    return answer or _nothing(request)


def _page(file: Path, request: Request[Any, Any]) -> Response | None:
    """An index.html with the configuration and the welcome text."""
    try:
        body = with_config(file.read_bytes(), request.context.web_app.script)
    except OSError as error:
        log.warning("%s cannot be read: %s", file, error.strerror)
        return None
    headers = {**_PAGE_HEADERS, "etag": f'"{hashlib.sha256(body).hexdigest()[:32]}"'}
    if request.scope["raw_path"] == b"/":
        headers["vary"] = "accept"
    if file_response.is_known(headers["etag"], request.header(b"if-none-match") or ""):
        return Response(None, 304, headers)
    return Response(body, 200, headers, media_type="text/html")


# ------------------------------------------------------------------------------------------- files
def below(folder: Path, path: str) -> Path | None:
    """The regular file at a decoded path below a folder, links followed; None if there is none.

    Raises Outside for a path that leaves the folder, by its text or by a link.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if "\0" in path or "\\" in path or ".." in parts or (parts and re.match("[A-Za-z]:", parts[0])):
        raise Outside
    root = os.path.realpath(folder)
    real = os.path.realpath(os.path.join(root, *parts))  # noqa: PTH118
    if not real.startswith(root.rstrip(os.sep) + os.sep) and real != root:
        raise Outside
    if path.endswith("/"):
        return None
    found = _regular(real)
    return Path(real) if found is not None else None


def _regular(path: str) -> os.stat_result | None:
    """About the file itself, if it is a regular one and no link."""
    try:
        about = os.lstat(path)
    except OSError:
        return None
    return about if stat.S_ISREG(about.st_mode) else None


def _file(file: Path, path: str, request: Request[Any, Any]) -> Response | None:
    """A file as it is, or the compressed one beside it."""
    hashed = path.startswith(_HASHED) and not file.name.startswith(".")
    headers = {"cache-control": _IMMUTABLE if hashed else _REVALIDATE, "referrer-policy": "same-origin"}
    kind = content_types.content_type(path.rpartition("/")[2])
    best = str(file)
    about = _regular(best)
    # A range of a compressed file is of no use to anyone.
    accepted = (request.header(b"accept-encoding") or "") if request.header(b"range") is None else ""
    for coding, suffix in _CODINGS:
        other = _regular(f"{file}{suffix}")
        if other is None or about is None or other.st_mtime_ns < about.st_mtime_ns - _COPIED:
            continue
        headers["vary"] = "accept-encoding"
        if accepts(accepted, coding):
            best = f"{file}{suffix}"
            headers["content-encoding"] = coding
            break
    return file_response.respond(Path(best), kind, headers)


def accepts(header: str, name: str) -> bool:
    """Whether an Accept or Accept-Encoding names this, and not with q=0. Wildcards do not count."""
    for part in header.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        if kind == name:
            return not any(re.fullmatch(r"q=0(\.0*)?", piece) for piece in parameters)
    return False


# ------------------------------------------------------------------------------------------- pages
def with_config(page: bytes, element: bytes) -> bytes:
    """A page with the element right after <head…>, before any script of its own, and the welcome text at its end."""
    place = next((match.end() for match in _HEAD.finditer(page) if match[1]), None)
    if place is None:
        doctype = _DOCTYPE.match(page)
        place = doctype.end() if doctype else 0
    return b"".join((page[:place], element, page[place:], b"\n<!-- ", WELCOME.encode(), b" -->\n"))


def _redirect(path: str, query: bytes) -> Response:
    """To the same place without /ui. Browsers take `//host` and `/\\host` for another host."""
    target = "/" + path.lstrip("/\\")
    if query:
        target += "?" + query.decode("latin-1")
    return Response(None, 302, {"location": target, "cache-control": _REVALIDATE})


def _nothing(request: Request[Any, Any]) -> Response:
    response = responses.not_found(request.scope)
    response.headers["cache-control"] = _REVALIDATE
    return response

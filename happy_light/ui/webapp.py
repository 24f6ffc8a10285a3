"""Serving the web app: a folder with its build, at / or below a prefix (docs/web-app.md).

Nothing is cached between requests, so that a new build is served at once. Files are read on worker threads.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from starlette.responses import Response

from happy_light import compression, content_types, threads
from happy_light.blobs import file_response
from happy_light.http import forwarded
from happy_light.http.request import Request
from happy_light.ui import insecure_bar, not_found
from happy_light.ui.web_app_config import INDEX

log = logging.getLogger(__name__)

WELCOME: Final = "Welcome to Happy Server!"
"""The text by which the apps recognize a server."""

_HASHED_FOLDERS: Final = ("/_expo/", "/assets/")
"""Folders of a build whose file names contain a hash of the content."""
_ABSOLUTE: Final = (*_HASHED_FOLDERS, "/.well-known/")
_ABSOLUTE_FILES: Final = ("/favicon.ico", "/favicon-active.ico", "/canvaskit.wasm", "/metadata.json")
_API_PATHS: Final = re.compile(r"/+(v[123]|socket|logs-|(files|health|metrics|openapi\.json|docs|admin)(/|$))")
"""Paths of the API, with or without such a route: their clients do not expect a page."""
_COPY_TOLERANCE: Final = 2_000_000_000
"""ns that a compressed file may be older than its original: copying a build keeps no order."""
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


class OutsideError(Exception):
    """The path leads out of the folder."""


async def answer(request: Request[Any, Any]) -> Response:
    """Return a file of the web app, its index page, or 404."""
    app = request.context.web_app
    if app.folder is None:
        return not_found.answer(request)
    raw: str = request.scope["raw_path"].decode("ascii")
    if not app.prefix and (raw == "/ui" or raw.startswith("/ui/")):
        return _redirect(raw[3:], request.scope["query_string"])
    path = unquote(raw)
    if path == app.prefix or path.startswith(f"{app.prefix}/"):
        page = bool(app.prefix) or _API_PATHS.match(path) is None
        path = path[len(app.prefix) :]
        # A tab of an older build that asks for a script which is gone must not get a page instead.
        page = page and not path.startswith(_ABSOLUTE)
    elif path.startswith(_ABSOLUTE) or path in _ABSOLUTE_FILES:
        page = False
    else:
        return not_found.answer(request)
    return await threads.run(_respond, app.folder, path, page, request)


def _respond(folder: Path, path: str, page: bool, request: Request[Any, Any]) -> Response:
    """Return the file at a decoded path in the folder; if there is none and `page` is set, the index page."""
    try:
        file = below(folder, path)
    except OutsideError:
        return not_found.answer(request)
    if file is not None and _is_hidden(path) and not _is_linked(folder, path):
        return not_found.answer(request)
    answer = None
    if file is not None and file.name == INDEX:
        answer = _page(file, request)
    elif file is not None:
        answer = _file(file, path, request)
    if answer is None and page:
        try:
            file = below(folder, INDEX)
        except OutsideError:
            return not_found.answer(request)
        answer = _page(file, request) if file is not None else None
    return answer or not_found.answer(request)


def _is_hidden(path: str) -> bool:
    """Whether a decoded path leads to or through a dot file that a build does not mean to publish.

    Scripts name files below the folders of a build, also dot files (assets/node_modules/.pnpm/…); .git is never one.
    """
    parts = [part for part in path.split("/") if part.startswith(".") and part not in (".", ".well-known")]
    return any(part.startswith(".git") for part in parts) or (bool(parts) and not path.startswith(_HASHED_FOLDERS))


def _is_linked(folder: Path, path: str) -> bool:
    """Whether the index page names the path."""
    try:
        return path.strip("/").encode() in (folder / INDEX).read_bytes()
    except OSError:
        return False


def _page(file: Path, request: Request[Any, Any]) -> Response | None:
    """Return an index page with the configuration and the welcome text in it; None if it cannot be read."""
    try:
        settings = request.context.settings
        bar = insecure_bar.element(forwarded.requested_url(settings, request.scope), settings.public_url)
        body = with_config(file.read_bytes(), request.context.web_app.script + bar)
    except OSError as error:
        log.warning("%s cannot be read: %s", file, error.strerror)
        return None
    headers = {**_PAGE_HEADERS, "vary": "accept-encoding"}
    if request.scope["raw_path"] == b"/":
        headers["vary"] = "accept, accept-encoding"
    if len(body) >= compression.MIN and compression.accepts(request.header(b"accept-encoding"), "gzip"):
        body = compression.quickly(body)
        headers["content-encoding"] = "gzip"
    headers["etag"] = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    if file_response.is_known(headers["etag"], request.header(b"if-none-match") or ""):
        return Response(None, 304, headers)
    return Response(body, 200, headers, media_type="text/html")


# ------------------------------------------------------------------------------------------- files
def below(folder: Path, path: str) -> Path | None:
    """Return the regular file at a decoded path in a folder, links resolved; None if there is none.

    Raises OutsideError for a path that leads out of the folder, by `..` or by a link.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if "\0" in path or "\\" in path or ".." in parts or (parts and re.match("[A-Za-z]:", parts[0])):
        raise OutsideError
    root = os.path.realpath(folder)
    real = os.path.realpath(os.path.join(root, *parts))  # noqa: PTH118
    if not real.startswith(root.rstrip(os.sep) + os.sep) and real != root:
        raise OutsideError
    if path.endswith("/"):
        return None
    found = _regular(real)
    return Path(real) if found is not None else None


def _regular(path: str) -> os.stat_result | None:
    """Return the status of a regular file; None for anything else, links included."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _file(file: Path, path: str, request: Request[Any, Any]) -> Response | None:
    """Return a file, or if the client accepts that the compressed one beside it or in the data folder."""
    hashed = path.startswith(_HASHED_FOLDERS) and not file.name.startswith(".")
    headers = {"cache-control": _IMMUTABLE if hashed else _REVALIDATE, "referrer-policy": "same-origin"}
    kind = content_types.content_type(path.rpartition("/")[2])
    status = _regular(str(file))
    # A range is one of the uncompressed file.
    accepted = request.header(b"accept-encoding") if request.header(b"range") is None else None
    made = request.context.web_app.compressed if compression.is_compressible(kind) else None
    if made is not None:
        headers["vary"] = "accept-encoding"
    for coding, suffix in compression.SUFFIXES.items():
        if status is None:
            break
        accepts = compression.accepts(accepted, coding)
        copy = Path(f"{file}{suffix}")
        other = _regular(str(copy))
        if other is not None and other.st_mtime_ns >= status.st_mtime_ns - _COPY_TOLERANCE:
            headers["vary"] = "accept-encoding"
        elif made is not None and accepts and (found := made.find(file, status, coding)):
            copy = found
        else:
            continue
        if accepts:
            return file_response.respond(copy, kind, {**headers, "content-encoding": coding})
    return file_response.respond(file, kind, headers)


# ------------------------------------------------------------------------------------------- pages
def with_config(page: bytes, element: bytes) -> bytes:
    """Return the page with the element right after <head>, before its own scripts, and the welcome text at its end."""
    place = next((match.end() for match in _HEAD.finditer(page) if match[1]), None)
    if place is None:
        doctype = _DOCTYPE.match(page)
        place = doctype.end() if doctype else 0
    return b"".join((page[:place], element, page[place:], b"\n<!-- ", WELCOME.encode(), b" -->\n"))


def _redirect(path: str, query: bytes) -> Response:
    """Redirect to the path without /ui. Leading slashes are reduced to one, since browsers read `//host` as a host."""
    target = "/" + path.lstrip("/\\")
    if query:
        target += "?" + query.decode("latin-1")
    return Response(None, 302, {"location": target, "cache-control": _REVALIDATE})

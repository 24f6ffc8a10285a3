"""The answer to an unknown path: a page for browsers, JSON for other clients."""

from __future__ import annotations

import html
from typing import Any

from starlette.responses import Response

from happy_light.compression import accepts
from happy_light.http import responses
from happy_light.http.request import Request
from happy_light.ui import look

_BODY = """<h1>There is nothing here</h1>
<p class="lead">This server has no page at <code>{path}</code>.</p>
<p>The <a href="/">start page</a> says how to connect a phone, a browser or a terminal, and
<a href="/docs">the description of the API</a> lists every path.</p>"""
_PATH_MAX = 200  # characters of the path that are shown


def answer(request: Request[Any, Any]) -> Response:
    """Return 404, as a page if a browser asks for one."""
    response = responses.not_found(request.scope)
    if accepts(request.header(b"accept"), "text/html"):
        path = request.scope["raw_path"].decode("ascii")[:_PATH_MAX]
        page = look.page("Not found", _BODY.format(path=html.escape(path)))
        response = Response(page, 404, look.headers(), media_type="text/html")
    response.headers.update({"cache-control": "no-cache", "vary": "accept"})
    return response


def favicon() -> Response:
    """Return the icon of the server's own pages, for browsers that look for it at /favicon.ico."""
    return Response(look.ICON, headers={"cache-control": "max-age=86400"}, media_type="image/svg+xml")

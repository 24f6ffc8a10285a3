"""What the server shows to whoever opens it: a first page of its own, or the web app.

GET  /       public; a page for browsers, the welcome text for everyone else
GET  /*      public; with a web app, everything that is no other route
"""

from __future__ import annotations

from typing import Annotated, Any

from starlette.responses import PlainTextResponse, Response

from happy_light.context import ServerContext
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.ui import page, webapp
from happy_light.ui.webapp import WELCOME, accepts


async def root(request: Request[None, None]) -> Response:
    app = request.context.web_app
    accept = request.header(b"accept") or ""
    browser = accepts(accept, "text/html")
    if app.at_root and (browser or not accepts(accept, "text/plain")):
        return await webapp.answer(request)
    if browser:
        return await page.answer(request)
    return PlainTextResponse(WELCOME, headers={"vary": "accept"})


async def anything(request: Request[Any, Any]) -> Response:
    return await webapp.answer(request)


def fallback(context: ServerContext) -> Route | None:
    """Where requests go that are for no other route; None without a web app."""
    if context.web_app.folder is None:
        return None
    return Route("GET", "/*", anything, answer=bytes, public=True)


routes = [Route("GET", "/", root, answer=Annotated[str, "text/plain", "text/html"], public=True)]

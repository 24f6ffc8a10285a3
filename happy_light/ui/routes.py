"""The root of the server: a start page for browsers, or the web app (docs/web-app.md).

GET  /       get the start page or the web app; other clients than browsers get the welcome text
GET  /*      get a file of the web app, if one is configured, for every path that is not another route
"""

from __future__ import annotations

from typing import Annotated, Any

from starlette.responses import PlainTextResponse, Response

from happy_light.context import ServerContext
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.ui import page, webapp
from happy_light.ui.webapp import WELCOME, accepts


async def get_root(request: Request[None, None]) -> Response:
    """Return the web app or the start page to browsers, and the welcome text to other clients."""
    app = request.context.web_app
    accept = request.header(b"accept") or ""
    browser = accepts(accept, "text/html")
    if app.at_root and (browser or not accepts(accept, "text/plain")):
        return await webapp.answer(request)
    if browser:
        return await page.answer(request)
    return PlainTextResponse(WELCOME, headers={"vary": "accept"})


async def get_web_app(request: Request[Any, Any]) -> Response:
    """Return a file of the web app."""
    return await webapp.answer(request)


def fallback(context: ServerContext) -> Route | None:
    """Return the route of all paths that are not another route, or None if no web app is configured."""
    if context.web_app.folder is None:
        return None
    return Route("GET", "/*", get_web_app, answer=bytes, public=True)


routes = [Route("GET", "/", get_root, answer=Annotated[str, "text/plain", "text/html"], public=True)]

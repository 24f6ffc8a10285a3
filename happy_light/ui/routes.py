"""Pages: a start page for browsers, or the web app (docs/web-app.md).

GET  /       get the start page or the web app; other clients than browsers get the welcome text
GET  /*      get a file of the web app, if one is configured, or 404, for every path that is not another route
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from starlette.responses import PlainTextResponse, Response

from happy_light.compression import accepts
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.ui import not_found, page, webapp
from happy_light.ui.webapp import WELCOME


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


async def get_other(request: Request[Any, Any]) -> Response:
    """Return a file of the web app, the icon, or 404."""
    response = await webapp.answer(request)
    if response.status_code == 404 and request.scope["raw_path"] == b"/favicon.ico":
        return not_found.favicon()
    return response


FALLBACK: Final = Route("GET", "/*", get_other, answer=bytes, public=True)
"""The route of all paths that are not another route."""
routes = [Route("GET", "/", get_root, answer=Annotated[str, "text/plain", "text/html"], public=True)]

"""What the server shows to whoever opens it: a first page of its own, or the web app.

GET  /       public; a page for browsers, the welcome text for everyone else
GET  /*      public; with a web app, everything that is no other route
"""

from __future__ import annotations

from typing import Annotated, Any

from starlette.responses import PlainTextResponse, Response

from happy_light.house import House
from happy_light.ui import page
from happy_light.ui.webapp import WELCOME, WebApp, accepts
from happy_light.web import Call, Route


async def root(call: Call[None, None]) -> Response:
    app = call.house.get(WebApp)
    accept = call.header(b"accept") or ""
    browser = accepts(accept, "text/html")
    if app.at_root and (browser or not accepts(accept, "text/plain")):
        return await app.answer(call)
    if browser:
        return await page.answer(call)
    return PlainTextResponse(WELCOME, headers={"vary": "accept"})


async def anything(call: Call[Any, Any]) -> Response:
    return await call.house.get(WebApp).answer(call)


def fallback(house: House) -> Route | None:
    """Where requests go that are for no other route; None without a web app."""
    if house.get(WebApp).folder is None:
        return None
    return Route("GET", "/*", anything, answer=bytes, public=True)


routes = [Route("GET", "/", root, answer=Annotated[str, "text/plain", "text/html"], public=True)]
